"""Photos and vectors without any pictures, and what an index says of them."""

import pytest
import torch

from vae_ldm.desk.search.store import IndexedPhoto, IndexFacts
from vae_ldm.latent_space.features import FeatureSpace

FACTS = IndexFacts("runs/x", "latents", None, "latents", {"autoencoder": "abc", "image_size": [32, 32]})


@pytest.fixture(scope="session")
def facts():
    return FACTS


@pytest.fixture(scope="session")
def space():
    raw = torch.randn(200, 12, generator=torch.Generator().manual_seed(0))
    return FeatureSpace.fit("latents", {"latents": raw})


@pytest.fixture(scope="session")
def vectors(space):
    """[60, 12], of unit length."""
    return space({"latents": torch.randn(60, 12, generator=torch.Generator().manual_seed(1))})


@pytest.fixture(scope="session")
def photos():
    """60 of them; captions hold whatever people write."""
    captions = [
        None,
        "a dent",
        "x'); DROP TABLE vae_ldm_indexes; --",
        'say "%s" \\ {table}',
        "Beule, 3 €\n\ttief",
        "nul \0",
    ]
    return [
        IndexedPhoto(
            f"../{n}/é {n}.jpg", f"/photos/{n}.jpg", f"class {n % 3}", captions[n % len(captions)], f"{n:064x}"
        )
        for n in range(60)
    ]
