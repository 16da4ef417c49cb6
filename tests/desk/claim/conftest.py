"""Past photos of tins, new ones, and a desk that is made once a file."""

import pytest

from tests.support.tin_photos import save_photos
from vae_ldm.desk.claim.claim import build_desk


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    save_photos(folder / "past" / "good", 12, seed=0)
    save_photos(folder / "past" / "bent", 8, seed=3)
    save_photos(folder / "new" / "good", 2, seed=1)
    save_photos(folder / "new" / "scratched", 1, seed=2, blemish=(26, 38))
    return folder


@pytest.fixture(scope="module")
def desk(photos, trained_once, tiny_backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("desks") / "tins"
    build_desk(folder, photos / "past", model=str(trained_once.path), features="latents", backbone=tiny_backbone)
    return folder


@pytest.fixture
def build(trained_run, tiny_backbone, tmp_path):
    """Builds a desk of the test's own by the trained run and the tiny backbone."""

    def build_of(past, **settings):
        options = {"model": str(trained_run.path), "features": "latents", "backbone": tiny_backbone, **settings}
        build_desk(tmp_path / "desk", past, **options)
        return tmp_path / "desk"

    return build_of
