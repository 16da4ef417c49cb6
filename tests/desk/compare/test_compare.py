import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.run.start_points import FLUX, SD, save_autoencoder
from vae_ldm.desk.compare.compare import compare
from vae_ldm.errors import DataError, VaeLdmError, WeightsError
from vae_ldm.evaluation.distribution import MIN_IMAGES


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 256, (6, 5, 3), np.uint8)
        Image.fromarray(pixels).resize((40, 48)).save(folder / f"{number}.jpg")
    return folder


def test_runs_folders_and_layouts_beside_each_other(photos, tmp_path, trained_run, capsys):
    save_autoencoder(tmp_path / "sd", **SD)
    save_autoencoder(tmp_path / "flux", **FLUX)
    sources = [str(trained_run.path), str(tmp_path / "sd"), str(tmp_path / "flux")]
    results = compare(photos, sources, out=tmp_path / "page.html", num_photos=2)
    assert [result.name for result in results] == sources
    assert [result.latent_shape for result in results] == [(4, 10, 10), (4, 5, 5), (16, 5, 5)]
    assert {result.pictures.shape for result in results} == {(2, 40, 40, 3)}
    assert torch.isfinite(torch.stack([result.psnr for result in results])).all()
    printed = capsys.readouterr().out
    assert all(source in printed for source in sources)
    assert printed.count("JPEG") == 3
    assert printed.splitlines()[-1] == str(tmp_path / "page.html")
    assert printed.splitlines()[-2].startswith("On 2 photos of 40 px, ")
    page = (tmp_path / "page.html").read_text()
    assert page.count("Worst crops of") == 3


def test_grey_autoencoders_are_compared_on_grey_photos(photos, tmp_path):
    save_autoencoder(tmp_path / "grey", in_channels=1, out_channels=1)
    (result,) = compare(photos, [str(tmp_path / "grey")], out=tmp_path / "page.html", side=16)
    assert result.pictures.shape == (3, 16, 16, 1)


def test_wrong_calls_are_one_line_before_anything_is_measured(photos, tmp_path):
    save_autoencoder(tmp_path / "sd", **SD)
    save_autoencoder(tmp_path / "grey", in_channels=1, out_channels=1)
    save_autoencoder(tmp_path / "alpha", in_channels=4, out_channels=4)
    colour, grey, alpha = (str(tmp_path / name) for name in ("sd", "grey", "alpha"))
    page = tmp_path / "page.html"
    cases = [
        ([colour, colour], {}, VaeLdmError, "named twice"),
        ([colour, grey], {}, VaeLdmError, "sd takes 3, .*grey takes 1"),
        ([alpha], {}, VaeLdmError, "of 4 channels"),
        ([str(tmp_path / "absent")], {}, WeightsError, "no such folder"),
        ([colour], {"side": 20}, DataError, "nearest that is: 16"),
        ([colour], {"out": tmp_path / "absent" / "page.html"}, VaeLdmError, "absent: no such folder"),
    ]
    for sources, settings, error, message in cases:
        with pytest.raises(error, match=message) as caught:
            compare(photos, sources, **{"out": page, **settings})
        assert "\n" not in str(caught.value)
    assert not page.exists()


def test_a_distance_that_takes_more_photos_has_no_column(photos, tmp_path, capsys):
    save_autoencoder(tmp_path / "sd", **SD)
    for number in range(3, MIN_IMAGES):
        shutil.copy(photos / "0.jpg", photos / f"{number}.jpg")
    for number, has_it in ((MIN_IMAGES - 1, False), (MIN_IMAGES, True)):
        page = tmp_path / f"{number}.html"
        compare(photos, [str(tmp_path / "sd")], out=page, num_photos=number)
        printed = capsys.readouterr().out
        (said,) = (line for line in printed.splitlines() if line.startswith("measured with "))
        assert ("fd_" in said, "FD" in printed.splitlines()[0].split()) == (has_it, has_it)
        words = re.sub('base64,[^"]+', "", page.read_text())
        assert ("Fréchet" in words, "fd_" in words, 'data-label="fd_' in words) == (has_it,) * 3
