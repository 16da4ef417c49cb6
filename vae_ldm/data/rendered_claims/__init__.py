"""Rendered claims: small product photos drawn by code, so that all runs before a user has photos of their own."""

from vae_ldm.data.rendered_claims.scene import CLASS_NAMES, RenderedClaim, render_claim

__all__ = ["CLASS_NAMES", "RenderedClaim", "render_claim"]
