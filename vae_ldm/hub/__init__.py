"""Weights from and to the Hub. Nothing else speaks to it in words of our own; no torch in here."""

from vae_ldm.hub.download import download, download_recipe

__all__ = ["download", "download_recipe"]
