"""A run that begins with the autoencoder of the package: trained on, kept as it is, pushed, gone on with."""

import shutil

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from tests.support.small_networks import save_autoencoder
from tests.support.starters import SIDE, save_starter
from tests.support.stopping import Stop, stop_once
from vae_ldm import starter
from vae_ldm.errors import RecipeError, WeightsError
from vae_ldm.hub.model_card import CardFacts, model_card
from vae_ldm.hub.upload import licenses_of
from vae_ldm.recipe.portable import portable
from vae_ldm.run import autoencoder_stage
from vae_ldm.run.export import export_checkpoint
from vae_ldm.run.folder import RunFolder
from vae_ldm.run.push import _bases, _in_public, _licence
from vae_ldm.run.session import Session
from vae_ldm.run.stages import train_run


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A small starter in the place of the package's; as loaded."""
    monkeypatch.setattr(starter, "STARTER_FOLDER", save_starter(tmp_path / "package"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return AutoencoderKL.from_pretrained(starter.STARTER_FOLDER, torch_dtype=torch.float32)


@pytest.fixture
def recipe_from(make_recipe):
    """The tiny recipe on the starter, of which a part is trained."""

    def make(train, **overrides):
        stage = {"from_pretrained": "starter", "train": train}
        if train != "nothing":
            stage["trainer"] = {"max_steps": 1, "batch_size": 2}
        return make_recipe(autoencoder=stage, data__image_size=SIDE, **overrides)

    return make


def changed(before, after):
    state = after.state_dict()
    return {
        name.partition(".")[0] for name, value in before.state_dict().items() if not torch.equal(value, state[name])
    }


def test_a_unet_learns_its_latents_and_it_stays_as_it_is(small, recipe_from, tmp_path, capsys):
    recipe = recipe_from("nothing")
    train_run(recipe, dry_run=True)
    assert "parameters, kept as they are" in capsys.readouterr().err
    train_run(recipe)
    run = RunFolder(tmp_path / "nano")
    pipeline = StableDiffusionPipeline.from_pretrained(run.pipeline)
    assert changed(small, pipeline.vae) == set()
    assert pipeline.unet.config.in_channels == 16
    assert "from_pretrained: starter" in run.recipe.read_text()


def test_its_decoder_learns_and_the_run_goes_on_wherever_one_stands(small, recipe_from, tmp_path, monkeypatch):
    recipe = recipe_from("decoder", diffusion=None)
    train_run(recipe)
    run = RunFolder(tmp_path / "nano")
    assert changed(small, AutoencoderKL.from_pretrained(run.autoencoder)) <= {"decoder", "post_quant_conv"}
    # What lies in the current folder later is not what the run was begun with.
    save_autoencoder(tmp_path / "here" / "starter")
    with pytest.raises(RecipeError, match=r"autoencoder.from_pretrained: '?starter'? .*here/starter"):
        run.check_adoptable(recipe)
    shutil.rmtree(tmp_path / "here" / "starter")
    run.check_adoptable(recipe)


def test_a_decoder_is_not_gone_on_with_on_another_encoder(small, recipe_from, tmp_path, monkeypatch):
    """A checkpoint holds what is trained, and takes the rest from the starter that is there."""
    recipe = recipe_from("decoder", diffusion=None)
    with monkeypatch.context() as patch:
        stop_once(patch, autoencoder_stage, "finish_autoencoder", after=False)
        with pytest.raises(Stop):
            train_run(recipe)
    newer = save_starter(tmp_path / "newer", seed=1)
    said = (
        r"^autoencoder: the checkpoint was trained beside other weights of the autoencoder \(SHA-256 [0-9a-f]{12}\) "
        r"than from_pretrained gives now \([0-9a-f]{12}\); .*, or begin anew with --restart autoencoder$"
    )
    with monkeypatch.context() as patch:
        patch.setattr(starter, "STARTER_FOLDER", newer)
        with pytest.raises(WeightsError, match=said):
            train_run(recipe)
        with pytest.raises(WeightsError, match=said):
            export_checkpoint(tmp_path / "nano", checkpoint="1", output_dir=tmp_path / "exported")
    train_run(recipe)
    kept = AutoencoderKL.from_pretrained(tmp_path / "nano" / "autoencoder")
    assert changed(small, kept) <= {"decoder", "post_quant_conv"}
    exported = export_checkpoint(tmp_path / "nano", checkpoint="1", output_dir=tmp_path / "exported")
    assert changed(kept, AutoencoderKL.from_pretrained(exported)) == set()


def test_a_folder_of_that_name_comes_first(small, recipe_from, tmp_path):
    save_autoencoder(tmp_path / "here" / "starter")
    train_run(recipe_from("nothing", diffusion=None))
    kept = AutoencoderKL.from_pretrained(tmp_path / "nano" / "autoencoder")
    assert kept.config.latent_channels == 4
    assert f"from_pretrained: {tmp_path / 'here' / 'starter'}" in (tmp_path / "nano" / "recipe.yaml").read_text()


def test_a_unet_cannot_begin_with_it_and_one_line_says_what_to_train(small, recipe_from):
    recipe = recipe_from("nothing", diffusion={"from_pretrained": "starter"})
    with pytest.raises(WeightsError, match=r"^starter: is an autoencoder, and holds no diffusion model to draw with"):
        train_run(recipe)


def test_a_card_names_it_and_takes_its_licence(small, recipe_from):
    recipe = recipe_from("nothing", diffusion=None)
    assert licenses_of("starter") == ["apache-2.0"]
    licence = _licence(Session.of(recipe), None, None)
    assert (licence.id, licence.source) == ("apache-2.0", "as the weights it was started from")
    assert (_bases(recipe), _in_public("starter")) == (["starter"], "the starter of vae_ldm")
    travelling = portable(recipe).model_dump(mode="json")
    empty = {"measurements": [], "timings": [], "data": {}, "versions": {}, "created": "", "device": ""}
    card = model_card(CardFacts("acme/tins", travelling, empty, licence, from_starter=True))
    assert "Its autoencoder was started from the starter autoencoder that comes with vae_ldm. The file `NOTICE`" in card
    assert "started from the starter" not in model_card(CardFacts("acme/tins", travelling, empty, licence))
