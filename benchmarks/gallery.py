"""Draws the pictures of docs/gallery.md anew, by the commands that stand on that page.

    python benchmarks/gallery.py --runs runs

The runs must be there: commands that train are passed over, and so is a section whose runs are missing. All other
commands and Python blocks run in order in the folder --work, so that a picture cannot differ from the command above
it. A command whose --out is there already is not run again: delete what is to be drawn anew.

What `--out NAME` names becomes docs/pictures/gallery-NAME.webp: the grid of a folder of pictures, the film of a morph,
or a screenshot of a page by Chromium. `--only NAME` makes one of them, of what lies in --work already.
"""

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "gallery.md"
PICTURES = ROOT / "docs" / "pictures"
FILMS = ("morph.webp", "walk.webp")
STILL_QUALITY, FILM_QUALITY = 85, 75
WINDOW = (1090, 1840)
"""Width and height of the screenshot in pixels; it is cut at the last blank line above that height."""
SPARE_HEIGHT = 200
"""A browser without a window keeps room for its bars at the foot of the screenshot."""
SHOWN_WIDTH = 880
"""The screenshot's width in the end."""


@dataclass(frozen=True)
class Block:
    """One code block of a section of the page."""

    section: str
    language: str
    code: str

    @property
    def commands(self) -> list[list[str]]:
        """The arguments of each command of ours that does not train."""
        if self.language != "bash":
            return []
        lines = self.code.replace("\\\n", " ").splitlines()
        found = [shlex.split(line)[1:] for line in lines if line.startswith("vae-ldm ")]
        return [arguments for arguments in found if arguments[0] != "train"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of the finished runs")
    parser.add_argument("--work", type=Path, help="where the commands run; by default gallery/ among the runs")
    parser.add_argument("--pictures", type=Path, default=PICTURES, help="where the pictures go")
    parser.add_argument("--only", metavar="NAME", help="make the picture of this --out alone")
    parser.add_argument("--chromium", default="chromium", help="the browser that shows pages")
    asked = parser.parse_args()
    work = asked.work or asked.runs / "gallery"
    draw(PAGE.read_text(encoding="utf-8"), asked.runs, work, asked.pictures, asked.only, asked.chromium)


def draw(page: str, runs: Path, work: Path, pictures: Path, only: str | None = None, browser: str = "chromium") -> None:
    """Run the blocks of the page in `work` and write what they draw to `pictures`.

    Raises SystemExit where no command of the page writes `only`, or where a command fails.
    """
    names = [out_of(command) for block in blocks(page) for command in block.commands]
    if only is not None and only not in names:
        raise SystemExit(f"--only {only}: the page has {', '.join(name for name in names if name is not None)}")
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "runs").exists():
        (work / "runs").symlink_to(runs.resolve())
    found = list(blocks(page))
    for section in dict.fromkeys(block.section for block in found):
        here = [block for block in found if block.section == section]
        commands = [command for block in here for command in block.commands]
        if only is not None and only not in map(out_of, commands):
            continue
        needed = {word for command in commands for word in command if re.fullmatch(r"runs/[^/]+", word)}
        missing = sorted(run for run in needed if not (work / run / "pipeline").exists())
        if missing:
            print(f"{section}: passed over, because {', '.join(missing)} has no pipeline yet")
            continue
        for block in here:
            if block.language == "python":
                subprocess.run([sys.executable, "-c", block.code], cwd=work, check=True)
            for command in block.commands:
                name = out_of(command)
                if name is None or not (work / name).exists():
                    print("vae-ldm", shlex.join(command), flush=True)
                    if subprocess.run([sys.executable, "-m", "vae_ldm", *command], cwd=work).returncode:
                        raise SystemExit(f"{section}: the command above has failed")
                if name is not None and only in (None, name):
                    print(shrink(work / name, pictures / picture_of(name), browser))


def blocks(page: str) -> Iterator[Block]:
    """The code blocks of a Markdown page in order, each with the title above it."""
    section = ""
    for title, language, code in re.findall(r"^## ([^\n]+)$|^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        section = title or section
        if language:
            yield Block(section, language, code)


def out_of(command: list[str]) -> str | None:
    """What `--out` names in a command; None where nothing is named."""
    return command[command.index("--out") + 1] if "--out" in command else None


def picture_of(name: str) -> str:
    """The file in docs/pictures of what a command has written to `name`."""
    return f"gallery-{Path(name).stem}.webp"


def shrink(written: Path, target: Path, browser: str) -> str:
    """Write a command's result as a small WebP, and say how large it is."""
    film = next((written / name for name in FILMS if (written / name).exists()), None)
    if written.suffix == ".html":
        screenshot(written, browser).save(target, quality=STILL_QUALITY, method=6)
    elif film is not None:
        shrink_film(film, target)
    else:
        with Image.open(written / "grid.png") as grid:
            grid.save(target, quality=STILL_QUALITY, method=6)
    with Image.open(target) as picture:
        return f"{target.name}: {picture.width} x {picture.height}, {target.stat().st_size:,} bytes"


def shrink_film(film: Path, target: Path) -> None:
    """The same frames, as long and as endless, with loss."""
    frames, milliseconds = [], []
    with Image.open(film) as pages:
        for page in ImageSequence.Iterator(pages):
            frames.append(page.convert("RGB"))
            milliseconds.append(page.info["duration"])
    frames[0].save(
        target,
        save_all=True,
        append_images=frames[1:],
        duration=milliseconds,
        loop=0,
        quality=FILM_QUALITY,
        method=4,
    )


def screenshot(page: Path, browser: str) -> Image.Image:
    """The top of a page as a browser shows it, without half a picture at its foot."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        switches = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
        switches += " disable-component-update disable-sync hide-scrollbars force-device-scale-factor=1"
        subprocess.run(
            [
                browser,
                *(f"--{switch}" for switch in switches.split()),
                f"--user-data-dir={folder}/profile",
                f"--window-size={WINDOW[0]},{WINDOW[1] + SPARE_HEIGHT}",
                f"--screenshot={shot}",
                page.resolve().as_uri(),
            ],
            check=True,
            capture_output=True,
        )
        image = above_blank(Image.open(shot).convert("RGB").crop((0, 0, *WINDOW)))
    return image.resize((SHOWN_WIDTH, round(image.height * SHOWN_WIDTH / image.width)), Image.Resampling.LANCZOS)


def above_blank(image: Image.Image, blank_rows: int = 18) -> Image.Image:
    """The image down to its last `blank_rows` rows of one colour, which stay as a margin."""
    pixels = np.asarray(image)
    is_blank = (pixels == pixels[:, :1]).all(axis=(1, 2))
    bottom = len(pixels)
    while bottom > blank_rows and not is_blank[bottom - blank_rows : bottom].all():
        bottom -= 1
    while bottom > blank_rows and is_blank[bottom - blank_rows - 1]:
        bottom -= 1
    return image.crop((0, 0, image.width, bottom))


if __name__ == "__main__":
    main()
