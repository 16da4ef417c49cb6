"""A photo put before a desk."""

from vae_ldm.desk.claim.claim import claim
from vae_ldm.paths import new_place


def put_before(photo, desk, out, **settings):
    with new_place(None, str(out)) as page:
        verdict = claim(photo, desk, out=page, num_variations=2, **settings)
    return verdict, page.read_text(encoding="utf-8")
