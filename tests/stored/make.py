"""Makes tests/stored/3f0c8c3 and its expected.json. Runs at commit 3f0c8c3 and at no other.

git worktree add ../at-3f0c8c3 3f0c8c3        # and an environment for it
OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= ../at-3f0c8c3/.venv/bin/python tests/stored/make.py
"""

import json
import logging
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import verbs
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from pytorch_lightning import Callback
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import vae_ldm
from vae_ldm.evaluation.candidate_filter import CandidateFilter
from vae_ldm.hub import Pushed
from vae_ldm.recipe import read_recipe
from vae_ldm.run import fitting
from vae_ldm.run import push as pushing
from vae_ldm.run.stages import train_run

HERE = Path(__file__).parent / "3f0c8c3"
WORK = Path("/tmp/vae-ldm-3f0c8c3")
"""Where everything is made: index, detector and archive keep the whole path of a photo and of a model."""

CLASSES = {"parcel": (180, 140, 90), "tin": (60, 110, 170)}


def draw_photo(rng: np.random.Generator, color: tuple[int, int, int], *, striped: bool = False) -> Image.Image:
    """A box of one colour on a dark table, 20x18 pixels, wandering a little."""
    pixels = np.full((18, 20, 3), 40, np.uint8)
    top, left = rng.integers(2, 5, 2)
    pixels[top : top + 11, left : left + 12] = np.clip(np.array(color) + rng.integers(-20, 21), 0, 255)
    if striped:
        pixels[::2] = (230, 20, 200)
    return Image.fromarray(pixels)


def draw_photos() -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("validation", 4)):
        for name, color in CLASSES.items():
            folder = Path("photos") / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                draw_photo(rng, color).save(folder / f"{number:02d}.png")
    Path("new").mkdir()
    draw_photo(rng, CLASSES["parcel"]).save("new/usual parcel.png")
    draw_photo(rng, CLASSES["tin"]).save("new/usual tin.png")
    draw_photo(rng, CLASSES["tin"], striped=True).save("new/striped.png")
    Image.new("RGB", (20, 18), (255, 255, 255)).save("new/white.png")


def make_base() -> None:
    """A pipeline of Stable Diffusion's layout in very small, to fine-tune."""
    torch.manual_seed(0)
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "t": 3, "in</w>": 4, "tin</w>": 5, "i": 6}
    vocabulary |= {"n</w>": 7, "a": 8, "n": 9}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[("i", "n</w>"), ("t", "in</w>")], model_max_length=12)
    config = CLIPTextConfig(
        vocab_size=10, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=12,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(4, 4, 4), norm_num_groups=4, sample_size=16, scaling_factor=0.18215,
        ),
        text_encoder=CLIPTextModel(config),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), block_out_channels=(8, 8), layers_per_block=1,
            attention_head_dim=2, cross_attention_dim=16, norm_num_groups=4,
        ),
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True,
            set_alpha_to_one=False, steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained("base")  # fmt: skip


class StopAt(Callback):
    """In place of kill -9."""

    def on_train_batch_start(self, *arguments: Any) -> None:
        if arguments[3] == 5:
            raise KeyboardInterrupt


def stop_under_way() -> None:
    """Train runs/lora up to its fifth step, of which the fourth is saved."""
    build_trainer = fitting.build_trainer
    with pytest.MonkeyPatch.context() as patch:

        def stopping(*args: Any, **kwargs: Any) -> Any:
            kwargs["callbacks"] = [*kwargs["callbacks"], StopAt()]
            return build_trainer(*args, **kwargs)

        patch.setattr(fitting, "build_trainer", stopping)
        try:
            train_run(read_recipe(Path("recipes/lora.yaml")))
        except KeyboardInterrupt:
            return
    raise AssertionError("it was not stopped")


def augment() -> None:
    """Draw six pictures a class, of which the filter drops every fourth: of so small a model it would drop all."""
    judge = CandidateFilter.__call__

    def keep_most(self: CandidateFilter, pictures: Any, labels: Any) -> Any:
        fourth = torch.arange(len(pictures)) % 4 == 3
        return replace(
            judge(self, pictures, labels), near_copy=fourth, off_class=torch.zeros(len(pictures), dtype=bool)
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CandidateFilter, "__call__", keep_most)
        verbs.run_verb(*verbs.AUGMENT)


def push() -> None:
    """Lay what push would send, less the pipeline's own files, in push/."""

    def keep(files: dict[str, Path | bytes], *_: Any, **__: Any) -> Pushed:
        pipeline = Path("runs/claims/pipeline")
        for name, content in files.items():
            if not (pipeline / name).is_file():
                (Path("push") / name).parent.mkdir(parents=True, exist_ok=True)
                (Path("push") / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        return Pushed("", "0" * 40, len(files), True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pushing, "check_access", lambda *_, **__: None)
        patch.setattr(pushing, "upload", keep)
        vae_ldm.push("runs/claims", "acme/claims", license="mit")


def tidy() -> None:
    """Remove what is large and read by no verb: a user may have removed it as well."""
    for run in verbs.PROMPTS:
        for folder in ("autoencoder/checkpoints", "autoencoder/reconstructions", "diffusion/checkpoints", "latents"):
            shutil.rmtree(f"runs/{run}/{folder}")
        for file in ("report.html", "samples/worst_reconstructions.png", "samples/neighbours.png"):
            Path(f"runs/{run}/{file}").unlink()
    Path("runs/lora/diffusion/checkpoints/best.ckpt").unlink()
    for name in ("lock", "lightning_logs", "events.*"):
        for path in Path().rglob(name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def main() -> None:
    commit = subprocess.check_output(
        ["git", "rev-parse", "--short=7", "HEAD"], text=True, cwd=Path(vae_ldm.__file__).parent
    )
    assert commit.strip() == "3f0c8c3", commit
    logging.disable(logging.WARNING)
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    recipes = HERE.parent / "recipes"
    shutil.copytree(recipes, WORK / "recipes")
    os.chdir(WORK)
    torch.set_num_threads(1)
    draw_photos()
    make_base()
    with verbs.sizes_of_then():
        for name in verbs.PROMPTS:
            verbs.run_verb("train", f"recipes/{name}.yaml")
        stop_under_way()
        model, latents, rate = ("--model", "runs/photos"), ("--features", "latents"), ("--false-alarm-rate", 0.2)
        verbs.run_verb("index", "build", "index", "photos/train", *model)
        verbs.run_verb("novelty", "fit", "photos/train", *model, "--out", "novelty", *latents, *rate, "--score", "knn")
        verbs.run_verb("desk", "desk", "photos/train", *model, *latents, *rate)
        verbs.run_verb("archive", "add", "archive", "photos/train", *model, "--target-psnr", 18, "--prefer", "latents")
        augment()
        push()
    tidy()
    shutil.rmtree(HERE, ignore_errors=True)
    shutil.copytree(WORK, HERE)
    with verbs.sizes_of_then():
        answers = verbs.answers(WORK / "answers")
    (HERE / "pictures").mkdir()
    for run in answers["pictures"]:
        shutil.copy(WORK / "answers" / run / "000000.png", HERE / "pictures" / f"{run}.png")
    answers["num_files"] = 1 + sum(path.is_file() for path in HERE.rglob("*"))
    (HERE / "expected.json").write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    main()
