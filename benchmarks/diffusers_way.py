"""Our diffusion stage beside diffusers' own way of training, after equal CPU seconds and on the same latents.

    OMP_NUM_THREADS=1 python benchmarks/diffusers_way.py run claims-32 --seconds 300 --seeds 0 1 2
    OMP_NUM_THREADS=1 python benchmarks/diffusers_way.py run clothing-64 --seconds 1200 --autoencoder runs/garments
    python benchmarks/diffusers_way.py table > cells.md

Both sides have the same autoencoder and cached posteriors, prompts, share of dropped captions, UNet, text encoder,
start weights, batch size and batches, and one thread:

- `ours` is the recipe's diffusion stage as it is. Samples are drawn by the exported scheduler, in as many steps as the
  recipe's evaluation takes;
- `diffusers` is the loop of diffusers' example scripts (benchmarks/diffusers_example.py): epsilon, linear betas, AdamW,
  EMAModel, 50 steps of DDIM. It is trained with three learning rates.

The first steps of each training are timed, and the number of steps is set so that training takes the seconds asked
for: CPU seconds of the process from the first step to the last.

The guidance of both, and the learning rate of `diffusers`, are those whose 256 samples have the lowest FD. These
samples are of seed 0 of the training, from noise that the result never sees. Then every seed's model draws the samples
of the result, both sides from the same prompts and noise. FD and KID are to all training pictures. FD, KID, precision
and recall are of samples with the classes as often as training has them (`num_compared`). Agreement is of samples with
the classes equally often: the share that a probe classifier agrees with. A third side, `reconstructions`, says what the
autoencoder alone costs: as many training pictures, encoded and decoded.

Finished cells stand in diffusers_way.jsonl beside this file, a line a cell; repeat the command to go on where it was
stopped. Trained pipelines, and a grid of each result's samples, stay in --folder. Without --autoencoder the recipe's
own is trained there first. The packs are folders of photos below --photos; those of claims are drawn by code.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from shutil import copytree
from typing import Any, Literal

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch.utils.data import DataLoader

# By path, because a file of benchmarks/ is run as a script.
sys.path.insert(0, str(Path(__file__).parent))
import diffusers_example
from diffusers_table import in_markdown, read_table
from quality_per_minute import NUM_TIMED_STEPS, Bench, Cell, CpuClock, as_array, frozen, of_samples, took
from quality_variants import PACKS as ALL_PACKS
from quality_variants import VARIANTS, Pack

from vae_ldm.assembly import DiffusionParts, build_diffusion, of_each_picture, picture_prompts, prompt_ids
from vae_ldm.data.posterior_cache import PosteriorDataset
from vae_ldm.data.sampling import endless_batches
from vae_ldm.errors import VaeLdmError
from vae_ldm.evaluation.evaluator import RealPictures
from vae_ldm.evaluation.set_comparison import compare_sets
from vae_ldm.files import whole_folder, write_json, write_picture
from vae_ldm.models.batches import batch_size_for, in_batches
from vae_ldm.models.pixels import as_images, as_pictures
from vae_ldm.models.weights_digest import weights_digest
from vae_ldm.pages.image_grid import image_grid
from vae_ldm.pipelines.plain_folder import save_plain_pipeline
from vae_ldm.pipelines.sampling import sample_images
from vae_ldm.run.autoencoder_stage import run_autoencoder_stage
from vae_ldm.run.diffusion_stage import cached_posteriors, vocabulary
from vae_ldm.run.evaluate import real_pictures
from vae_ldm.run.sample_prompts import SamplePrompts, sample_prompts
from vae_ldm.run.session import Session

Side = Literal["ours", "diffusers"]

TABLE = Path(__file__).with_suffix(".jsonl")
PACKS = {name: ALL_PACKS[name] for name in ("claims-32", "clothing-64")}
PACKS["claims-64"] = Pack("recipes/claims-64.yaml")
SIDES: tuple[Side, ...] = ("ours", "diffusers")
LEARNING_RATES = (1e-4, 5e-4, 1.5e-3)
"""Of `diffusers`; ours is the recipe's."""
GUIDANCE_SCALES = (1.0, 1.5, 2.0, 3.0, 4.0)
CHOICE_SEED, NUM_CHOICE_SAMPLES = 0, 256
FIRST_CHOICE_NOISE = 1_000_000
"""Sample i of the choice has the noise of seed FIRST_CHOICE_NOISE + i; that of the result has the noise of seed i."""


@dataclass(frozen=True)
class Model:
    """What is trained once."""

    side: Side
    pack: str
    seconds: float
    autoencoder: str
    """The digest of its weights."""
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """That of its folder."""
        return "-".join(f"{value:g}" if isinstance(value, float) else str(value) for value in asdict(self).values())


@dataclass(frozen=True)
class Draw:
    """Samples of a model, drawn to choose its settings or as its result."""

    model: Model
    guidance_scale: float
    num_samples: int
    purpose: Literal["choice", "result"]

    @property
    def key(self) -> dict[str, Any]:
        """What tells it from other cells in the table."""
        own = {name: getattr(self, name) for name in ("guidance_scale", "num_samples", "purpose")}
        return asdict(self.model) | own


class Comparison(Bench):
    """Both sides on one pack. What they share lies in `folder`, and all else in `scratch`."""

    latents: Path | None = None

    def __init__(self, folder: Path, photos: Path, pack: str, seconds: float, autoencoder: str, scratch: Path) -> None:
        super().__init__(folder, photos, PACKS)
        self.pack, self.seconds, self.source, self.scratch = pack, seconds, autoencoder, scratch
        self.judge = self.session(self.cell(CHOICE_SEED), "judge", self.overrides())
        assert self.judge.recipe.diffusion is not None
        self.stage = self.judge.recipe.diffusion
        self.autoencoder = run_autoencoder_stage(self.judge)
        self.digest = weights_digest(self.autoencoder)[:8]
        self.latents = folder / f"latents-{pack}-{self.digest}"
        self.latents.mkdir(exist_ok=True)

    def cell(self, seed: int) -> Cell:
        """The recipe as it is."""
        return Cell("unet", self.pack, VARIANTS["unet"]["recipe"], seed, self.seconds)

    def overrides(self) -> list[str]:
        """Where a run lies, and what it starts from."""
        return [f"output_dir={tempfile.mkdtemp(dir=self.scratch)}", frozen(self.source)]

    def session(self, cell: Cell, name: str, overrides: Sequence[str]) -> Session:
        """A run that also shares the pack's posteriors."""
        session = super().session(cell, name, overrides)
        if self.latents is not None:
            session.run.latents.symlink_to(self.latents, target_is_directory=True)
        return session

    @cached_property
    def real(self) -> RealPictures:
        """What every cell is measured beside, with one probe for all."""
        return real_pictures(self.judge, self.judge.recipe.evaluation)

    def choices(self, side: Side) -> list[Draw]:
        """One for each learning rate and guidance."""
        rates = (self.stage.optimizer.learning_rate,) if side == "ours" else LEARNING_RATES
        models = [Model(side, self.pack, self.seconds, self.digest, rate, CHOICE_SEED) for rate in rates]
        return [Draw(model, scale, NUM_CHOICE_SAMPLES, "choice") for model in models for scale in GUIDANCE_SCALES]

    def prompts(self, num_samples: int) -> SamplePrompts:
        """What both sides are asked for."""
        pictures = self.judge.pictures
        return sample_prompts(self.judge.recipe, pictures.train, pictures.validation, num_samples)

    def kept(self, model: Model) -> tuple[Path, dict[str, Any]]:
        """The folder of the model's pipeline, trained now unless it was, and what training took."""
        folder = self.folder / "trained" / model.name
        if not folder.exists():
            print(f"training {model.name}", flush=True)
            with whole_folder(folder) as part:
                clock = self._train_ours(model, part) if model.side == "ours" else self._train_diffusers(model, part)
                write_json(part / "took.json", took(clock))
        return folder, json.loads((folder / "took.json").read_text())

    def _train_ours(self, model: Model, folder: Path) -> CpuClock:
        session, clock, _ = self.trained(self.cell(model.seed), "unet", "ours", self.overrides(), self.seconds)
        copytree(session.run.pipeline, folder, dirs_exist_ok=True)
        return clock

    def _train_diffusers(self, model: Model, folder: Path) -> CpuClock:
        session = self.session(self.cell(model.seed), "diffusers", self.overrides())
        autoencoder = run_autoencoder_stage(session)
        posteriors = cached_posteriors(session, autoencoder, "train")

        def train(max_steps: int, clock: CpuClock) -> DiffusionParts:
            recipe, pictures = session.recipe, session.pictures.train
            prompts = picture_prompts(recipe, pictures)
            torch.manual_seed(model.seed)  # as the recipe's stage does, for the same start weights
            diffusion = build_diffusion(recipe, autoencoder, vocabulary(session, prompts))
            flips = of_each_picture(recipe, pictures, "horizontal_flip")
            data = PosteriorDataset(posteriors, prompt_ids(diffusion, prompts), seed=model.seed, augment=flips)
            order = endless_batches(len(data), self.stage.trainer.batch_size, None, seed=model.seed, start_batch=0)
            diffusers_example.train(
                diffusion,
                DataLoader(data, sampler=order, batch_size=None),
                learning_rate=model.learning_rate,
                max_steps=max_steps,
                caption_dropout=self.stage.caption_dropout,
                clock=clock,
            )
            return diffusion

        trial, clock = CpuClock(5), CpuClock()
        train(NUM_TIMED_STEPS, trial)
        diffusion = train(trial.steps_in(self.seconds), clock)
        save_plain_pipeline(diffusers_example.pipeline(diffusion, autoencoder), folder)
        return clock

    def drawn(self, draw: Draw) -> dict[str, Any]:
        """The row of the table."""
        folder, cost = self.kept(draw.model)
        pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
        pipeline.set_progress_bar_config(disable=True)
        steps = self.judge.recipe.evaluation.num_inference_steps
        if draw.model.side == "diffusers":
            steps = diffusers_example.NUM_INFERENCE_STEPS
        asked = self.prompts(draw.num_samples)
        first = FIRST_CHOICE_NOISE if draw.purpose == "choice" else 0

        def sample(rows: range) -> np.ndarray:
            drawn = sample_images(
                pipeline,
                [asked.prompts[row] for row in rows],
                seeds=[first + row for row in rows],
                num_inference_steps=steps,
                guidance_scale=draw.guidance_scale,
            )
            return np.stack(drawn)

        samples = self._in_batches(sample, range(len(asked.prompts)))
        row = self.measured(samples[asked.as_in_training])
        balanced = samples[asked.balanced]
        if draw.purpose == "result":
            num_prompts = len({asked.prompts[row] for row in asked.balanced})
            columns = min(num_prompts if 1 < num_prompts <= 16 else 10, len(balanced))  # a column a class
            grid = image_grid(balanced[: 8 * columns], num_columns=columns, on_paper=True)
            write_picture(self.folder / f"{draw.model.name}-{draw.num_samples}.png", grid)
        if self.real.probe is not None and asked.labels is not None:
            agrees = self.real.probe.agrees(balanced, torch.from_numpy(asked.labels[asked.balanced]))
            row["agreement"] = round(100 * agrees.float().mean().item(), 2)
        return {"inference_steps": steps} | cost | row

    def reconstructed(self, num_samples: int) -> dict[str, Any]:
        """The row of training pictures that the autoencoder has encoded and decoded."""
        pictures = as_array(self.judge.pictures.train)
        rows = np.random.default_rng(0).permutation(len(pictures))[:num_samples]
        generator = torch.Generator().manual_seed(0)

        @torch.no_grad()
        def reconstruct(batch: np.ndarray) -> np.ndarray:
            latents = self.autoencoder.encode(as_images(batch)).latent_dist.sample(generator)
            return as_pictures(self.autoencoder.decode(latents).sample)

        return self.measured(self._in_batches(reconstruct, pictures[rows]))

    def _in_batches(self, function: Callable[[Any], np.ndarray], items: Any) -> np.ndarray:
        at_once = batch_size_for(self.judge.recipe.image_size, most=self.judge.recipe.evaluation.batch_size)
        return np.concatenate(list(in_batches(function, items, at_once)))

    def measured(self, pictures: np.ndarray) -> dict[str, Any]:
        """FD, KID, precision and recall beside the training pictures."""
        # Without held-out pictures: a pack with fewer of them than there are samples would leave samples out.
        found = compare_sets(self.real.features, self.real.seen, None, self.real.embed(pictures), seed=0)
        by = found[0].features
        return {"by": by, "num_compared": found[0].num_images} | of_samples((m.stage, m.name, m.value) for m in found)


def own_autoencoder(folder: Path, photos: Path, pack: str) -> str:
    """The run with the recipe's own autoencoder, trained now unless it was."""
    cell = Cell("autoencoder", pack, VARIANTS["autoencoder"]["adamw"], 0, 0.0)
    session = Bench(folder, photos, PACKS).session(cell, f"autoencoder-{pack}", ["diffusion=null"])
    print(f"the autoencoder of {pack}: {session.run.path}", flush=True)
    run_autoencoder_stage(session)
    return str(session.run.path)


def finished(table: Path, key: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row of a cell, measured now unless it is in the table."""
    for row in read_table(table):
        if key.items() <= row.items():
            return row
    row = key | measure()
    with table.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(row, flush=True)
    return row


def run(args: argparse.Namespace) -> None:
    """Run the cells that are asked for and not finished yet."""
    folder, photos = args.folder.resolve(), args.photos.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="scratch-") as scratch:
        source = args.autoencoder or own_autoencoder(folder, photos, args.pack)
        comparison = Comparison(folder, photos, args.pack, args.seconds, source, Path(scratch))
        best = {}
        for side in SIDES:
            draws = comparison.choices(side)
            rows = [finished(args.table, draw.key, partial(comparison.drawn, draw)) for draw in draws]
            best[side] = draws[int(np.argmin([row["fd"] for row in rows]))]
        for seed in args.seeds:
            for side in SIDES:
                model = replace(best[side].model, seed=seed)
                draw = replace(best[side], model=model, num_samples=args.num_samples, purpose="result")
                finished(args.table, draw.key, partial(comparison.drawn, draw))
        key = {"side": "reconstructions", "pack": args.pack, "autoencoder": comparison.digest}
        key |= {"num_samples": args.num_samples}
        finished(args.table, key, partial(comparison.reconstructed, args.num_samples))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    runs = verbs.add_parser("run")
    runs.add_argument("pack", choices=list(PACKS))
    runs.add_argument("--seconds", type=float, default=300.0)
    runs.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    runs.add_argument("--num-samples", type=int, default=2000)
    runs.add_argument("--autoencoder", metavar="RUN")
    runs.add_argument("--photos", type=Path, default=Path("../shared/data"))
    runs.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "diffusers-way")
    runs.set_defaults(verb=run)
    tables = verbs.add_parser("table")
    tables.set_defaults(verb=lambda args: print(in_markdown(read_table(args.table))))
    for parser_of_verb in (runs, tables):
        parser_of_verb.add_argument("--table", type=Path, default=TABLE)
    args = parser.parse_args()
    try:
        args.verb(args)
    except VaeLdmError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
