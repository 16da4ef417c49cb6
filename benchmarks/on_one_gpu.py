"""What benchmarks/on_one_gpu.sh runs on the GPU machine: one part, within its seconds.

    python benchmarks/on_one_gpu.py a --pack gpu_pack --out gpu_out --seconds 540
    python benchmarks/on_one_gpu.py b --pack gpu_pack --out gpu_out --seconds 540 --dry-run     # a few steps on a CPU

Part a trains the starter twice, without and with the packs that judge it. Part b is recipes/product-photos-256.yaml to
its report. Part c is benchmarks/train_speed.py's rows of a UNet. How many steps fit is told by timing a few steps. The
files that come back lie in the folder `--out` itself, none above 16 MB.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from pack_for_gpu import ROOT, PackError, unpack_photos
from quality_per_minute import NEVER, EnoughError, as_array, beside_linear_code, clocked

from vae_ldm.assembly import decode_pictures
from vae_ldm.recipe import Recipe, parts, read_recipe
from vae_ldm.run.autoencoder_stage import run_autoencoder_stage
from vae_ldm.run.diffusion_stage import run_diffusion_stage
from vae_ldm.run.session import Session
from vae_ldm.run.stages import train_run

MOST_BYTES = 15_000_000
"""Of a file that comes back; the machine gives back 16 MiB a file."""
TIMED_STEPS, SKIPPED_STEPS = 40, 10
JUDGED_SIZE = 128
"""Pixels at which the starter is judged, as in its model card."""
RESERVE = {"a": 50.0, "b": 110.0}
"""Seconds for what follows the training: measuring, drawing, saving."""


@dataclass(frozen=True)
class Part:
    """What a part is given."""

    pack: Path
    out: Path
    work: Path
    ends: float
    """By `time.monotonic`."""
    dry_run: bool

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()


def wall_seconds() -> float:
    """A clock that waits for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def session_of(recipe: Recipe, pictures: Path) -> Session:
    """A new run that shares decoded pictures with others."""
    session = Session.of(recipe)
    decode_pictures(session.recipe, pictures, say=print)
    session.run.path.mkdir(parents=True, exist_ok=True)
    session.run.pictures.symlink_to(pictures, target_is_directory=True)
    session.run.adopt(session.recipe)
    return session


def steps_within(part: Part, file: Path, overrides: Sequence[str], stage: str, seconds: float, pictures: Path) -> int:
    """How many steps of a stage take so many seconds, told by the first few of a run that is thrown away."""
    if part.dry_run:
        return 2
    with tempfile.TemporaryDirectory(dir=part.work, prefix="timed-") as folder:
        timing = [f"output_dir={folder}", f"{stage}.trainer.max_steps={TIMED_STEPS}", *quiet(stage)]
        session = session_of(read_recipe(file, last_of_each([*overrides, *timing])), pictures)
        with clocked(SKIPPED_STEPS, no_more=True, now=wall_seconds) as clock, suppress(EnoughError):
            autoencoder = run_autoencoder_stage(session)
            run_diffusion_stage(session, autoencoder, lambda *_: lambda *_: None)
    steps = max(1, int(seconds * clock.steps / clock.seconds))
    print(f"{stage}: {clock.steps / clock.seconds:.2f} steps a second, so {steps:,} in {seconds:.0f} s", flush=True)
    return steps


def quiet(stage: str) -> list[str]:
    """Settings without validation and checkpoints, which a short stage on a machine of its own does not need."""
    return [f"{stage}.trainer.val_every_n_steps={NEVER}", f"{stage}.trainer.checkpoint_every_n_steps={NEVER}"]


def last_of_each(overrides: Sequence[str]) -> list[str]:
    """The overrides with the last one of each key; a recipe refuses doubles."""
    return list({line.partition("=")[0]: line for line in overrides}.values())


def half_weights(network: nn.Module, file: Path) -> bool:
    """Save the weights as float16; False, and a line, where they would be too large to come back."""
    weights = {name: value.half().contiguous().cpu() for name, value in network.state_dict().items()}
    if (size := sum(value.nbytes for value in weights.values())) > MOST_BYTES:
        print(f"{file.name}: {size / 1e6:.0f} MB of weights do not come back")
        return False
    save_file(weights, file, metadata={"format": "pt"})
    return True


def give_picture(source: Path, target: Path) -> None:
    """Copy a PNG, smaller where it is too large to come back."""
    shutil.copyfile(source, target)
    with Image.open(source) as opened:
        picture = opened.convert("RGB")
    while target.stat().st_size > MOST_BYTES:
        picture = picture.resize((picture.width * 3 // 4, picture.height * 3 // 4), Image.Resampling.LANCZOS)
        picture.save(target)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(str(row.get(name, '')) for name in columns)} |" for row in rows]
    return "\n".join(lines) + "\n"


def device() -> str:
    """What the figures were measured on."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{name}, torch {torch.__version__}"


# --- a: the starter ---------------------------------------------------------------------------------------------------


def starter(part: Part) -> None:
    """Train the starter without the packs that judge it, and then with all; judge both on product_clothing256."""
    photos = unpack_photos(part.pack, part.work / "photos", "a")
    size = 64 if part.dry_run else JUDGED_SIZE
    data = {"type": "image_folder", "path": str(photos / "product_clothing256"), "image_size": size}
    judging = decode_pictures(
        Recipe.model_validate({"name": "judging", "data": data, "autoencoder": {}}), part.work / "judging", say=print
    )
    rows: list[dict[str, Any]] = []
    files = {"held-out": ROOT / "benchmarks/starter-held-out.yaml", "starter": ROOT / "recipes/starter-f8c16.yaml"}
    for name, file in files.items():
        sources = read_recipe(file).data
        assert isinstance(sources, parts.Mixture)
        overrides = [
            f"output_dir={part.work}",
            f"name={name}",
            "autoencoder.trainer.batch_size=64",
            *quiet("autoencoder"),
        ]
        for index, source in enumerate(sources.sources):
            if source.type == "image_folder":
                overrides.append(f"data.sources[{index}].path={photos / Path(source.path).name}")
            elif part.dry_run:
                overrides += [f"data.sources[{index}].num_train=26", f"data.sources[{index}].num_validation=13"]
            if part.dry_run:
                overrides.append(f"data.sources[{index}].image_size=64")
        if part.dry_run:
            overrides += ["data.image_size=64", "autoencoder.crop_size=32", "autoencoder.trainer.batch_size=2"]
        pictures = part.work / f"pictures-{name}"
        share = 0.45 if name == "held-out" else 1.0
        decode_pictures(read_recipe(file, last_of_each(overrides)), pictures, say=print)
        seconds = max(5.0, share * (part.left - RESERVE["a"]) - 10)
        steps = steps_within(part, file, overrides, "autoencoder", seconds, pictures)
        session = session_of(
            read_recipe(file, last_of_each([*overrides, f"autoencoder.trainer.max_steps={steps}"])), pictures
        )
        autoencoder = run_autoencoder_stage(session)
        took = session.run.finished("autoencoder") or {}
        autoencoder.cpu()
        found = beside_linear_code(autoencoder, as_array(judging.train), as_array(judging.validation))
        rows.append(
            {"weights": name, "steps": took["num_steps"], "seconds": took["seconds"], "precision": took["precision"]}
            | found
        )
        if half_weights(autoencoder, part.out / f"{name}.safetensors"):
            shutil.copyfile(session.run.autoencoder / "config.json", part.out / f"{name}.config.json")
        (part.out / "a.md").write_text(f"{device()}; product_clothing256 at {size} px\n\n{table(rows)}")
        print(table(rows), flush=True)


# --- b: 256 px --------------------------------------------------------------------------------------------------------


def product_photos(part: Part) -> None:
    """recipes/product-photos-256.yaml to its report, with as many steps as there is time for."""
    photos = unpack_photos(part.pack, part.work / "photos", "b")
    file, pictures = ROOT / "recipes/product-photos-256.yaml", part.work / "pictures"
    source = part.pack / "starter"
    overrides = [f"output_dir={part.work}", f"data.path={photos / 'product_clothing256'}"]
    overrides += ["evaluation.num_samples=512"]
    if source.is_dir():
        overrides.append(f"autoencoder.from_pretrained={source}")
    if part.dry_run:
        overrides += [
            "data.image_size=64",
            "autoencoder.crop_size=32",
            "diffusion.size=nano",
            "evaluation.num_samples=4",
        ]
        overrides += ["evaluation.num_inference_steps=2"]
        overrides += [f"{stage}.trainer.batch_size=2" for stage in ("autoencoder", "diffusion")]
    decode_pictures(read_recipe(file, last_of_each(overrides)), pictures, say=print)
    first = steps_within(part, file, [*overrides, "diffusion=null"], "autoencoder", 45.0, pictures)
    frozen = json.dumps({"from_pretrained": str(source) if source.is_dir() else "starter", "train": "nothing"})
    without_decoder = [each for each in overrides if not each.startswith("autoencoder.")]
    seconds = max(5.0, part.left - RESERVE["b"] - 45 - 20)
    second = steps_within(part, file, [*without_decoder, f"autoencoder={frozen}"], "diffusion", seconds, pictures)
    steps = [f"autoencoder.trainer.max_steps={first}", f"diffusion.trainer.max_steps={second}"]
    recipe = read_recipe(file, last_of_each([*overrides, *quiet("autoencoder"), *quiet("diffusion"), *steps]))
    session_of(recipe, pictures)
    train_run(recipe)
    run = part.work / recipe.name
    metrics = json.loads((run / "metrics.json").read_text())
    rows = [
        {"measurement": each["name"], "value": f"{each['value']:.5g}", "of": f"{each['num_images']} {each['split']}"}
        for each in metrics["measurements"]
    ]
    timings = "; ".join(f"{each['stage']} {each['seconds']} s" for each in metrics["timings"])
    (part.out / "b.md").write_text(f"{device()}; steps {first}, {second}; {timings}\n\n{table(rows)}")
    print(table(rows), flush=True)
    shutil.copyfile(run / "metrics.json", part.out / "b.metrics.json")
    for name in ("samples", "reconstructions"):
        give_picture(run / "samples" / f"{name}.png", part.out / f"b.{name}.png")
    half_weights(AutoencoderKL.from_pretrained(run / "pipeline" / "vae"), part.out / "b.vae.safetensors")
    half_weights(UNet2DConditionModel.from_pretrained(run / "pipeline" / "unet"), part.out / "b.unet.safetensors")


# --- c: the speed of a UNet -------------------------------------------------------------------------------------------


def speed(part: Part) -> None:
    """train_speed.py's rows of the UNet: bf16 on cached latents, compiled, and eager float32."""
    command = [sys.executable, "-u", str(ROOT / "benchmarks/train_speed.py"), "--stage", "unet", "--float32"]
    if part.dry_run:
        command += ["--steps", "1", "--rounds", "1", "--image-size", "32", "--batch-size", "2", "2"]
    else:
        command += ["--image-size", "256", "--downsample-factor", "8", "--size", "sd", "base"]
        command += ["--batch-size", "16", "64", "--steps", "20", "--rounds", "1", "--compiled"]
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
            (part.out / "c.txt").write_text("".join(lines))  # what is there already where the time ends
    if process.returncode:
        sys.exit(f"error: train_speed.py ended with {process.returncode}")


PARTS = {"a": starter, "b": product_photos, "c": speed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--pack", type=Path, required=True, help="the folder that `on_one_gpu.sh pack` made")
    parser.add_argument("--out", type=Path, required=True, help="where the files lie that come back")
    parser.add_argument("--seconds", type=float, required=True, help="that the part may take from now on")
    parser.add_argument("--dry-run", action="store_true", help="two steps each, on any machine")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="one-gpu-") as work:
        ends = time.monotonic() + args.seconds
        part = Part(args.pack.resolve(), args.out.resolve(), Path(work).resolve(), ends, args.dry_run)
        try:
            PARTS[args.part](part)
        except PackError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
