"""Photos of tins, a tiny backbone, and a detector that is fitted once."""

import csv
import shutil

import pytest

from tests.support.tin_photos import save_photos
from vae_ldm.desk.novelty.fit import fit
from vae_ldm.desk.novelty.observer import PhotoObserver


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """24 good photos to fit on; others to judge, some of them scratched."""
    folder = tmp_path_factory.mktemp("photos")
    save_photos(folder / "train" / "good", 24, seed=0)
    save_photos(folder / "validation" / "good", 12, seed=1)
    save_photos(folder / "validation" / "scratched", 6, seed=2, blemish=(26, 38))
    return folder


@pytest.fixture(scope="session")
def detector(photos, tiny_backbone, tmp_path_factory):
    """Fitted on the 24. Copy it before changing anything in it."""
    out = tmp_path_factory.mktemp("detectors") / "detector"
    fit(photos / "train", out=out, backbone=tiny_backbone)
    return out


@pytest.fixture
def fitted(photos, detector, tiny_backbone, tmp_path):
    """Fits the detector again in a place of the test's own, which takes a second because it looks at nothing."""

    def fit_again(name="detector", **settings):
        out = tmp_path / name
        if not out.exists():
            shutil.copytree(detector, out)
        fit(photos / "train", **{"out": out, "backbone": tiny_backbone, **settings})
        return out

    return fit_again


@pytest.fixture
def few(tiny_backbone, tmp_path):
    """Fits a detector on a few photos of the test's own."""

    def fit_on(folder, **settings):
        fit(folder, **{"out": tmp_path / "few", "backbone": tiny_backbone, **settings})
        return tmp_path / "few"

    return fit_on


@pytest.fixture
def no_looking_after(monkeypatch):
    """After this call whoever looks at a photo fails."""
    return lambda: monkeypatch.setattr(PhotoObserver, "__call__", lambda *_: pytest.fail("looked at photos"))


@pytest.fixture
def read_table():
    """The rows of a table of scores."""

    def read(file):
        with file.open(newline="") as stream:
            return list(csv.DictReader(stream))

    return read
