import numpy as np
import pytest
from PIL import Image

from vae_ldm.errors import VaeLdmError
from vae_ldm.lesson.autoencoder import principal_components
from vae_ldm.lesson.story import BETAS, tell


@pytest.mark.slow
def test_it_says_what_the_page_and_the_pictures_teach(told, material):
    plain, *vaes = told.judgements
    by_beta = {judgement.beta: judgement for judgement in vaes}
    assert tuple(by_beta) == BETAS
    best = by_beta[0.1]

    assert best.prior.real > 0.8
    assert plain.prior.real < 0.7
    assert plain.fitted.real < 0.7, "the right scale alone does not close the holes"
    assert abs(best.prior.real - best.fitted.real) < 0.05, "its prior is true"
    assert best.reconstruction > plain.reconstruction

    errors, nats = ([getattr(judgement, name) for judgement in vaes] for name in ("reconstruction", "kl"))
    assert errors == sorted(errors)
    assert nats == sorted(nats, reverse=True)
    assert [judgement.num_active for judgement in vaes] == [2, 2, 2, 1, 0]
    assert by_beta[4].prior.real < 0.05

    variances = principal_components(material.train.pixels)[1]
    for judgement in vaes:
        assert judgement.num_active == (variances > judgement.beta / 2).sum(), "the linear rule of section 5"


@pytest.mark.slow
def test_it_prints_lines_for_a_terminal_and_numbers_for_every_step(told):
    text = "\n".join(told.lines)
    assert max(len(line) for line in told.lines if str(told.folder) not in line) <= 88
    assert text.isascii()
    assert "nan" not in text
    for chapter in (
        "1. PATCHES",
        "2. GRADIENTS",
        "3. THE AUTO",
        "4. THE VAE",
        "5. BETA",
        "6. ONE LATENT",
        "7. HOW",
        "THE FOUR",
    ):
        assert f"\n{chapter}" in f"\n{text}"
    assert "fewer holes and blurs patches a little" in text
    error = float(next(line for line in told.lines if "Relative error:" in line).rsplit(maxsplit=1)[1])
    assert error < 1e-6


@pytest.mark.slow
def test_it_draws_four_pictures(told):
    pictures = sorted(told.folder.iterdir())
    assert [path.stem for path in pictures] == [
        "1-latent-space", "2-decoded-prior", "3-beta-trade-off", "4-what-each-latent-changes",
    ]  # fmt: skip
    for path in pictures:
        assert str(path) in told.lines[-4 + pictures.index(path)]
        with Image.open(path) as picture:
            assert picture.width > 1000
            assert np.asarray(picture).std() > 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("beta", "moral"),
    [(4.0, "the posterior has collapsed"), (0.05, "blurs patches a little"), (0.0, "do not look better")],
)
def test_any_beta_can_be_followed(beta, moral, tmp_path):
    lines: list[str] = []
    judgements = tell(lines.append, beta=beta, output_dir=tmp_path / "new" / "folder", num_steps=250)
    assert [judgement.beta for judgement in judgements] == [None, *sorted({*BETAS, beta})]
    text = "\n".join(lines)
    assert f"squared error + {beta:g} KL with" in text
    assert moral in text
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 4


@pytest.mark.parametrize("beta", [-0.1, 1e300, float("nan"), float("inf")])
def test_a_beta_that_is_no_weight_is_refused_before_anything_is_written(beta, tmp_path):
    with pytest.raises(VaeLdmError, match="give a number from 0 to 1000"):
        tell(print, beta=beta, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()
