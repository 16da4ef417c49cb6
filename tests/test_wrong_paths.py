"""A wrong path, and what files alone show to be wrong, is told in one line, before a verb imports torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vae_ldm.cli import app

WRONG = {
    "train r.yaml": "absent: no such folder",
    "evaluate absent": "absent: is no run folder",
    "export absent": "absent: is no run folder",
    "evaluate begun": "begun: its stage autoencoder is not finished; repeat the train command first",
    "evaluate half": "half: its stage diffusion is not finished; repeat the train command first",
    "export run --out full": "full: exists already",
    "export half --checkpoint 7": "half: has no checkpoint 7; there are diffusion: 200, 100; autoencoder: best, 100",
    "export begun --checkpoint best": "begun: has no checkpoint best; there are none",
    "push half acme/tins": "half: its stage diffusion is not finished",
    "push run acme": "acme: is no name of a repository",
    "push run acme/tins": "acme/tins: there is no token to push with; run `hf auth login`, or set HF_TOKEN",
    "push absent acme/tins": "absent: is no run folder",
    "generate ./absent prompt": "absent: no such folder",
    "generate half prompt": "half: holds no pipeline yet; train the run to its end",
    "generate run prompt --out full": "full: exists already",
    "generate runs/absent prompt": "runs/absent: no such folder",
    "generate starter prompt": "starter: is an autoencoder, and holds no diffusion model to draw with; train one",
    "walk a.jpg --model starter": "starter: is an autoencoder, and holds no diffusion model to draw with",
    "evaluate starter": "starter: comes with vae_ldm and is no run; give the folder that train made",
    "desk d photos --model startr": "startr: no such folder; did you mean starter? Else give a run folder",
    "compare photos begun starter": "begun: holds no autoencoder yet; train the run to its end",
    "generate photos prompt": "photos: holds no model; give a run folder",
    "generate run prompt --out a.jpg/there": "a.jpg: is a file",
    "compare absent run": "absent: no such folder",
    "compare photos begun": "begun: holds no autoencoder yet; train the run to its end",
    "compare photos ./absent": "absent: no such folder",
    "compare photos run --out absent/page.html": "absent: no such folder; name a page",
    "compare photos run --out photos": "photos: is a folder",
    "morph absent.jpg a.jpg --model run": "absent.jpg: no such photo",
    "morph /dev/null a.jpg --model run": "/dev/null: is not a regular file; give a photo",
    "index query stored /dev/null": "/dev/null: is not a regular file; give a photo",
    "morph a.jpg photos --model run": "photos: is a folder; give one photo",
    "morph a.jpg a.jpg --model ./absent": "absent: no such folder",
    "morph a.jpg a.jpg --model half": "half: holds no pipeline yet",
    "walk a.jpg --model half": "half: holds no pipeline yet",
    "grid a.jpg --model half": "half: holds no pipeline yet",
    "walk a.jpg --model run --like absent": "absent: no such folder",
    "walk a.jpg --model run --out full": "full: exists already",
    "grid a.jpg --model run --toward a.jpg --toward absent.jpg": "absent.jpg: no such photo",
    "augment absent --model run": "absent: no such folder",
    "augment photos --model ./absent": "absent: no such folder",
    "augment photos --model half": "half: holds no pipeline yet",
    "augment prove absent --synthetic photos": "absent: no such folder",
    "augment prove photos --synthetic photos --out page.png": "page.png: the name of a page ends in .html",
    "index build i absent --model run": "absent: no such folder",
    "index build i photos --model ./absent": "absent: no such folder",
    "index build i photos --model begun": "begun: holds no autoencoder yet",
    "index build full photos --model run": "full: is no index and not empty (it holds something); name another folder",
    "index build i photos --model run --backbone ./absent": "absent: no such folder",
    "index build i photos --model run --backbone efficientnet-lite9": (
        "efficientnet-lite9: no such folder; give efficientnet-lite0 or efficientnet-lite2, a folder"
    ),
    "index build a.jpg photos --model run": "a.jpg: is a file",
    "index add absent photos": "absent: no such folder, so no index",
    "index query absent photos": "absent: no such folder, so no index",
    "index query photos photos": "photos: is no index (it has no index.json)",
    "index query stored absent": "absent: no such folder",
    "index query stored photos --out sheet.xyz": "sheet.xyz: the name of a sheet ends in .png",
    "novelty fit absent --out d": "absent: no such folder",
    "novelty fit photos --out full": "full: is no detector and not empty (it holds something)",
    "novelty fit photos --out d": "too few photos: 8 usual photos are needed to compare with, and there are 2",
    "novelty fit photos --out d --false-alarm-rate 0": "a false-alarm rate is between 0 and 1, not 0",
    "novelty fit photos --out d --only-class dent": "photos: has no photos of a class dent",
    "novelty fit photos --out d --leave-out absent": "absent: no such file",
    "desk d photos --leave-out absent": "absent: no such file",
    "novelty fit photos --out d --series (": "the pattern of a series, '(', is no regular expression",
    "novelty fit photos --out d --backbone ./absent": "absent: no such folder",
    "novelty inspect absent": "absent: no such folder, so no detector",
    "novelty inspect stored --good absent": "absent: no such folder",
    "novelty inspect stored --out taken.html": "taken.html: exists already; name another page with --out",
    "novelty score photos absent": "absent: no such folder, so no detector",
    "novelty score absent stored": "absent: no such folder",
    "novelty score photos stored --out absent/t.csv": "absent: no such folder; name a table",
    "archive add a absent --model run": "absent: no such folder",
    "archive add a photos --model ./absent": "absent: no such folder",
    "archive add a photos --model begun": "begun: holds no autoencoder yet",
    "archive add full photos --model run": "full: is no archive and not empty (it holds something); name another",
    "archive list absent": "absent: no such folder, so no archive",
    "archive extract absent": "absent: no such folder, so no archive",
    "archive extract stored --out a.jpg": "a.jpg: is a file",
    "archive verify absent": "absent: no such folder, so no archive",
    "archive verify stored absent": "absent: no such folder",
    "archive report absent --model run": "absent: no such folder",
    "desk d absent --model run": "absent: no such folder",
    "desk d photos --model begun": "begun: holds no autoencoder yet",
    "desk d photos --model run": "too few photos: 8 usual photos are needed to compare with, and there are 2",
    "desk d photos --model run --only-class dent": "photos: has no photos of a class dent",
    "desk other photos --model run": "other/index: is no index and not empty (it holds something)",
    "claim absent.jpg --desk stored": "absent.jpg: no such photo",
    "claim photos --desk stored": "photos: holds 2 photos; give one of them",
    "claim a.jpg --desk absent": "absent: no such folder, so no desk",
    "claim a.jpg --desk photos": "photos: is no desk (it has no novelty)",
    "claim a.jpg --desk stored --out taken.html": "taken.html: exists already; name another page with --out",
    "compare photos run --out taken.html": "taken.html: exists already; name another page with --out",
    "archive report photos --model run --out taken.html": "taken.html: exists already; name another page with --out",
    "augment prove --synthetic photos --out taken.html": "taken.html: exists already; name another page with --out",
    "index query stored photos --out taken.png": "taken.png: exists already; name another sheet with --out",
    "novelty score photos stored --out taken.csv": "taken.csv: exists already; name another table with --out",
    "novelty score photos stored --heat-maps full": "full: exists already",
    "morph a.jpg a.jpg --model run --out full": "full: exists already",
    "grid a.jpg --model run --out full": "full: exists already",
    "lesson --out a.jpg": "a.jpg: exists already",
    "lesson --out full": "full: exists already",
    "recipe check absent.yaml": "absent.yaml",
    "recipe upgrade absent.yaml": "absent.yaml",
}

TAKEN = ("taken.html", "taken.png", "taken.csv")

CALL_ALL = """
import contextlib, io, json, sys
from vae_ldm import cli
answers = {}
for command in json.load(sys.stdin):
    said = io.StringIO()
    sys.argv = ["vae-ldm", *command.split()]
    with contextlib.redirect_stderr(said):
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code
    answers[command] = [code, said.getvalue(), sorted({"torch", "diffusers", "transformers"} & set(sys.modules))]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, list[str]]]:
    """Exit code, standard error and heavy libraries imported so far, of each command in WRONG."""
    folder = tmp_path_factory.mktemp("paths")
    for name in (
        *(
            "photos/0.jpg",
            "a.jpg",
            "full/something",
            "other/index/something",
            "run/autoencoder/config.json",
            "run/pipeline/model_index.json",
            "half/autoencoder/config.json",
            "half/autoencoder/checkpoints/best.ckpt",
            "half/autoencoder/checkpoints/step=100.ckpt",
            "half/diffusion/checkpoints/step=100.ckpt",
            "half/diffusion/checkpoints/step=200.ckpt",
            "stored/novelty/x",
            "stored/index/x",
        ),
        *TAKEN,
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("something")
    for name in ("0.jpg", "1.jpg"):
        Image.new("L", (8, 8)).save(folder / "photos" / name)
    for name in ("archive.json", "index.json", "detector.json"):
        (folder / "stored" / name).touch()
    recipe = "format: 2\nname: tiny\ndata: {type: image_folder, path: absent, image_size: 32}\nautoencoder: {}\n"
    (folder / "r.yaml").write_text(recipe)
    runs = {"begun": [], "half": ["autoencoder"], "run": ["autoencoder", "diffusion"]}
    for name, finished in runs.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "recipe.yaml").write_text(f"{recipe}diffusion: {{}}\n")
        (folder / name / "state.json").write_text(json.dumps({stage: {} for stage in finished}))
    surroundings = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    surroundings["HF_HOME"] = str(folder)  # no token lies there
    commands = [sys.executable, "-c", CALL_ALL]
    ended = subprocess.run(
        commands, cwd=folder, input=json.dumps(list(WRONG)), capture_output=True, text=True, env=surroundings
    )
    assert ended.returncode == 0, ended.stderr
    left = {file.name for file in folder.iterdir()}
    assert left == {"photos", "a.jpg", "full", "other", "stored", "r.yaml", *runs, *TAKEN}, (
        "a refused command leaves nothing"
    )
    return json.loads(ended.stdout)


@pytest.mark.parametrize("command", WRONG)
def test_a_wrong_path_is_told_in_one_line_before_torch_is_imported(answers, command: str) -> None:
    code, said, heavy = answers[command]
    assert code == 2
    assert said.startswith("error: ")
    assert WRONG[command] in said
    assert len(said.splitlines()) == 1
    assert heavy == []


def test_every_verb_is_among_them() -> None:
    told = {" ".join(command.split()[:2]) for command in WRONG} | {command.split()[0] for command in WRONG}
    for command in app.registered_commands:
        assert (command.name or command.callback.__name__) in told | {"pull"}
    for group in app.registered_groups:
        for command in group.typer_instance.registered_commands:
            name = f"{group.name} {command.name or command.callback.__name__}"
            assert name in told | {"augment draw", "recipe show", "recipe schema", "recipe list", "recipe copy"}


def test_paths_of_another_user_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vae_ldm.paths import check_model, expanded

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    check_model("~/run")
    assert expanded("~/run") == tmp_path / "run"
