"""From a trained run to the Hub and back, with the real client and a server of our own."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from huggingface_hub import ModelCard, constants
from safetensors.torch import load_file, save_file

from tests.conftest import MakeRecipe
from tests.hub.server import HubServer
from tests.run.conftest import assert_same_weights
from tests.support.small_networks import save_autoencoder
from vae_ldm.errors import HubError, RecipeError, RunError, VaeLdmError, WeightsError
from vae_ldm.files import write_json
from vae_ldm.hub import Pushed, download, pull
from vae_ldm.recipe import Recipe, dump_recipe, read_recipe
from vae_ldm.run.folder import RunFolder
from vae_ldm.run.push import _prompts, push
from vae_ldm.run.replay import read_hub_recipe
from vae_ldm.run.stages import train_run

METRICS = {
    "name": "nano",
    "created": "2026-11-24T10:00:00+00:00",
    "device": "CPU, 1 threads",
    "measurements": [
        {"name": "psnr", "value": 25.25, "unit": "dB", "split": "validation", "num_images": 6, "stage": "autoencoder"}
    ],
    "data": {
        "train": 24,
        "validation": 6,
        "image_size": [16, 16],
        "unreadable": 0,
        "class_names": ["good_tin", "label"],
    },
}


@pytest.fixture
def run(trained_run: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of the trained run, as if it had been evaluated."""
    shutil.copytree(trained_run.path, tmp_path / "nano")
    run = RunFolder(tmp_path / "nano")
    write_json(run.metrics, METRICS)
    run.samples.mkdir()
    for name in ("samples", "reconstructions", "worst_reconstructions", "neighbours"):
        (run.samples / f"{name}.png").write_bytes(name.encode())
    return run


def held(hub: HubServer, revision: str = "main") -> dict[str, bytes]:
    files = hub.repos["acme/tins"].at(revision).files
    return {path: file.content for path, file in files.items() if path != ".gitattributes"}


def test_a_repository_is_the_pipeline_with_recipe_metrics_grid_and_card(hub, anna, run, tmp_path):
    config = run.pipeline / "vae" / "config.json"  # as a run of an older version has it
    config.write_text(json.dumps({"_name_or_path": str(run.autoencoder), **json.loads(config.read_text())}))
    pushed = push(run.path, "acme/tins")
    pipeline = {path.relative_to(run.pipeline).as_posix() for path in run.pipeline.rglob("*") if path.is_file()}
    files = held(hub)
    assert files.keys() == pipeline | {"recipe.yaml", "metrics.json", "README.md", "samples/samples.png"}
    assert not [path for path, content in files.items() if str(tmp_path).encode() in content]
    assert json.loads(files["metrics.json"]) == METRICS
    assert hub.repos["acme/tins"].history[0].title == "nano: trained, measured and pushed by vae-ldm"
    assert isinstance(pushed, Pushed)
    assert pushed.is_private

    opened = DiffusionPipeline.from_pretrained("acme/tins", cache_dir=tmp_path / "elsewhere")
    assert type(opened) is StableDiffusionPipeline
    assert_same_weights(run.pipeline, download("acme/tins"))


def test_the_card_says_what_was_measured(hub, anna, run):
    push(run.path, "acme/tins", license="mit")
    card = ModelCard(held(hub)["README.md"].decode())
    assert card.data.license == "mit"
    assert card.data.pipeline_tag == "text-to-image"
    assert card.data.library_name == "diffusers"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.metric_args) == ("psnr", 25.25, {"num_images": 6})
    assert "| psnr | 25.25 dB |" in card.text
    assert '"a photo of good tin", "a photo of label"' in card.text
    assert "vae-ldm train hf://acme/tins\n" in card.text
    assert str(run.path) not in str(card)


def test_the_card_lists_no_class_that_was_never_trained(make_recipe):
    data = {"class_names": ["tin", "horse"], "untrained_classes": ["horse"]}
    assert _prompts(make_recipe(), data) == ["a photo of tin"]
    assert _prompts(make_recipe(), {"class_names": ["tin"]}) == ["a photo of tin"]
    assert _prompts(make_recipe(diffusion__conditioning="none"), data) == []


def test_a_repeated_push_makes_no_commit_and_a_tag_comes_later(hub, anna, run, capsys):
    first = push(run.path, "acme/tins")
    again = push(run.path, "acme/tins", tag="v1")
    assert (again.commit, again.num_changed) == (first.commit, 0)
    assert hub.repos["acme/tins"].tags == {"v1": first.commit}
    said = capsys.readouterr().err
    assert f"pushed to {hub.url}/acme/tins (private): {first.num_changed} files as commit {first.commit[:7]}" in said
    assert f"pushed to {hub.url}/acme/tins (private): nothing, it was there already as commit" in said


def test_photos_travel_only_when_asked_for(hub, anna, run):
    push(run.path, "acme/tins", private=False, revision="with-photos", show_photos=True)
    assert {name for name in held(hub, "with-photos") if name.startswith("samples/")} == {
        "samples/samples.png",
        "samples/reconstructions.png",
    }
    push(run.path, "acme/tins", revision="with-photos")
    assert "samples/reconstructions.png" not in held(hub, "with-photos")
    assert held(hub) == {}


def damage_weights(run: RunFolder) -> None:
    file = run.pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_in.bias"] = weights["conv_in.bias"] + 1e-3
    save_file(weights, file, metadata={"format": "pt"})


def lose_a_prefix(run: RunFolder) -> None:
    """What transformers 5 writes and 4 cannot read, or any name that nobody knows."""
    file = run.pipeline / "text_encoder" / "model.safetensors"
    save_file({f"other.{name}": value for name, value in load_file(file).items()}, file, metadata={"format": "pt"})


def change_the_scheduler(run: RunFolder) -> None:
    file = run.pipeline / "scheduler" / "scheduler_config.json"
    file.write_text(
        file.read_text()
        .replace("flow_prediction", "epsilon")
        .replace('"use_flow_sigmas": true', '"use_flow_sigmas": false')
    )


def cut_a_file_off(run: RunFolder) -> None:
    file = run.pipeline / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def take_another_pipeline(run: RunFolder) -> None:
    file = run.pipeline / "model_index.json"
    file.write_text(file.read_text().replace("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"))


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (damage_weights, "the weights of its unet are not those that the run has trained"),
        (lose_a_prefix, "the weights of its text_encoder are not those that the run has trained"),
        (change_the_scheduler, "draws another picture than the run did when it was trained"),
        (cut_a_file_off, "plain diffusers cannot open it"),
        (take_another_pipeline, "opens as StableDiffusionImg2ImgPipeline, not as StableDiffusionPipeline"),
    ],
)
def test_an_export_that_is_not_what_was_trained_is_not_pushed(hub, anna, run, damage, line):
    damage(run)
    with pytest.raises(WeightsError) as caught:
        push(run.path, "acme/tins")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not hub.repos


def test_what_is_not_finished_is_not_pushed(hub, anna, run):
    run.restart(["diffusion"])
    with pytest.raises(VaeLdmError, match="its stage diffusion is not finished"):
        push(run.path, "acme/tins")
    with pytest.raises(VaeLdmError, match="is no run folder"):
        push(run.path / "pipeline", "acme/tins")
    with pytest.raises(HubError, match="is no name of a repository"):
        push(run.path, "tins")
    assert not hub.repos


def test_no_token_is_said_before_anything_is_opened(hub, run):
    damage_weights(run)
    with pytest.raises(HubError, match="there is no token to push with"):
        push(run.path, "acme/tins")


def test_pull_gives_a_folder_of_plain_files_and_then_works_offline(hub, anna, run, tmp_path, monkeypatch):
    push(run.path, "acme/tins")
    folder = pull("acme/tins", tmp_path / "mine")
    assert folder == tmp_path / "mine"
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    assert_same_weights(run.pipeline, folder)
    with pytest.raises(HubError, match="mine: exists already; name another folder, or delete it"):
        pull("acme/tins", tmp_path / "mine")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_same_weights(run.pipeline, pull("acme/tins"))
    assert type(DiffusionPipeline.from_pretrained(pull("acme/tins"))) is StableDiffusionPipeline


# --- the recipe that travels ------------------------------------------------------------------------------------------


def test_the_recipe_travels_without_where_it_was_written_and_pushed(hub, anna, run):
    push(run.path, "acme/tins")
    recipe, replayed = read_recipe(run.recipe), read_hub_recipe("hf://acme/tins", ["seed=9"])
    assert replayed == recipe.model_copy(update={"output_dir": "runs", "hub": None, "seed": 9})
    with pytest.raises(HubError, match="has no revision v9"):
        read_hub_recipe("hf://acme/tins@v9")


@pytest.mark.parametrize(
    ("line", "key"), [("output_dir: /etc", "output_dir"), ("hub: {repository: evil/photos}", "hub")]
)
def test_a_strangers_recipe_does_not_say_where_to_write_or_push(hub, line, key):
    text = f"name: x\ndata: {{type: rendered_claims}}\nautoencoder: {{}}\n{line}\n"
    hub.add("evil/tins", {"recipe.yaml": text.encode()})
    with pytest.raises(RecipeError, match=f"^hf://evil/tins: its recipe sets {key}, which is not for"):
        read_hub_recipe("hf://evil/tins")


@pytest.mark.parametrize("name", ["claims-32", "thermal-solar", "finetune-lora"])
def test_a_push_of_format_1_is_run_as_it_was(hub, name):
    """recipe/format_1 holds what commit 3f0c8c3 pushed: the resolved recipe, with paths and without a number."""
    old = Path(__file__).parents[1] / "recipe" / "format_1" / f"{name}.resolved.yaml"
    hub.add("acme/old", {"recipe.yaml": old.read_bytes()})
    overrides = [] if name == "claims-32" else ["data.path=../photos"]
    assert read_hub_recipe("hf://acme/old", overrides) == read_recipe(old)
    if overrides:
        with pytest.raises(RecipeError, match=r"^hf://acme/old: its recipe sets data\.path"):
            read_hub_recipe("hf://acme/old")


def test_a_strangers_recipe_reads_no_local_files_and_reaches_no_server(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (
        "name: x\ndata: {type: image_folder, path: /home/anna}\nautoencoder: {from_pretrained: ../secret}\n"
        "loggers: [{type: mlflow, experiment_name: x, tracking_uri: 'http://attacker:5000'}]\n"
    )
    hub.add("evil/tins", {"recipe.yaml": text.encode()})
    for overrides, key in (([], "data.path"), (["data.path=photos"], "autoencoder.from_pretrained")):
        with pytest.raises(RecipeError, match=f"^hf://evil/tins: its recipe sets {key}, which is not for"):
            read_hub_recipe("hf://evil/tins", overrides)
    assert read_hub_recipe("hf://evil/tins", only_shown=True).data.path == "/home/anna"
    said: list[str] = []
    overrides = ["data.path=photos", "autoencoder.from_pretrained=stabilityai/sd-vae-ft-mse"]
    recipe = read_hub_recipe("hf://evil/tins", overrides, warn=said.append)
    assert recipe.loggers == Recipe.model_fields["loggers"].default
    assert said[0] == (
        "hf://evil/tins: its recipe sets loggers, which are left out; name your own with loggers=[{type: ...}]"
    )
    mine = read_hub_recipe("hf://evil/tins", [*overrides, "loggers=[]", "output_dir=/mine"])
    assert (mine.loggers, mine.output_dir) == ((), "/mine")


@pytest.mark.slow
def test_a_replay_trains_the_same_weights(hub, anna, run, tmp_path, monkeypatch):
    push(run.path, "acme/tins")
    monkeypatch.chdir(tmp_path)
    train_run(read_hub_recipe("hf://acme/tins"))
    assert_same_weights(run.pipeline, tmp_path / "runs" / "nano" / "pipeline")


# --- hub: in a recipe -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_recipe_pushes_on_the_way_and_at_its_end_and_trains_the_same(hub, anna, make_recipe, trained_run, tmp_path):
    recipe = make_recipe(hub={"repository": "acme/tins", "push_every_n_steps": 2, "tag": "v1", "license": "mit"})
    train_run(recipe)
    repo, run = hub.repos["acme/tins"], RunFolder(tmp_path / "nano")
    titles = [commit.title for commit in repo.history][::-1]
    assert titles == [
        "initial commit",
        "nano: step 2 of 6",
        "nano: step 4 of 6",
        "nano: trained, measured and pushed by vae-ldm",
    ]
    assert repo.tags == {"v1": repo.branches["main"]}
    assert "**Training is under way: step 4 of 6.**" in repo.history[1].files["README.md"].content.decode()
    assert "under way" not in held(hub)["README.md"].decode()
    assert "acme/tins" not in held(hub)["recipe.yaml"].decode()

    assert_same_weights(trained_run.pipeline, run.pipeline)
    assert_same_weights(trained_run.autoencoder, run.autoencoder)
    assert not list(run.path.glob("pushing*"))
    train_run(recipe)
    assert len(repo.history) == 4


@pytest.mark.slow
def test_what_is_pushed_on_the_way_is_the_averaged_pipeline_of_that_step(hub, anna, make_recipe, tmp_path):
    train_run(make_recipe(hub={"repository": "acme/tins", "push_every_n_steps": 4}))
    checkpoint = torch.load(RunFolder(tmp_path / "nano").checkpoints("diffusion") / "step=4.ckpt", weights_only=True)[
        "state_dict"
    ]
    commit = hub.repos["acme/tins"].history[1]
    assert commit.title == "nano: step 4 of 6"
    opened = DiffusionPipeline.from_pretrained(download("acme/tins", revision=commit.sha))
    for network in ("unet", "text_encoder"):
        for name, value in getattr(opened, network).state_dict().items():
            assert torch.equal(value, checkpoint[f"{network}.{name}"]), name


@pytest.mark.slow
def test_a_push_that_fails_on_the_way_does_not_stop_training(hub, anna, make_recipe, tmp_path, capsys):
    hub.go_wrong("POST", "/commit/", times=1, status=500, message="sorry")
    train_run(make_recipe(hub={"repository": "acme/tins", "push_every_n_steps": 4}))
    assert "push at step 4 failed, training goes on: acme/tins: the Hub answered 500 (sorry)" in capsys.readouterr().err
    assert hub.repos["acme/tins"].history[0].title.endswith("pushed by vae-ldm")


@pytest.mark.slow
def test_a_push_that_fails_at_the_end_goes_on_when_the_command_is_repeated(hub, anna, make_recipe, tmp_path):
    recipe = make_recipe(hub={"repository": "acme/tins"})
    hub.go_wrong("POST", "/commit/", times=1, status=500, message="sorry")
    with pytest.raises(RunError, match="the Hub answered 500"):
        train_run(recipe)
    assert held(hub) == {}
    train_run(recipe)
    assert "unet/diffusion_pytorch_model.safetensors" in held(hub)


def test_a_push_that_will_be_refused_is_refused_before_training(hub, make_recipe, tmp_path):
    with pytest.raises(HubError, match="there is no token to push with"):
        train_run(make_recipe(hub={"repository": "acme/tins"}))
    assert not RunFolder(tmp_path / "nano").autoencoder.exists()


def test_without_a_connection_a_run_begins_and_says_so(no_waiting, anna, make_recipe, tmp_path, capsys):
    with pytest.raises(RunError, match="cannot be reached"):
        train_run(make_recipe(hub={"repository": "acme/tins"}, diffusion=None))
    assert RunFolder(tmp_path / "nano").finished("autoencoder") is not None
    assert "the run goes on, and is pushed at its end" in capsys.readouterr().err


def test_an_autoencoder_alone(hub, anna, make_recipe: MakeRecipe, tmp_path):
    train_run(make_recipe(hub={"repository": "acme/tins", "private": False}, diffusion=None))
    assert held(hub).keys() == {"config.json", "diffusion_pytorch_model.safetensors", "recipe.yaml", "README.md"}
    assert not hub.repos["acme/tins"].private
    assert_same_weights(tmp_path / "nano" / "autoencoder", download("acme/tins"))
    text = held(hub)["README.md"].decode()
    assert 'AutoencoderKL.from_pretrained("acme/tins")' in text
    assert "pipeline_tag" not in text


@pytest.mark.parametrize(
    ("card_data", "asked", "expected"),
    [
        ({"license": "openrail"}, None, ("openrail", "openrail, as the weights it was started from.")),
        ({"license": "openrail"}, "mit", ("mit", "mit, says its maker.")),
        ({}, None, (None, "No licence was named; ask its maker before you use it.")),
    ],
)
def test_the_licence_is_the_recipes_or_that_of_the_base_model(
    hub, anna, make_recipe, tmp_path, card_data: dict[str, Any], asked: str | None, expected: tuple[str | None, str]
):
    save_autoencoder(tmp_path / "vae", scaling_factor=0.18215)
    files = {path.name: path.read_bytes() for path in (tmp_path / "vae").iterdir()}
    hub.add("acme/base", files, card_data=card_data)
    stage = {"from_pretrained": "acme/base", "train": "nothing"}
    train_run(make_recipe(autoencoder=stage, diffusion=None, hub={"repository": "acme/tins", "license": asked}))
    card = ModelCard(held(hub)["README.md"].decode())
    assert card.data.license == expected[0]
    assert expected[1] in card.text
    assert card.data.base_model == "acme/base" or card.data.base_model == ["acme/base"]


@pytest.mark.parametrize(
    ("card", "expected", "said"),
    [
        (b"---\nlicense: [mit]\n---\n", "mit", None),
        (b"---\nlicense: [mit, apache-2.0]\n---\n", "other", None),
        (b"---\nlicense: 3\n---\n", None, None),
        (b"---\nlicense: {a: [\n---\n", None, "its metadata cannot be read"),
        (b"---\n- a list\n---\n", None, "its metadata cannot be read"),
        (b"---\nlicense: \xff\n---\n", None, "its metadata cannot be read"),
    ],
)
def test_whatever_the_card_of_the_base_says_the_run_is_pushed(
    hub, anna, make_recipe, tmp_path, capsys, card, expected, said
):
    save_autoencoder(tmp_path / "vae", scaling_factor=0.18215)
    (tmp_path / "vae" / "README.md").write_bytes(card)
    stage = {"from_pretrained": str(tmp_path / "vae"), "train": "nothing"}
    train_run(make_recipe(autoencoder=stage, diffusion=None, hub={"repository": "acme/tins"}))
    assert ModelCard(held(hub)["README.md"].decode()).data.license == expected
    assert not [path for path, content in held(hub).items() if str(tmp_path).encode() in content]
    lines = capsys.readouterr().err.splitlines()
    told = [line for line in lines if "its metadata cannot be read" in line]
    assert bool(told) == (said is not None)
    if told:  # before training, and again where the card is made
        assert lines.index(told[0]) < next(
            row for row, line in enumerate(lines) if "autoencoder" in line and line not in told
        )
        assert "hub.license" in told[0]


def test_what_is_no_part_of_a_pipeline_stays_at_home(hub, anna, run, capsys):
    for name in (".DS_Store", "Thumbs.db", "unet/config.json~", "vae/.nfs0001"):
        (run.pipeline / name).write_bytes(b"?")
    push(run.path, "acme/tins")
    assert not [name for name in held(hub) if held(hub)[name] == b"?"]
    said = "push: left out, for no part of a pipeline: .DS_Store, Thumbs.db, unet/config.json~, vae/.nfs0001\n"
    assert said in capsys.readouterr().err


def test_the_travelling_recipe_reads_back(run, hub, anna):
    push(run.path, "acme/tins")
    path = run.path / "travelled.yaml"
    path.write_bytes(held(hub)["recipe.yaml"])
    assert dump_recipe(read_recipe(path)) == path.read_text()
