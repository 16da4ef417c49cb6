import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import get_args

import pytest

from vae_ldm import cli
from vae_ldm.choices import Stage
from vae_ldm.errors import DataError, RunError, WeightsError
from vae_ldm.recipe import packaged, read_recipe, recipe_json_schema

RECIPE = "# vae-ldm train r\n# Quick.\nformat: 2\nname: tiny\ndata: {type: rendered_claims}\nautoencoder: {}\n"


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Photos, stores and runs of the names that the tests use, in the current folder: verbs look at them first."""
    monkeypatch.chdir(tmp_path)
    enough = (f"photos/{number}.jpg" for number in range(66))  # for a desk, which does not look into so many
    for name in (*enough, "a.jpg", "b.jpg", "c.jpg", "a.archive/archive.json", "a.index/index.json"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    for run_folder in (Path(), Path("run"), Path("runs/x")):
        for name in ("autoencoder/config.json", "pipeline/model_index.json", "diffusion/checkpoints/step=500.ckpt"):
            (run_folder / name).parent.mkdir(parents=True, exist_ok=True)
            (run_folder / name).touch()
        (run_folder / "recipe.yaml").write_text(f"{RECIPE}diffusion: {{}}\n")
        (run_folder / "state.json").write_text('{"autoencoder": {}, "diffusion": {}}')


@pytest.fixture
def recipe():
    Path("r.yaml").write_text(RECIPE)
    return "r.yaml"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process; gives exit code, stdout and stderr."""

    def run_verb(*arguments):
        monkeypatch.setattr(sys, "argv", ["vae-ldm", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return (caught.value.code or 0, *capsys.readouterr())

    return run_verb


@pytest.fixture
def implementation(monkeypatch):
    """Put a function in place of what a verb imports, recording how it is called: the verbs alone are tested here."""

    def replace(module, name, result=None, error=None, ended_by=None, writes=()):
        calls = []

        def called(*args, **kwargs):
            calls.append((args, kwargs))
            for file in map(Path, writes):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
            if ended_by is not None:
                signal.raise_signal(ended_by)
            if error is not None:
                raise error
            return result

        stand_in = types.ModuleType(module)
        setattr(stand_in, name, called)
        monkeypatch.setitem(sys.modules, module, stand_in)
        return calls

    return replace


def test_train_hands_over_the_checked_recipe(recipe, run, implementation):
    calls = implementation("vae_ldm.run.stages", "train_run")
    assert run("train", recipe)[0] == 0
    arguments = ("diffusion.trainer.max_steps=5", "seed=2", "--dry-run", "--restart", "diffusion")
    assert run("train", recipe, *arguments, "--restart", "evaluation")[0] == 0
    assert calls == [
        ((read_recipe(Path(recipe)),), {"dry_run": False, "restart": [], "profile": False}),
        (
            (read_recipe(Path(recipe), arguments[:2]),),
            {"dry_run": True, "restart": ["diffusion", "evaluation"], "profile": False},
        ),
    ]


def test_restart_names_the_stages_that_a_run_has():
    from vae_ldm.recipe.stages import STAGES

    assert get_args(Stage) == tuple(stage.name for stage in STAGES)


def test_compare(run, implementation, tmp_path):
    calls = implementation("vae_ldm.desk.compare.compare", "compare")
    assert run("compare", "photos", "runs/x", "ORG/NAME")[0] == 0
    options = ("--out", str(tmp_path / "page.html"), "--num-photos", "9", "--side", "64")
    assert run("compare", "photos", "runs/x", *options)[0] == 0
    default = {"out": Path("comparison.html"), "num_photos": 256, "side": None}
    assert calls[0] == ((Path("photos"), ["runs/x", "ORG/NAME"]), default)
    assert calls[1][1] == {"out": tmp_path / "page.html", "num_photos": 9, "side": 64}


def test_morph_walk_and_grid(run, implementation, monkeypatch, tmp_path):
    for verb in ("morph", "walk", "grid"):
        calls = implementation("vae_ldm.desk.walk.walk", verb, result=[tmp_path / "strip.png"])
        monkeypatch.setattr(sys.modules["vae_ldm.desk.walk.walk"], "Drawing", lambda *fields: fields, raising=False)
        photos = [Path("a.jpg"), Path("b.jpg")][: 2 if verb == "morph" else 1]
        names = [str(photo) for photo in photos]
        assert run(verb, *names, "--model", "runs/x")[:2] == (0, f"{tmp_path / 'strip.png'}\n")
        options = ("--strength", "0.7", "--prompt", "a tin", "--seed", "3", "--out", "there")
        assert run(verb, *names, "--model", "runs/x", *options)[0] == 0
        assert [call[0] for call in calls] == [(*photos, "runs/x")] * 2
        assert calls[0][1]["drawing"] == (0.5, "", 0, None, None)
        assert calls[1][1]["drawing"] == (0.7, "a tin", 3, None, None)
        assert [call[1]["out"] for call in calls] == [Path(verb), Path("there")]
    assert run("grid", "a.jpg", "--model", "runs/x", "--toward", "b.jpg", "--toward", "c.jpg", "--side", "3")[0] == 0
    assert calls[2][1]["toward"] == [Path("b.jpg"), Path("c.jpg")]


def test_augment_draws_unless_told_to_prove(run, implementation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = implementation("vae_ldm.desk.augment.augment", "augment")
    proofs = implementation("vae_ldm.desk.augment.proof", "prove_augmentation")
    assert run("augment", "photos", "--model", "runs/x")[:2] == (0, "augmented\n")
    assert run("augment", "--model", "runs/x", "--per-class", "3", "--how", "vary", "--strength", "0.4")[0] == 0
    assert run("augment", "draw", "photos", "--model", "runs/x", "--out", "there")[:2] == (0, "there\n")
    assert [call[0] for call in calls] == [(Path("photos"), "runs/x"), (None, "runs/x"), (Path("photos"), "runs/x")]
    first, second = calls[0][1]["request"], calls[1][1]["request"]
    assert (first.per_class, first.how) == (50, ("sample", "vary", "posterior"))
    assert (second.per_class, second.how, second.strengths) == (3, ("vary",), (0.4,))
    assert run("augment", "prove", "photos", "--synthetic", str(tmp_path))[0] == 0
    assert run("augment", "prove", "--synthetic", str(tmp_path), "--classifier", "probe", "--shots", "5")[0] == 0
    default = {"classifier": "small-cnn", "shots": (10, 20, 50), "num_seeds": 5, "num_steps": 300}
    assert proofs == [
        ((Path("photos"), tmp_path), {**default, "out": Path("proof.html")}),
        ((None, tmp_path), {**default, "out": Path("proof.html"), "classifier": "probe", "shots": (5,)}),
    ]


def test_other_settings_than_a_folder_was_begun_with_are_refused_before_anything_is_loaded(
    run, implementation, tmp_path
):
    calls = implementation("vae_ldm.desk.augment.augment", "augment")
    facts = {"format": 2, "settings": {"per_class": 5, "seed": 0}, "finished": False}
    (tmp_path / "augment.json").write_text(json.dumps(facts))
    code, _, said = run("augment", "--model", "runs/x", "--per-class", "7", "--out", str(tmp_path))
    assert code == 2
    assert "begun with other settings (per_class was 5, not 7" in said
    assert calls == []


def test_generate(run, implementation, tmp_path):
    calls = implementation("vae_ldm.desk.generate", "generate", result=[tmp_path / "0.png", tmp_path / "1.png"])
    code, out, _ = run("generate", "runs/x", "a tin", "-n", "2", "--seed", "3", "--out", "there")
    assert (code, out) == (0, f"{tmp_path / '0.png'}\n{tmp_path / '1.png'}\n")
    options = {"num_images": 2, "seed": 3, "output_dir": Path("there")}
    assert calls[0] == (("runs/x", ["a tin"]), {**options, "num_inference_steps": None, "guidance_scale": None})
    run("generate", "runs/x", "", "--steps", "8", "--guidance-scale", "1.5")
    assert calls[1][0] == ("runs/x", [""])
    assert (calls[1][1]["num_inference_steps"], calls[1][1]["guidance_scale"]) == (8, 1.5)
    assert (calls[1][1]["num_images"], calls[1][1]["seed"], calls[1][1]["output_dir"]) == (16, 0, Path("samples"))
    Path("samples").mkdir()
    Path("samples/grid.png").touch()
    run("generate", "runs/x", "a tin", "a parcel", "-n", "2")
    assert calls[2][0] == ("runs/x", ["a tin", "a parcel"])
    assert calls[2][1]["output_dir"] == Path("samples-2")
    code, _, said = run("generate", "runs/x", "a tin", "--out", "samples")
    assert (code, said) == (2, "error: samples: exists already; name another folder with --out\n")


@pytest.mark.parametrize(
    ("module", "function", "command", "name"),
    [
        ("claim.claim", "claim", "claim a.jpg --desk desk", "claim.html"),
        ("compare.compare", "compare", "compare photos runs/x", "comparison.html"),
        ("archive.report", "report", "archive report photos --model runs/x", "archive.html"),
        ("augment.proof", "prove_augmentation", "augment prove --synthetic photos", "proof.html"),
        ("novelty.score", "score", "novelty score photos detector", "scores.csv"),
        ("novelty.inspection", "inspect_detector", "novelty inspect detector", "inspection.html"),
        ("walk.walk", "morph", "morph a.jpg b.jpg --model runs/x", "morph"),
    ],
)
def test_a_verb_takes_the_next_number_where_its_own_name_is_taken(
    run, implementation, monkeypatch, module, function, command, name
):
    calls = implementation(f"vae_ldm.desk.{module}", function, result=[])
    monkeypatch.setattr(sys.modules[f"vae_ldm.desk.{module}"], "Drawing", lambda *fields: fields, raising=False)
    for folder in ("desk/novelty", "desk/index", "detector/detector.json"):
        Path(folder).mkdir(parents=True)
    for _ in range(2):
        code, _, said = run(*command.split())
        assert code == 0, said
        Path(name).write_text("what a verb has written")
    numbered = Path(name).with_stem(f"{Path(name).stem}-2")
    assert [call[1]["out"] for call in calls] == [Path(name), numbered]


def test_evaluate(run, implementation, tmp_path):
    calls = implementation("vae_ldm.run.evaluate", "evaluate_run")
    assert run("evaluate", str(tmp_path))[0] == 0
    assert run("evaluate", str(tmp_path), "--num-samples", "8", "--replace")[0] == 0
    expected = [{"num_samples": None, "replace": False}, {"num_samples": 8, "replace": True}]
    assert calls == [((tmp_path,), settings) for settings in expected]


def test_export(run, implementation, tmp_path):
    calls = implementation("vae_ldm.run.export", "export_checkpoint", result=tmp_path / "pipeline")
    assert run("export", str(tmp_path))[:2] == (0, f"{tmp_path / 'pipeline'}\n")
    assert run("export", str(tmp_path), "--checkpoint", "500", "--out", "there")[0] == 0
    for which in ("student", "teacher"):
        assert run("export", str(tmp_path), f"--{which}")[0] == 0
    assert calls == [
        ((tmp_path,), {"checkpoint": None, "output_dir": None, "which": None}),
        ((tmp_path,), {"checkpoint": "500", "output_dir": Path("there"), "which": None}),
        ((tmp_path,), {"checkpoint": None, "output_dir": None, "which": "student"}),
        ((tmp_path,), {"checkpoint": None, "output_dir": None, "which": "teacher"}),
    ]


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("vae_ldm.desk.generate", "generate", "generate ~/run prompt --out ~/new"),
        ("vae_ldm.run.evaluate", "evaluate_run", "evaluate ~/run"),
        ("vae_ldm.run.export", "export_checkpoint", "export ~/run --out=~/new"),
        ("vae_ldm.hub", "pull", "pull acme/tins --out ~/new"),
        ("vae_ldm.desk.compare.compare", "compare", "compare ~/photos ~/run --out ~/page.html"),
        ("vae_ldm.desk.augment.proof", "prove_augmentation", "augment prove ~/photos --synthetic ~/photos"),
        ("vae_ldm.desk.search.build", "build_index", "index build ~/new ~/photos --model ~/run --backbone ~/run"),
        ("vae_ldm.desk.search.build", "add_photos", "index add ~/a.index ~/photos"),
        ("vae_ldm.desk.search.query", "query_index", "index query ~/a.index ~/a.jpg --out ~/sheet.png"),
        ("vae_ldm.desk.novelty.fit", "fit", "novelty fit ~/photos --out ~/d --backbone ~/run"),
        ("vae_ldm.desk.archive.add", "add", "archive add ~/a.archive ~/photos --model ~/run"),
        ("vae_ldm.desk.archive.reading", "extract", "archive extract ~/a.archive --out ~/new"),
        ("vae_ldm.desk.archive.reading", "verify", "archive verify ~/a.archive ~/photos"),
        ("vae_ldm.desk.claim.claim", "build_desk", "desk ~/new ~/photos --model ~/run"),
        ("vae_ldm.lesson.story", "tell", "lesson --out ~/new"),
    ],
)
def test_a_tilde_that_the_shell_has_left_is_the_home_folder(
    run, implementation, monkeypatch, tmp_path, module, name, arguments
):
    monkeypatch.setenv("HOME", str(tmp_path))  # where the places are
    calls = implementation(module, name, result=[])
    assert run(*arguments.split())[2] == ""
    positional, named = calls[0]
    given = [str(value) for value in (*positional, *named.values())]
    assert "~" not in "".join(given)
    assert sum(str(tmp_path) in value for value in given) == arguments.count("~")


def test_push(run, implementation, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    calls = implementation("vae_ldm.run.push", "push", result=types.SimpleNamespace(url="https://hub/acme/tins"))
    assert run("push", str(tmp_path), "acme/tins")[:2] == (0, "https://hub/acme/tins\n")
    options = ("--public", "--revision", "draft", "--tag", "v1", "--license", "mit", "--show-photos")
    assert run("push", str(tmp_path), "acme/tins", *options)[0] == 0
    assert run("push", str(tmp_path), "acme/tins", "--private")[0] == 0
    default = {"private": None, "revision": None, "tag": None, "license": None, "show_photos": False}
    asked = {"private": False, "revision": "draft", "tag": "v1", "license": "mit", "show_photos": True}
    expected = [default, asked, default | {"private": True}]
    assert calls == [((tmp_path, "acme/tins"), settings) for settings in expected]


def test_pull(run, implementation, tmp_path):
    calls = implementation("vae_ldm.hub", "pull", result=tmp_path / "tins")
    assert run("pull", "acme/tins")[:2] == (0, f"{tmp_path / 'tins'}\n")
    assert run("pull", "acme/tins", "--out", "tins", "--revision", "v1")[0] == 0
    assert calls == [
        (("acme/tins", None), {"revision": None}),
        (("acme/tins", Path("tins")), {"revision": "v1"}),
    ]


def test_a_recipe_of_the_hub(recipe, run, implementation):
    checked = read_recipe(Path(recipe), ["seed=3"])
    trained = implementation("vae_ldm.run.stages", "train_run")
    read = implementation("vae_ldm.run.replay", "read_hub_recipe", result=checked)
    assert run("train", "hf://acme/tins@v1", "seed=3")[0] == 0
    assert trained == [((checked,), {"dry_run": False, "restart": [], "profile": False})]
    assert run("recipe", "check", "hf://acme/tins")[:2] == (0, "hf://acme/tins: in order\n")
    assert "seed: 3" in run("recipe", "show", "hf://acme/tins")[1]
    assert read[0][0] == ("hf://acme/tins@v1", ["seed=3"])


def test_lesson(run, implementation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = implementation("vae_ldm.lesson.story", "tell")
    assert run("lesson")[0] == 0
    Path("lesson").mkdir()
    Path("lesson", "1-latent-space.png").touch()
    assert run("lesson")[0] == 0
    assert run("lesson", "--beta", "4", "--out", str(tmp_path / "there"))[0] == 0
    assert run("lesson", "--out", "lesson")[2] == "error: lesson: exists already; name another folder with --out\n"
    assert [(call[1]["beta"], call[1]["output_dir"]) for call in calls] == [
        (0.1, Path("lesson")),
        (0.1, Path("lesson-2")),
        (4.0, tmp_path / "there"),
    ]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("photos: no pictures in it"), 2, "error: photos: no pictures in it\n"),
        (WeightsError("a.bin: is a pickle"), 2, "error: a.bin: is a pickle\n"),
        (RunError("the loss is not a number"), 1, "error: the loss is not a number\n"),
        (OSError(errno.ENOSPC, "No space left on device", "x.ckpt"), 1, "error: x.ckpt: No space left on device\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "error: No space left on device\n"),
        (OSError("cannot connect"), 1, "error: cannot connect\n"),
        (
            shutil.Error([("run/a", "out/a", "[Errno 28] No space left on device: 'run/a' -> 'out/a'")]),
            1,
            "error: out/a: No space left on device\n",
        ),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_expected_errors_are_a_line_and_an_exit_code(recipe, run, implementation, monkeypatch, error, code, message):
    implementation("vae_ldm.run.stages", "train_run", error=error)
    assert run("train", recipe) == (code, "", message)


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("vae_ldm.desk.archive.add", "add", ("archive", "add", "a.archive", "photos", "--model", "run")),
        ("vae_ldm.desk.search.build", "build_index", ("index", "build", "a.index", "photos", "--model", "run")),
        (
            "vae_ldm.desk.search.build",
            "build_index",
            ("index", "build", "new", "photos", "--model", "run", "--store", "postgresql://anna@host/photos"),
        ),
        ("vae_ldm.desk.search.build", "add_photos", ("index", "add", "a.index", "photos")),
        ("vae_ldm.desk.augment.augment", "augment", ("augment", "photos", "--model", "run")),
        ("vae_ldm.desk.claim.claim", "build_desk", ("desk", "d", "photos", "--model", "run")),
        ("vae_ldm.hub", "pull", ("pull", "acme/tins")),
        ("vae_ldm.desk.generate", "generate", ("generate", "runs/x", "a tin")),
        ("vae_ldm.run.evaluate", "evaluate_run", ("evaluate", "runs/x")),
        ("vae_ldm.desk.compare.compare", "compare", ("compare", "photos", "runs/x")),
        ("vae_ldm.desk.archive.reading", "verify", ("archive", "verify", "a.archive")),
    ],
)
def test_a_stop_has_a_code_of_its_own_and_says_to_go_on_where_that_is_true(
    run, implementation, module, name, arguments
):
    goes_on = name in ("add", "build_index", "add_photos", "augment", "build_desk", "pull")
    rest = "; what is finished is kept; repeat the command to go on" if goes_on else ""
    for number, code, said in ((signal.SIGTERM, 143, "stopped by SIGTERM"), (signal.SIGINT, 130, "stopped")):
        kept = ("a.archive/part", "a.index/part", "augmented/part", "d/index/part")
        implementation(module, name, ended_by=number, writes=kept)
        assert run(*arguments) == (code, "", f"{said}{rest}\n")
        for folder in ("augmented", "d"):
            shutil.rmtree(folder)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("place", [None, "empty", "locked"])
@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("vae_ldm.desk.archive.add", "add", ("archive", "add", "new", "photos", "--model", "run")),
        ("vae_ldm.desk.search.build", "build_index", ("index", "build", "new", "photos", "--model", "run")),
        ("vae_ldm.desk.augment.augment", "augment", ("augment", "photos", "--model", "run", "--out", "new")),
        ("vae_ldm.desk.claim.claim", "build_desk", ("desk", "new", "photos", "--model", "run")),
    ],
)
def test_a_stop_before_anything_is_kept_says_so(run, implementation, module, name, arguments, place):
    left = ("new/index/lock", "new/.vae_ldm-x-1-0a0b.part") if place == "locked" else ()
    implementation(module, name, ended_by=signal.SIGINT, writes=left)
    if place == "empty":
        Path("new").mkdir()
    assert run(*arguments) == (130, "", "stopped; nothing is kept yet\n")


@pytest.mark.parametrize(("before", "code"), [(signal.SIG_DFL, 143), (signal.SIG_IGN, 0)], ids=["terminal", "nohup"])
def test_a_closed_terminal_ends_a_command_as_sigterm_does_but_for_nohup(run, implementation, before, code):
    outside = signal.signal(signal.SIGHUP, before)  # the tests themselves may run under nohup
    try:
        implementation("vae_ldm.desk.archive.add", "add", ended_by=signal.SIGHUP)
        assert run("archive", "add", "a.archive", "photos", "--model", "run")[0] == code
        assert signal.getsignal(signal.SIGHUP) is before
    finally:
        signal.signal(signal.SIGHUP, outside)


def test_names_with_control_characters_are_shown_escaped(run, implementation):
    implementation("vae_ldm.desk.generate", "generate", result=[Path("red\x1b[31m.png")])
    assert run("generate", "runs/x", "a tin")[1] == "red\\x1b[31m.png\n"
    implementation("vae_ldm.desk.generate", "generate", error=DataError("two\nlines: \x1b[31m"))
    assert run("generate", "runs/x", "a tin")[2] == "error: two\nerror: lines: \\x1b[31m\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            UnicodeDecodeError("utf-8", b"caf\xe9", 3, 4, "unexpected end of data"),
            "cannot be read ('utf-8' codec",
        ),
        (json.JSONDecodeError("Expecting value", "", 0), "a file cannot be read (Expecting value"),
    ],
)
def test_a_damaged_file_is_a_line(run, implementation, error, message):
    implementation("vae_ldm.desk.archive.add", "add", error=error)
    code, _, said = run("archive", "add", "a.archive", "photos", "--model", "run")
    assert (code, len(said.splitlines())) == (2, 1)
    assert message in said
    assert "VAE_LDM_TRACEBACK=1 shows which" in said


def test_a_screen_of_latin_1_shows_other_letters_escaped(tmp_path):
    (tmp_path / "写真.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "vae_ldm", "recipe", "check", "写真.yaml"]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert (ended.returncode, ended.stdout) == (0, b"\\u5199\\u771f.yaml: in order\n")


def test_a_traceback_when_asked_for_or_when_it_is_our_bug(recipe, implementation, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vae-ldm", "train", recipe])
    implementation("vae_ldm.run.stages", "train_run", error=ZeroDivisionError("our bug"))
    with pytest.raises(ZeroDivisionError):
        cli.main()
    monkeypatch.setenv("VAE_LDM_TRACEBACK", "1")
    implementation("vae_ldm.run.stages", "train_run", error=RunError("failed"))
    with pytest.raises(RunError):
        cli.main()


def test_every_mistake_of_a_recipe_is_a_line(recipe, run):
    code, out, err = run("train", recipe, "seed=x", "autoencoder.sise=tiny")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "error: override seed=x: needs a whole number, not 'x'",
        "error: override autoencoder.sise=tiny: unknown key; did you mean autoencoder.size?",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("train",),
        ("trian", "r.yaml"),
        ("train", "r.yaml", "--restart", "everything"),
        ("train", "r.yaml", "--epochs=5"),
        ("generate", "runs/x"),
        ("generate", "runs/x", "a tin", "-n", "0"),
        ("generate", "runs/x", "a tin", "-n", "many"),
        ("generate", "runs/x", "a tin", "--guidance-scale", "-1"),
        ("generate", "runs/x", "a tin", "--out", "r.yaml"),
        ("evaluate", "absent"),
        ("evaluate", "r.yaml"),
        ("export", "absent"),
        ("push", "absent", "acme/tins"),
        ("push", "."),
        ("pull",),
        ("pull", "no-name"),
        ("train", "hf://no-name"),
        ("morph", "a.jpg", "--model", "runs/x"),
        ("morph", "a.jpg", "b.jpg"),
        ("walk", "a.jpg", "--model", "runs/x", "--strength", "2"),
        ("augment", "photos"),
        ("augment", "photos", "--model", "runs/x", "--per-class", "0"),
        ("augment", "photos", "--model", "runs/x", "--how", "magic"),
        ("augment", "photos", "--model", "runs/x", "--strength", "0.001"),
        ("walk", "a.jpg", "--model", "runs/x", "--strength", "1e-9"),
        ("walk", "a.jpg", "--model", "runs/x", "--radius", "nan"),
        ("walk", "a.jpg", "--model", "runs/x", "--guidance-scale", "inf"),
        ("generate", "runs/x", "a tin", "--guidance-scale", "inf"),
        ("generate", "runs/x", "a tin", "--seed", "18446744073709551616"),
        ("generate", "runs/x", "a tin", "--seed", "9223372036854775807"),
        ("generate", "runs/x", "a tin", "--steps", "1001"),
        ("generate", "runs/x", "a tin", "--guidance-scale", "1e30"),
        ("generate", "runs/x", "a tin", "-n", "99999999999"),
        ("evaluate", "runs/x", "--num-samples", "999999999999"),
        ("augment", "photos", "--model", "runs/x", "--per-class", "99999999999999999999"),
        ("generate", "~nosuchuser/x", "a tin"),
        ("index", "query", "a.index", "photos", "--out", "sheet.xyz"),
        ("index", "query", "a.index", "~nosuchuser/x"),
        ("compare", "photos", "runs/x", "--out", "photos"),
        ("archive", "report", "photos", "--model", "runs/x", "--out", "page.pdf"),
        ("novelty", "fit", "photos", "--out", "d", "--false-alarm-rate", "nan"),
        ("augment", "prove", "photos"),
        ("augment", "prove", "photos", "--synthetic", "absent"),
        ("lesson", "--beta", "-1"),
        ("lesson", "--beta", "nan"),
        ("lesson", "--beta", "inf"),
        ("lesson", "--beta", "much"),
        ("lesson", "--out", "r.yaml"),
        ("recipe", "chek", "r.yaml"),
        ("recipe", "check", "absent.yaml"),
        ("recipe", "check", "."),
    ],
)
def test_wrong_usage_is_2_without_a_traceback(recipe, run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "rror: " in err
    assert "Traceback" not in err


def test_check_and_show(recipe, run):
    assert run("recipe", "check", recipe, "seed=3") == (0, "r.yaml: in order\n", "")
    code, out, _ = run("recipe", "show", recipe, "seed=3")
    Path("shown.yaml").write_text(out)
    assert code == 0
    assert read_recipe(Path("shown.yaml")) == read_recipe(Path(recipe), ["seed=3"])


def test_schema(run):
    code, out, _ = run("recipe", "schema")
    assert (code, out) == (0, recipe_json_schema())
    json.loads(out)


def test_list_and_copy(recipe, run, monkeypatch, tmp_path):
    (tmp_path / "packaged").mkdir()
    (tmp_path / "packaged" / "r.yaml").write_text(RECIPE)
    monkeypatch.setattr(packaged, "_FOLDERS", (tmp_path / "packaged",))
    assert run("recipe", "list")[:2] == (0, "r\n    vae-ldm train r\n    Quick.\n")

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run("recipe", "copy", "r")[:2] == (0, "r.yaml\n")
    assert Path("r.yaml").read_text() == RECIPE
    assert run("recipe", "copy", "r", "mine.yaml")[:2] == (0, "mine.yaml\n")

    Path("r.yaml").write_text("mine")
    assert run("recipe", "copy", "r.yaml", ".")[0] == 2
    assert run("recipe", "copy", "r") == (2, "", "error: r.yaml: exists already; name another file\n")
    assert Path("r.yaml").read_text() == "mine"
    assert run("recipe", "copy", "r", "no/r.yaml") == (2, "", "error: no: no such folder\n")
    assert run("recipe", "copy", "absent")[0] == 2
    assert run("recipe", "check", "r")[:2] == (0, f"{tmp_path / 'packaged' / 'r.yaml'}: in order\n")


VERBS = [
    *(
        ["train"],
        ["evaluate"],
        ["export"],
        ["push"],
        ["pull"],
        ["generate"],
        ["morph"],
        ["walk"],
        ["grid"],
        ["compare"],
    ),
    *(["desk"], ["claim"], ["lesson"], ["augment", "draw"], ["augment", "prove"], ["novelty", "fit"]),
    *(["novelty", "score"], ["novelty", "inspect"], ["index", "build"], ["index", "add"], ["index", "query"]),
    *(["recipe", name] for name in ("check", "show", "upgrade", "schema", "list", "copy")),
    *(["archive", name] for name in ("add", "list", "extract", "verify", "report")),
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_is_plain(run, monkeypatch, verb):
    """Every argument and option is explained; no type of Python, no brace and no inequality is shown."""
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(*verb, "--help")
    assert code == 0
    assert re.findall(r"<|[{}]|TEXT\.\.\.|INTEGER|FLOAT", out.replace("'a photo of {label}'", "")) == []
    assert max(map(len, out.splitlines())) <= 80
    unexplained = re.findall(r"^  \S+(?: \S+)*  +\[.*|^  [A-Z/]+$", out, re.MULTILINE)
    assert unexplained == []


def test_every_verb_has_help(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for group in ("", "recipe", "augment", "index", "archive", "novelty"):
        lines = run(*group.split(), "--help")[1].splitlines()
        assert [line for line in lines if line.endswith("...") and not line.startswith("Usage")] == [], "cut short"
        assert max(map(len, lines)) <= 80
    _, out, _ = run("--help")
    for verb in (
        *("train", "generate", "evaluate", "export", "push", "pull", "lesson", "recipe"),
        *("augment", "morph", "walk", "grid"),
    ):
        assert f"\n  {verb} " in out
        assert run(verb, "-h")[0] == 0


def _subprocess(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["recipe", "check", "r.yaml"]])
def test_quick_verbs_import_nothing_heavy(recipe, arguments):
    heavy = ("torch", "diffusers", "transformers", "datasets", "pytorch_lightning", "numpy", "PIL", "rich", "jinja2")
    script = (
        "import sys; from vae_ldm import cli; sys.argv = sys.argv[1:]\n"
        "try: cli.main()\n"
        "except SystemExit as done: assert not done.code\n"
        f"print('heavy:', [name for name in {heavy} if name in sys.modules])"
    )
    done = _subprocess("-c", script, "vae-ldm", *arguments)
    assert done.stdout.endswith("heavy: []\n"), done.stdout + done.stderr


def test_the_lesson_imports_no_deep_learning_library():
    heavy = (
        "torch",
        "diffusers",
        "transformers",
        "datasets",
        "pytorch_lightning",
        "torchmetrics",
        "accelerate",
        "rich",
    )
    script = f"import sys; import vae_ldm.cli, vae_ldm.lesson.story; print([n for n in {heavy} if n in sys.modules])"
    assert _subprocess("-c", script).stdout == "[]\n"


def test_python_m_is_the_same(recipe):
    done = _subprocess("-m", "vae_ldm", "recipe", "check", recipe, "seed=x")
    assert done.returncode == 2
    assert done.stderr == "error: override seed=x: needs a whole number, not 'x'\n"
    assert _subprocess("-m", "vae_ldm", "--version").stdout.startswith("vae-ldm")


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        ("--foo", ["error: no such option: --foo", "see vae-ldm --help"]),
        ("evalute run", ["error: no such command 'evalute'. Did you mean 'evaluate'?", "see vae-ldm --help"]),
        ("novelty scor", ["error: no such command 'scor'. Did you mean 'score'?", "see vae-ldm novelty --help"]),
        *(
            (f"novelty {call}", [f"error: no such option any more: {option}; {instead}", "see vae-ldm novelty "])
            for call, option, instead in (
                ("fit photos --out d --model run", "--model", "no autoencoder is needed; detectors compare what a "),
                (
                    "fit photos --out d --features latents",
                    "--features",
                    "detectors compare what a vision backbone sees",
                ),
                ("fit photos --out d --score knn", "--score", "all scores are combined"),
                ("fit photos --out d --calibration 0.3", "--calibration", "all photos calibrate"),
                ("score photos d --model run", "--model", "no autoencoder is needed"),
            )
        ),
        ("novelty score photos d --scores x", ["error: no such option: --scores", "see vae-ldm novelty score --help"]),
        ("claim", ["error: missing argument 'PHOTO'", "see vae-ldm claim --help"]),
        (
            "augment --how magic",
            ["error: invalid value for '--how': 'magic' is not one of", "see vae-ldm augment draw"],
        ),
        *(
            (f"{call} {option} {value}", [f"error: invalid value for {hint}: {said}, not {value}", "see vae-ldm"])
            for call, option, value, hint, said in (
                ("generate run x", "-n", "0", "'-n' / '--num-images'", "must be at least 1"),
                ("generate run x", "-n", "2000000", "'-n' / '--num-images'", "must be at most 1,000,000"),
                ("generate run x", "-n", "many", "'-n' / '--num-images'", "needs a whole number"),
                ("generate run x", "-n", "1.5", "'-n' / '--num-images'", "needs a whole number"),
                ("generate run x", "--guidance-scale", "-1", "'--guidance-scale'", "must be at least 0"),
                ("generate run x", "--guidance-scale", "high", "'--guidance-scale'", "needs a number"),
                ("generate run x", "--guidance-scale", "nan", "'--guidance-scale'", "must be a finite number"),
                ("compare a b", "--side", "4", "'--side'", "must be at least 8"),
                ("augment", "--strength", "2", "'--strength'", "must be at most 1"),
                ("augment", "--strength", "0", "'--strength'", "must be at least 0.01"),
                ("augment prove", "--shots", "0", "'--shots'", "must be at least 1"),
                ("archive report a", "--target-psnr", "5", "'--target-psnr'", "must be at least 10"),
            )
        ),
        (
            "index build a b --features all",
            ["error: invalid value for '--features': 'all' is not one of", "see vae-ldm index build"],
        ),
        ("augment prov", ["error: prov: no such command of augment, and no such folder; did you mean prove?"]),
        ("augment phots --model run", ["error: phots: no such folder; did you mean photos?"]),
    ],
)
def test_a_wrong_call_is_told_in_a_line_and_where_the_help_is(run, arguments, lines):
    code, out, said = run(*arguments.split())
    assert (code, out) == (2, "")
    assert len(said.splitlines()) == len(lines)
    for told, line in zip(said.splitlines(), lines, strict=True):
        assert told.startswith(line)


def test_a_folder_that_is_named_nearly_like_a_command_is_a_folder(run, implementation):
    calls = implementation("vae_ldm.desk.augment.augment", "augment")
    Path("proves").mkdir()
    assert run("augment", "proves", "--model", "run")[0] == 0
    assert [call[0] for call in calls] == [(Path("proves"), "run")]
