"""Quality after equal CPU seconds of training, one cell a variant, pack and seed; finished cells are kept.

    OMP_NUM_THREADS=1 python benchmarks/quality_per_minute.py run autoencoder claims-32 --seconds 60
    OMP_NUM_THREADS=1 python benchmarks/quality_per_minute.py run autoencoder claims-32 --only adamw muon --seeds 0 1 2
    OMP_NUM_THREADS=1 python benchmarks/quality_per_minute.py run unet claims-32 --seconds 180
    python benchmarks/quality_per_minute.py table > cells.md

A cell is a run of the recipe, trained by the project's own stages with a few keys changed (benchmarks/
quality_variants.py). Its first steps are timed, and `max_steps` is set so that training takes the seconds asked for;
the schedule of the learning rate ends with it. Seconds are CPU seconds of the process from the first step to the last;
validation, checkpoints and reading the pictures are not among them. What was measured stands with the steps and the
seconds that it took in quality_per_minute.jsonl beside this file, a line a cell: repeat the command to go on where it
was stopped.

Autoencoders are judged by the PSNR and SSIM of all validation pictures. With `--judge` the recipe's UNet is trained for
`--judge-seconds` on the latents of each, and 1,024 samples are drawn: the share of them that a probe classifier agrees
with, KID, FD, precision and recall. UNets (`unet`) are trained on the latents of one autoencoder a pack,
`--autoencoder RUN`, and judged in the same way.

The packs are folders of photos beside the checkout (`--photos`, by default ../shared/data); claims-32 is drawn by code.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from pytorch_lightning import Callback, LightningModule, Trainer

# By path, because a file of benchmarks/ is run as a script.
sys.path.insert(0, str(Path(__file__).parent))
from quality_variants import PACKS, VARIANTS, Pack, Variant

from vae_ldm.assembly import decode_pictures
from vae_ldm.data.pictures import Pictures
from vae_ldm.evaluation.interval import bootstrap_interval
from vae_ldm.evaluation.linear_floor import LinearCode
from vae_ldm.evaluation.reconstruction import reconstruction_metrics
from vae_ldm.models.pixels import as_images
from vae_ldm.recipe import Recipe, read_recipe
from vae_ldm.run import autoencoder_stage, diffusion_stage
from vae_ldm.run.autoencoder_stage import run_autoencoder_stage
from vae_ldm.run.diffusion_stage import run_diffusion_stage
from vae_ldm.run.evaluate import evaluate_run
from vae_ldm.run.session import Session

TABLE = Path(__file__).with_suffix(".jsonl")
NUM_TIMED_STEPS = 25
NEVER = "1000000000"


@dataclass
class CpuClock(Callback):
    """CPU seconds of training steps; what happens between them is left out."""

    skip: int = 0
    """Steps at the beginning that are not counted."""
    seconds: float = 0.0
    steps: int = 0
    now: Callable[[], float] = time.process_time
    _began: float = field(default=0.0, repr=False)

    def begin(self) -> None:
        """To be called before each step; the first call counts."""
        if not self.steps and not self._began:
            self._began = self.now()

    def end(self, index: int) -> None:
        """To be called after step `index`."""
        now = self.now()
        if index >= self.skip:
            self.seconds += now - self._began
            self.steps += 1
        self._began = now

    def steps_in(self, seconds: float) -> int:
        """How many steps take so many seconds, at least one."""
        return max(1, round(seconds * self.steps / self.seconds))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.end(batch_idx)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused = self.now()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began += self.now() - self._paused


class EnoughError(Exception):
    """Raised where a stage has been trained, to leave out what would follow."""

    def __init__(self, module: LightningModule) -> None:
        super().__init__("trained")
        self.module = module


@contextmanager
def clocked(
    skip: int = 0, *, no_more: bool = False, now: Callable[[], float] = time.process_time
) -> Iterator[CpuClock]:
    """A clock in whichever stage is trained while the block runs; with `no_more` EnoughError follows.

    It is of CPU seconds unless `now` is another clock.
    """
    clock = CpuClock(skip, now=now)
    usual = autoencoder_stage.fit_stage

    def fit_stage(*args: Any, callbacks: Sequence[Callback] = (), **settings: Any) -> dict[str, Any]:
        facts = usual(*args, callbacks=[clock, *callbacks], **settings)
        if no_more:
            raise EnoughError(args[2])
        return facts

    autoencoder_stage.fit_stage = diffusion_stage.fit_stage = fit_stage
    try:
        yield clock
    finally:
        autoencoder_stage.fit_stage = diffusion_stage.fit_stage = usual


@dataclass(frozen=True)
class Cell:
    """One variant on one pack with one seed, trained for so many seconds."""

    stage: str
    pack: str
    variant: Variant
    seed: int
    seconds: float

    @property
    def key(self) -> dict[str, Any]:
        """What tells it from other cells in the table."""
        return {
            "stage": self.stage,
            "pack": self.pack,
            "variant": self.variant.name,
            "seed": self.seed,
            "asked_seconds": self.seconds,
        }


class Bench:
    """Where cells are run: decoded pictures are shared by all of a pack."""

    def __init__(self, folder: Path, photos: Path, packs: Mapping[str, Pack] = PACKS) -> None:
        self.folder, self.photos, self.packs = folder, photos, packs

    def recipe(self, cell: Cell, name: str, overrides: Sequence[str]) -> Recipe:
        """The pack's recipe, changed as the variant asks and then as `overrides` do."""
        pack = self.packs[cell.pack]
        common = [f"output_dir={self.folder}", f"name={name}", f"seed={cell.seed}"]
        changed = [
            *(line.replace("{photos}", str(self.photos)) for line in pack.overrides),
            *cell.variant.overrides,
            *common,
            *overrides,
        ]
        recipe = Path(__file__).parents[1] / pack.recipe
        # Of one key the last counts; read_recipe refuses doubles.
        return read_recipe(recipe, list({line.partition("=")[0]: line for line in changed}.values()))

    def session(self, cell: Cell, name: str, overrides: Sequence[str]) -> Session:
        """A run, by its name, that shares the pack's decoded pictures."""
        session = Session.of(self.recipe(cell, name, overrides))
        shared = self.folder / f"pictures-{cell.pack}"
        decode_pictures(session.recipe, shared, say=print)
        session.run.path.mkdir(parents=True, exist_ok=True)
        if not session.run.pictures.exists():
            session.run.pictures.symlink_to(shared, target_is_directory=True)
        session.run.adopt(session.recipe)
        session.console.quiet = True
        return session

    def trained(
        self, cell: Cell, stage: str, name: str, overrides: Sequence[str], seconds: float, *, no_more: bool = False
    ) -> tuple[Session, CpuClock, AutoencoderKL]:
        """A session whose `stage` has taken `seconds`, the clock, and the autoencoder.

        With `no_more` the autoencoder is left as it was trained, and its latents are not measured.
        """
        section = "diffusion" if stage == "unet" else "autoencoder"
        quiet = [f"{section}.trainer.val_every_n_steps={NEVER}", f"{section}.trainer.checkpoint_every_n_steps={NEVER}"]
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="timed-") as timed, clocked(5, no_more=True) as trial:
            steps = [f"output_dir={timed}", f"{section}.trainer.max_steps={NUM_TIMED_STEPS}"]
            with suppress(EnoughError):
                _train(self.session(cell, name, [*overrides, *quiet, *steps]), stage)
        last = f"{section}.trainer.max_steps={trial.steps_in(seconds)}"
        session = self.session(cell, name, [*overrides, *quiet, last])
        with clocked(no_more=no_more) as clock:
            try:
                autoencoder = _train(session, stage)
            except EnoughError as trained:
                autoencoder = trained.module.autoencoder
        return session, clock, autoencoder.eval()

    def run(self, cell: Cell, *, judge_seconds: float | None, autoencoder: str | None) -> dict[str, Any]:
        """Train and judge one cell: the row of the table."""
        with cell.variant.in_place(), tempfile.TemporaryDirectory(dir=self.folder, prefix="cell-") as folder:
            here = [f"output_dir={folder}"]
            if cell.stage == "unet":
                assert autoencoder is not None
                return self._judged_by_unet(cell, autoencoder, here, cell.seconds)
            no_unet = ["diffusion=null"]
            session, clock, network = self.trained(
                cell, "autoencoder", "cell", [*here, *no_unet], cell.seconds, no_more=judge_seconds is None
            )
            row = took(clock) | beside_linear_code(network, *self._judged_on(cell, session))
            if judge_seconds is not None:
                # Of a cell for the UNet: the variant's keys are about the autoencoder that is there already.
                plain = Cell("unet", cell.pack, VARIANTS["unet"]["recipe"], cell.seed, judge_seconds)
                judged = self._judged_by_unet(plain, str(session.run.path), here, judge_seconds)
                row |= {f"judge_{name}": value for name, value in judged.items()}
            return row

    def _judged_on(self, cell: Cell, session: Session) -> tuple[np.ndarray, np.ndarray]:
        """Training pictures for the linear code, and validation pictures."""
        elsewhere = self.packs[cell.pack].judged_on
        if elsewhere is None:
            return as_array(session.pictures.train), as_array(session.pictures.validation)
        name, size = elsewhere
        data = {"type": "image_folder", "path": str(self.photos / name), "image_size": size}
        recipe = Recipe.model_validate({"name": name, "data": data, "autoencoder": {}})
        splits = decode_pictures(recipe, self.folder / f"pictures-{name}-{size}", say=print)
        return as_array(splits.train), as_array(splits.validation)

    def _judged_by_unet(self, cell: Cell, autoencoder: str, here: list[str], seconds: float) -> dict[str, Any]:
        session, clock, _ = self.trained(cell, "unet", "unet", [frozen(autoencoder), *here], seconds)
        session.run.finish("evaluation")
        evaluate_run(session.run.path, num_samples=1024, replace=True)
        found = json.loads(session.run.metrics.read_text())["measurements"]
        return took(clock) | of_samples((each["stage"], each["name"], each["value"]) for each in found)


def frozen(autoencoder: str) -> str:
    """The override of a recipe by which a UNet is trained on the latents of this autoencoder."""
    return f"autoencoder={json.dumps({'from_pretrained': autoencoder, 'train': 'nothing'})}"


def of_samples(measurements: Iterable[tuple[str, str, float]]) -> dict[str, float]:
    """What a table says of samples, among measurements that are stage, name and value each."""
    names = {"prompt_agreement": "agreement", "kid": "kid", "fd": "fd", "precision": "precision", "recall": "recall"}
    return {
        column: round(value, 5)
        for stage, name, value in measurements
        for prefix, column in names.items()
        if stage == "diffusion" and name.startswith(prefix)
    }


def as_array(pictures: Pictures) -> np.ndarray:
    assert isinstance(pictures.images, np.ndarray), "of one size"
    return pictures.images


def _train(session: Session, stage: str) -> AutoencoderKL:
    autoencoder = run_autoencoder_stage(session)
    if stage == "unet":
        run_diffusion_stage(session, autoencoder, lambda *_: lambda *_: None)
    return autoencoder


def took(clock: CpuClock) -> dict[str, Any]:
    """What a table says of the time."""
    return {"cpu_seconds": round(clock.seconds, 1), "steps": clock.steps}


@torch.no_grad()
def beside_linear_code(autoencoder: AutoencoderKL, train: np.ndarray, validation: np.ndarray) -> dict[str, Any]:
    """PSNR and SSIM on validation pictures, and dB over the linear code of the same size fitted on `train`."""
    originals = as_images(validation)
    batches = (autoencoder.decode(autoencoder.encode(batch).latent_dist.mode()).sample for batch in originals.split(32))
    found = reconstruction_metrics(originals, torch.cat(list(batches)))
    code = LinearCode.fit(
        as_images(train),
        downsample_factor=2 ** (len(autoencoder.config.block_out_channels) - 1),
        latent_channels=autoencoder.config.latent_channels,
    )
    linear = reconstruction_metrics(originals, code.reconstruct(originals))
    over = found.psnr - linear.psnr
    interval = bootstrap_interval(over)
    assert interval is not None
    return {
        "psnr": round(found.psnr.mean().item(), 3),
        "ssim": round(found.ssim.mean().item(), 4),
        "over_linear": round(over.mean().item(), 3),
        "over_linear_low": round(interval.low, 3),
        "over_linear_high": round(interval.high, 3),
        "parameters": sum(parameter.numel() for parameter in autoencoder.parameters()),
    }


def read_table() -> list[dict[str, Any]]:
    """The rows of all finished cells."""
    return [json.loads(line) for line in TABLE.read_text().splitlines()] if TABLE.exists() else []


def run(args: argparse.Namespace) -> None:
    """Run the cells that are asked for and not finished yet."""
    chosen = [VARIANTS[args.stage][name] for name in args.only or VARIANTS[args.stage]]
    cells = [Cell(args.stage, args.pack, variant, seed, args.seconds) for seed in args.seeds for variant in chosen]
    finished = read_table()
    args.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.folder.resolve(), args.photos.resolve())
    for cell in cells:
        judged = {"judge_seconds": args.judge_seconds} if args.judge else {}
        key = cell.key | judged
        if any(key.items() <= row.items() for row in finished):
            continue
        row = key | bench.run(
            cell, judge_seconds=args.judge_seconds if args.judge else None, autoencoder=args.autoencoder
        )
        with TABLE.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


def table(_: argparse.Namespace) -> None:
    """Print the finished cells in Markdown: a table a stage, pack and number of seconds, the best first."""
    rows = read_table()
    groups = dict.fromkeys((row["stage"], row["pack"], row["asked_seconds"]) for row in rows)
    for stage, pack, seconds in groups:
        members = [row for row in rows if (row["stage"], row["pack"], row["asked_seconds"]) == (stage, pack, seconds)]
        print(f"\n### {stage}, {pack}, {seconds:g} CPU s\n")
        best_first = ("fd", False) if stage == "unet" else ("psnr", True)
        columns = [name for name in _COLUMNS if any(name in row for row in members)]
        print(f"| variant | seeds | {' | '.join(columns)} |")
        print(f"|---|---|{'---|' * len(columns)}")
        variants: dict[str, list[dict[str, Any]]] = {}
        for row in members:
            variants.setdefault(row["variant"], []).append(row)
        for name in sorted(variants, key=lambda each: _mean(variants[each], best_first[0]), reverse=best_first[1]):
            values = [_shown(variants[name], column) for column in columns]
            print(f"| {VARIANTS[stage][name].about} | {len(variants[name])} | {' | '.join(values)} |")


_COLUMNS = (
    "steps", "psnr", "ssim", "over_linear", "parameters",
    "agreement", "kid", "fd", "precision", "recall",
    "judge_agreement", "judge_kid", "judge_fd", "judge_precision", "judge_recall",
)  # fmt: skip


def _mean(rows: list[dict[str, Any]], column: str) -> float:
    values = [row[column] for row in rows if column in row]
    return sum(values) / len(values) if values else float("nan")


def _shown(rows: list[dict[str, Any]], column: str) -> str:
    values = [row[column] for row in rows if column in row]
    if not values:
        return ""
    if min(values) == max(values):
        return f"{values[0]:,}" if isinstance(values[0], int) else f"{values[0]:.4g}"
    return f"{_mean(rows, column):.4g} ({min(values):.4g} to {max(values):.4g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    runs = verbs.add_parser("run")
    runs.add_argument("stage", choices=list(VARIANTS))
    runs.add_argument("pack", choices=list(PACKS))
    runs.add_argument("--seconds", type=float, default=60.0)
    runs.add_argument("--seeds", type=int, nargs="+", default=[0])
    runs.add_argument("--only", nargs="+", metavar="VARIANT")
    runs.add_argument("--judge", action="store_true")
    runs.add_argument("--judge-seconds", type=float, default=180.0)
    runs.add_argument("--autoencoder", metavar="RUN")
    runs.add_argument("--photos", type=Path, default=Path("../shared/data"))
    runs.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "quality-per-minute")
    runs.set_defaults(verb=run)
    verbs.add_parser("table").set_defaults(verb=table)
    args = parser.parse_args()
    args.verb(args)


if __name__ == "__main__":
    main()
