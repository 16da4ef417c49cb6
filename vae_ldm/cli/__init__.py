"""The table of verbs. What a verb needs is imported inside it, so that `--help` and `recipe check` answer at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vae_ldm.cli import archive as archive_verbs
from vae_ldm.cli import augment as augment_verbs
from vae_ldm.cli import claim as claim_verbs
from vae_ldm.cli import index as index_verbs
from vae_ldm.cli import novelty as novelty_verbs
from vae_ldm.cli import recipe as recipe_verbs
from vae_ldm.cli import walk as walk_verbs
from vae_ldm.cli.recipe import OverridesArgument, RecipeArgument, read_recipe_argument
from vae_ldm.errors import RecipeError, RunError, StoppedError, VaeLdmError

FAILED, WRONG_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143


class Stage(StrEnum):
    """What `--restart` may name."""

    AUTOENCODER = "autoencoder"
    DIFFUSION = "diffusion"
    EVALUATION = "evaluation"


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM has come, and ends the command the way that Ctrl-C does."""


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM raises _TerminatedError. `train` knows better within: it ends after the step."""

    def end(*_: object) -> None:
        raise _TerminatedError

    before = signal.getsignal(signal.SIGTERM)
    if before is not signal.SIG_DFL or threading.current_thread() is not threading.main_thread():
        yield  # whoever started this has plans of their own
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Verbs(TyperGroup):
    """Turns expected errors into one line and an exit code; anything else is our bug and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with _ended_by_sigterm():
                return super().invoke(ctx)
        except (VaeLdmError, RunError, StoppedError, OSError, KeyboardInterrupt) as error:
            if os.environ.get("VAE_LDM_TRACEBACK") == "1" or isinstance(error, BrokenPipeError):
                raise
            rank = int(os.environ.get("RANK", "0"))  # of the processes that `accelerate launch` has started
            if isinstance(error, _TerminatedError):
                error = StoppedError("stopped by SIGTERM; repeat the command to go on")
            if isinstance(error, KeyboardInterrupt):
                if rank == 0:
                    typer.echo("stopped; repeat the command to go on", err=True)
                raise typer.Exit(INTERRUPTED) from None
            if isinstance(error, StoppedError):
                if rank == 0:
                    typer.echo(str(error), err=True)
                raise typer.Exit(TERMINATED) from None
            if rank == 0 or not isinstance(error, RecipeError):  # the first one says what all find in the recipe
                for line in _message(error).splitlines():
                    typer.echo(f"error: {f'process {rank}: ' if rank else ''}{line}", err=True)
            raise typer.Exit(WRONG_INPUT if isinstance(error, VaeLdmError) else FAILED) from None


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


app = typer.Typer(
    cls=_Verbs,
    help="Train your own autoencoder and latent diffusion model on your own photos.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
RepositoryArgument = Annotated[str, typer.Argument(metavar="ORG/NAME", help="A repository of the Hub.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"vae-ldm {version('vae_ldm')}")
        except PackageNotFoundError:
            typer.echo("vae-ldm, not installed (run from its checkout)")
        raise typer.Exit


@app.callback()
def _verbs(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def train(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Read 8 pictures, build everything, say what a run would do."),
    ] = False,
    restart: Annotated[
        list[Stage] | None,
        typer.Option(metavar="STAGE", help="Begin autoencoder, diffusion or evaluation afresh, and all after it."),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Write a torch profiler trace of a few steps of each stage.")
    ] = False,
) -> None:
    """Run a recipe, or go on with a run that was stopped."""
    checked = read_recipe_argument(recipe, overrides)

    from vae_ldm.run.stages import train_run

    train_run(checked, dry_run=dry_run, restart=[stage.value for stage in restart or ()], profile=profile)


@app.command()
def generate(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A run folder or a pipeline folder.")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help='What to draw; "" for anything.')],
    num_images: Annotated[int, typer.Option("-n", "--num-images", min=1)] = 16,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Where the pictures go.")] = Path("samples"),
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps; by default the recipe's.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(min=0, help="By default the recipe's.")] = None,
) -> None:
    """Draw pictures from a prompt."""
    from vae_ldm.desk.generate import generate as draw

    pictures = draw(
        source,
        prompt,
        num_images=num_images,
        seed=seed,
        output_dir=out,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
    )
    for picture in pictures:
        typer.echo(picture)


@app.command()
def evaluate(
    run: RunArgument,
    num_samples: Annotated[int | None, typer.Option(min=1, help="Pictures to draw; by default the recipe's.")] = None,
) -> None:
    """Measure a run again and write its report.html and metrics.json anew."""
    from vae_ldm.run.evaluate import evaluate_run

    evaluate_run(run, num_samples=num_samples)


@app.command()
def compare(
    photos: Annotated[Path, typer.Argument(metavar="PHOTOS", help="A folder of photos, of any layout.")],
    autoencoders: Annotated[
        list[str], typer.Argument(metavar="AUTOENCODER...", help="Runs, folders or ORG/NAME of the Hub.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", dir_okay=False, help="Where the page goes.")] = Path(
        "report.html"
    ),
    num_photos: Annotated[int, typer.Option(min=1, help="Photos to take, evenly spread over the folder.")] = 256,
    side: Annotated[
        int | None, typer.Option(min=8, help="Crop photos to squares of this many px; by default their median.")
    ] = None,
) -> None:
    """Say which autoencoder keeps most of your photos, and whether to train one at all."""
    from vae_ldm.desk.compare.compare import compare as compare_autoencoders

    compare_autoencoders(photos, autoencoders, out=out, num_photos=num_photos, side=side)


@app.command()
def export(
    run: RunArgument,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="PATH_OR_STEP",
            help="A checkpoint file, or the step of one of the diffusion stage; by default the last.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="By default a folder in the run, named by the step.")
    ] = None,
) -> None:
    """Write a checkpoint as an ordinary diffusers pipeline."""
    from vae_ldm.run.export import export_checkpoint

    typer.echo(export_checkpoint(run, checkpoint=checkpoint, output_dir=out))


@app.command()
def push(
    run: RunArgument,
    repository: RepositoryArgument,
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public",
            help="Who may see it; by default nobody else a new repository, and an old one stays as it is.",
            show_default=False,
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="By default main.")] = None,
    tag: Annotated[str | None, typer.Option(metavar="TAG", help="A name for what is pushed.")] = None,
    license_id: Annotated[
        str | None,
        typer.Option("--license", metavar="ID", help="Such as apache-2.0; by default that of the pretrained weights."),
    ] = None,
    show_photos: Annotated[
        bool, typer.Option("--show-photos", help="Let held-out photos travel too, beside their reconstructions.")
    ] = False,
) -> None:
    """Push a finished run to the Hub: pipeline, recipe, metrics, grid and card, in one commit."""
    from vae_ldm.run.push import push as push_run

    pushed = push_run(
        run,
        repository,
        private=private,
        revision=revision,
        tag=tag,
        license=license_id,
        show_photos=show_photos,
    )
    typer.echo(pushed.url)


@app.command()
def pull(
    repository: RepositoryArgument,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a copy here; by default only into the cache.")
    ] = None,
    revision: Annotated[str | None, typer.Option(metavar="REV", help="A branch, a tag or a commit.")] = None,
) -> None:
    """Download a repository of the Hub, safetensors only; afterwards its name works without a connection."""
    from vae_ldm.hub import pull as pull_repository

    typer.echo(pull_repository(repository, out, revision=revision))


@app.command()
def lesson(
    beta: Annotated[float, typer.Option(min=0, help="Weight of the KL term in the VAE that the story follows.")] = 0.1,
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Where the pictures go.")] = Path("lesson"),
) -> None:
    """Train an autoencoder and a VAE in plain NumPy, explain each step, draw four pictures (seconds)."""
    # On matrices as small as these a second thread only adds to the work.
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")

    from vae_ldm.lesson.story import tell

    tell(typer.echo, beta=beta, output_dir=out)


for _verb in (claim_verbs.desk, claim_verbs.claim, walk_verbs.morph, walk_verbs.walk, walk_verbs.grid):
    app.command()(_verb)
for _group, _verbs_of in {
    "index": index_verbs,
    "novelty": novelty_verbs,
    "archive": archive_verbs,
    "augment": augment_verbs,
    "recipe": recipe_verbs,
}.items():
    app.add_typer(_verbs_of.app, name=_group)


def main() -> None:
    """The entry point. Exit codes: 0 done, 1 the run failed, 2 the input is wrong, 130 interrupted, 143 stopped."""
    # transformers speaks while it is imported, of a torchvision that nothing here needs.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    app(prog_name="vae-ldm")
