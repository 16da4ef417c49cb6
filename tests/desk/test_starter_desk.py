"""What the verbs of the desk do without a model: they take the starter, and say so."""

import hashlib
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from tests.support.small_networks import save_autoencoder
from tests.support.starters import save_starter
from tests.support.tin_photos import save_photos
from vae_ldm import starter
from vae_ldm.cli import app
from vae_ldm.desk.archive import add as archive_add
from vae_ldm.desk.archive.reading import extract
from vae_ldm.desk.archive.report import report
from vae_ldm.desk.archive.store import open_archive
from vae_ldm.desk.claim.claim import build_desk
from vae_ldm.desk.compare.compare import compare
from vae_ldm.desk.search.build import add_photos, build_index
from vae_ldm.desk.search.index import check_encoder, open_index
from vae_ldm.errors import VaeLdmError, WeightsError

TAKEN = "no model is named, so the starter that comes with vae_ldm is taken"
OTHER = "by the starter of another version of vae_ldm, which has other weights; install the version of vae_ldm that it "


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return save_photos(tmp_path_factory.mktemp("photos") / "good", 9, seed=0).parent


@pytest.fixture
def small(tmp_path, monkeypatch, photos):
    """A small starter in the place of the package's, which has learned from two of the photos."""
    learned = [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(photos.rglob("*.png"))[:2]]
    monkeypatch.setattr(starter, "STARTER_FOLDER", save_starter(tmp_path / "package", learned=learned, psnr=80.0))
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return starter.STARTER_FOLDER


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A call goes to a folder in which another model has the starter's name."""

    def go():
        save_autoencoder(tmp_path / "there" / "starter")
        monkeypatch.chdir(tmp_path / "there")

    return go


@pytest.fixture
def upgrade(tmp_path, monkeypatch):
    """A call installs a starter of other weights."""

    def install():
        monkeypatch.setattr(starter, "STARTER_FOLDER", save_starter(tmp_path / "newer", seed=1))

    return install


def test_an_index_is_built_without_a_model_and_opens_from_any_folder(small, photos, tmp_path, elsewhere, capsys):
    index = tmp_path / "index"
    build_index(index, photos, kind="latents")
    said = capsys.readouterr().err
    assert said.count(TAKEN) == 1
    assert "dB and its own validation photos at 80.0 dB" in said
    assert json.loads((index / "index.json").read_text())["model"] == "starter"
    elsewhere()
    (hits,) = open_index(index).query(photos / "good" / "000.png", k=3)
    assert hits[0].same_photo
    add_photos(index, photos)
    with pytest.raises(WeightsError, match=r"index: was built with another model than \./starter \(another auto"):
        open_index(index, model="starter")  # which is the folder of that name
    build_index(index, photos, kind="latents")
    assert "index: goes on with its own model, starter" in capsys.readouterr().err


def test_an_index_of_another_model_goes_on_with_that(small, photos, tmp_path, capsys):
    save_autoencoder(tmp_path / "own")
    build_index(tmp_path / "index", photos / "good" / "000.png", model=str(tmp_path / "own"), kind="latents")
    index = build_index(tmp_path / "index", photos, kind="latents")
    assert len(index) == 9
    said = capsys.readouterr().err
    assert f"index: goes on with its own model, {tmp_path / 'own'}" in said
    assert TAKEN not in said


def test_a_folder_called_starter_is_stored_as_a_path(small, photos, tmp_path, elsewhere):
    elsewhere()
    build_index(tmp_path / "index", photos, model="starter", kind="latents")
    assert json.loads((tmp_path / "index" / "index.json").read_text())["model"] == str(tmp_path / "there" / "starter")
    archive_add.add(tmp_path / "archive", photos, model="starter", target_psnr=10, prefer="latents")
    assert open_archive(tmp_path / "archive").settings.model == "./starter"
    assert extract(tmp_path / "archive", out=tmp_path / "out") == 9


def test_after_an_upgrade_to_other_weights_one_line_says_what_to_do(small, photos, tmp_path, upgrade):
    build_index(tmp_path / "index", photos, kind="latents")
    archive_add.add(tmp_path / "archive", photos, target_psnr=10, prefer="latents")
    upgrade()
    with pytest.raises(WeightsError, match=f"index: was built {OTHER}was made with, or build the index anew$"):
        open_index(tmp_path / "index")
    for ask in (
        lambda: archive_add.add(tmp_path / "archive", photos),
        lambda: extract(tmp_path / "archive", out=tmp_path / "out"),
    ):
        with pytest.raises(VaeLdmError, match=f"archive: its latents were made {OTHER}was made with, or make a new a"):
            ask()


def test_another_backbone_is_not_told_as_another_starter(small, photos, tmp_path):
    index = build_index(tmp_path / "index", photos / "good" / "000.png", kind="latents")
    facts = replace(index.store.facts, encoder={**index.store.facts.encoder, "backbone": "another"})
    with pytest.raises(WeightsError, match=r"was built with another model than starter \(another backbone\)"):
        check_encoder(SimpleNamespace(name="index", facts=facts), index.encoder)


def test_an_archive_is_made_without_a_model_and_gives_its_photos_back(small, photos, tmp_path, elsewhere, capsys):
    archive_add.add(tmp_path / "archive", photos, target_psnr=10, prefer="latents")
    assert capsys.readouterr().err.count(TAKEN) == 1
    settings = open_archive(tmp_path / "archive").settings
    assert (settings.model, settings.downsample_factor) == ("starter", 8)
    elsewhere()
    added = archive_add.add(tmp_path / "archive", photos)
    assert (added.num_added, added.num_present) == (0, 9)
    assert "archive: goes on with its own model, starter" in capsys.readouterr().err
    assert extract(tmp_path / "archive", out=tmp_path / "out") == 9


def test_what_measures_says_which_photos_the_starter_has_learned_from(small, photos, tmp_path, capsys):
    learned = "2 of 9 photos are among those that the starter has learned from, so its figures are better here than on"
    (result,) = compare(photos, side=32, out=tmp_path / "comparison.html")
    assert (result.name, result.latent_shape) == ("starter", (16, 4, 4))
    said = capsys.readouterr().err
    assert TAKEN in said
    assert learned in said
    page = (tmp_path / "comparison.html").read_text()
    assert learned in page
    assert str(small) not in page
    report(photos, num_photos=4, out=tmp_path / "archive.html")
    assert "are among those that the starter" not in capsys.readouterr().err.replace("1 of 4 photos is one", "")
    page = (tmp_path / "archive.html").read_text()
    assert " · autoencoder starter · " in page
    assert "1 of 4 photos is one that the starter has learned from" in page
    save_autoencoder(tmp_path / "own")
    compare(photos, [str(tmp_path / "own")], side=32, num_photos=2, out=tmp_path / "other.html")
    assert "has learned from" not in capsys.readouterr().err + (tmp_path / "other.html").read_text()


def test_a_claim_at_a_desk_of_the_starter_has_no_variations_and_the_page_says_why(
    small, photos, tiny_backbone, tmp_path, elsewhere
):
    build_desk(tmp_path / "desk", photos, features="latents", backbone=tiny_backbone, false_alarm_rate=0.2)
    elsewhere()
    called = ["claim", str(photos / "good" / "003.png"), "--desk", str(tmp_path / "desk")]
    result = CliRunner().invoke(app, called)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "there" / "claim.html").read_text()
    assert "The starter is an autoencoder, and holds no diffusion model to draw with. For variations train one" in page
    assert "the autoencoder is that of starter." in page
    assert "dB and its own validation photos at 80.0 dB" in page


def test_the_verbs_need_no_model(small, photos, tiny_backbone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (
        f"desk desk {photos} --features latents --backbone {tiny_backbone} --false-alarm-rate 0.2",
        f"desk desk {photos} --features latents --backbone {tiny_backbone} --false-alarm-rate 0.2",
        f"index build index {photos} --features latents",
        f"archive add archive {photos} --target-psnr 10",
    ):
        result = CliRunner().invoke(app, command.split())
        assert result.exit_code == 0, result.output
    wrong = CliRunner().invoke(app, ["index", "build", "i", str(photos), "--model", "startr"])
    assert wrong.exit_code == 2
    assert "startr: no such folder; did you mean starter?" in wrong.output


@pytest.mark.parametrize(
    "command",
    [
        "generate starter prompt",
        "walk PHOTO --model starter",
        "morph PHOTO PHOTO --model starter",
        "grid PHOTO --model starter",
        "augment PHOTOS --model starter",
    ],
)
def test_a_verb_that_draws_says_what_to_train(small, photos, command):
    places = {"PHOTO": str(photos / "good" / "000.png"), "PHOTOS": str(photos)}
    result = CliRunner().invoke(app, [places.get(word, word) for word in command.split()])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "starter: is an autoencoder, and holds no diffusion model to draw with; train one" in result.output
