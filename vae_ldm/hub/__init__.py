"""Weights from and to the Hub. Nothing else speaks to it in words of our own; no torch in here."""

from vae_ldm.hub.download import cached, download, download_recipe, pull
from vae_ldm.hub.upload import Pushed, check_access, check_token, licenses_of, upload

__all__ = [
    "Pushed",
    "cached",
    "check_access",
    "check_token",
    "download",
    "download_recipe",
    "licenses_of",
    "pull",
    "upload",
]
