"""Every picture of docs/gallery.md comes from a command above it, and benchmarks/gallery.py makes it small."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import typer.main
from PIL import Image, ImageSequence

from vae_ldm.cli import app

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def gallery():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import gallery

        yield gallery
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture
def film(tmp_path):
    """The folder of a morph: a film of four frames, each of spots of its own, as `morph` saves it."""
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (5, 8, 3), np.uint8)).resize((64, 40)) for _ in range(4)]
    (tmp_path / "morph").mkdir()
    file = tmp_path / "morph" / "morph.webp"
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=90, loop=0, lossless=True)
    frames[0].save(tmp_path / "morph" / "strip.png")
    return tmp_path / "morph"


def test_every_picture_of_the_page_is_what_a_command_above_it_has_written(gallery):
    shown = re.findall(r"pictures/(gallery-[\w-]+\.webp)", PAGE)
    made = [gallery.out_of(command) for block in gallery.blocks(PAGE) for command in block.commands]
    made = [gallery.picture_of(name) for name in made if name is not None]
    assert shown == made
    assert len(shown) == 5
    for name in shown:
        assert PAGE.index(f"--out {re.sub(r'gallery-|.webp', '', name)}") < PAGE.index(name)


def test_every_command_of_the_page_can_be_called(gallery, trained_run, tmp_path, monkeypatch):
    """All but `train` are parsed as the command line parses them, among files as the page's own commands leave them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("claims-64", "product-photos-128", "product-photos-256"):
        (tmp_path / "runs" / name).symlink_to(trained_run.path)
    (tmp_path / "photos").mkdir()
    verbs = typer.main.get_command(app).commands
    for name, *rest in (command for block in gallery.blocks(PAGE) for command in block.commands):
        for photo in (word for word in rest if word.endswith((".png", ".jpg"))):
            (tmp_path / photo).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / photo).touch()
        if name != "claim":  # which looks into the desk at once
            verbs[name].make_context(name, list(rest))


def test_the_ends_of_the_morph_are_pictures_that_the_page_has_drawn(gallery):
    from vae_ldm.desk.generate import _folder_names

    drawn = set()
    for command in (command for block in gallery.blocks(PAGE) for command in block.commands):
        if command[0] == "generate":
            names = _folder_names([word for word in command if word.startswith("a photo of ")])
            seeds = range(int(command[command.index("-n") + 1]))
            drawn |= {f"{gallery.out_of(command)}/{name}/{seed:06d}.png" for name in names for seed in seeds}
        if command[0] == "morph":
            assert set(command[1:3]) <= drawn
    assert len(drawn) == 13 * 4 + 10 * 4 + 10 * 3


def test_a_film_keeps_its_frames_its_time_and_its_size_and_loses_bytes(gallery, film, tmp_path):
    said = gallery.shrink(film, tmp_path / "gallery-morph.webp", "no browser")
    before, after = film / "morph.webp", tmp_path / "gallery-morph.webp"
    assert said == f"gallery-morph.webp: 64 x 40, {after.stat().st_size:,} bytes"
    assert after.stat().st_size < before.stat().st_size / 2
    with Image.open(after) as small, Image.open(before) as large:
        assert (small.n_frames, small.info["loop"], small.size) == (4, 0, (64, 40))
        for one, other in zip(ImageSequence.Iterator(small), ImageSequence.Iterator(large), strict=True):
            difference = np.asarray(one.convert("RGB"), int) - np.asarray(other.convert("RGB"), int)
            assert one.info["duration"] == 90  # known once the frame is decoded
            assert np.abs(difference).mean() < 8


def test_a_grid_is_the_picture_of_a_folder_of_pictures(gallery, tmp_path):
    (tmp_path / "tins").mkdir()
    Image.new("RGB", (30, 20), "red").save(tmp_path / "tins" / "grid.png")
    gallery.shrink(tmp_path / "tins", tmp_path / "gallery-tins.webp", "no browser")
    with Image.open(tmp_path / "gallery-tins.webp") as picture:
        assert (picture.format, picture.size) == ("WEBP", (30, 20))


@pytest.mark.parametrize(("picture_ends", "bottom"), [(60, 72), (70, 52), (80, 52)])
def test_a_screenshot_is_cut_below_the_last_thing_that_is_whole(gallery, picture_ends, bottom):
    """One picture ends at row 40; the next begins at row 55, and may be cut or leave too little margin below it."""
    page = np.full((80, 20, 3), 255, np.uint8)
    page[5:40, 4:16] = page[55:picture_ends, 4:16] = 0
    assert gallery.above_blank(Image.fromarray(page), 12).size == (20, bottom)


@pytest.mark.slow
def test_the_page_is_drawn_by_its_own_commands_and_not_twice(gallery, trained_run, tmp_path, capfd):
    page = """# A page

## Drawn

```bash
vae-ldm train recipes/tiny.yaml
```

```python
open("there.txt", "w").write("there")
```

```bash
vae-ldm generate runs/tiny -n 1 --steps 1 --out both \\
    "a photo" "a tin"
```

## Not there

```bash
vae-ldm generate runs/absent "a tin" --out absent
```
"""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tiny").symlink_to(trained_run.path)
    (tmp_path / "pictures").mkdir()
    folders = [tmp_path / name for name in ("runs", "work", "pictures")]
    for _ in range(2):
        gallery.draw(page, *folders)
    said = capfd.readouterr().out
    assert said.count(shlex.join(["vae-ldm", "generate", "runs/tiny"])) == 1
    assert said.count("Not there: passed over, because runs/absent has no pipeline yet") == 2
    assert (tmp_path / "work" / "there.txt").exists()
    assert [file.name for file in (tmp_path / "pictures").iterdir()] == ["gallery-both.webp"]
    (tmp_path / "pictures" / "gallery-both.webp").unlink()
    gallery.draw(page, *folders, only="absent")
    assert not list((tmp_path / "pictures").iterdir())
    with pytest.raises(SystemExit, match=r"^--only another: the page has both, absent$"):
        gallery.draw(page, *folders, only="another")
    (tmp_path / "runs" / "absent").symlink_to(trained_run.path)
    with pytest.raises(SystemExit, match=r"^Not there: the command above has failed$"):
        gallery.draw(page.replace('"a tin" --out absent', "--out absent"), *folders)
