"""The table of verbs. What a verb needs is imported inside it, so that `--help` and `recipe check` answer at once."""

import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from vae_ldm.choices import MAX_DENOISING_STEPS, MAX_DRAWN, Distilled, Stage
from vae_ldm.cli import archive as archive_verbs
from vae_ldm.cli import augment as augment_verbs
from vae_ldm.cli import claim as claim_verbs
from vae_ldm.cli import index as index_verbs
from vae_ldm.cli import novelty as novelty_verbs
from vae_ldm.cli import paths
from vae_ldm.cli import recipe as recipe_verbs
from vae_ldm.cli import walk as walk_verbs
from vae_ldm.cli.endings import going_on
from vae_ldm.cli.help import DESK, DRAW, LEARN, PHOTOS, TRAIN, Verb, VerbsInParts
from vae_ldm.cli.options import (
    GuidanceOption,
    PhotosArgument,
    SeedOption,
    each_of,
    finite,
    folder_option,
    page_option,
)
from vae_ldm.cli.recipe import OverridesArgument, RecipeArgument, read_recipe_to_run
from vae_ldm.paths import new_place

app = typer.Typer(
    cls=VerbsInParts,
    help="Train your own autoencoder and latent diffusion model on your own photos.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
RepositoryArgument = Annotated[str, typer.Argument(metavar="ORG/NAME", help="A repository of the Hub.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", callback=paths.run)]
TrainedRunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", callback=paths.trained_run)]


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


@app.command(rich_help_panel=TRAIN)
def train(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Look through the photos, build everything and say what is left to do."),
    ] = False,
    restart: Annotated[
        list[str] | None,
        typer.Option(help="Begin this stage afresh, and all after it; may be repeated.", **each_of(Stage)),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Write a torch profiler trace of a few steps of each stage.")
    ] = False,
) -> None:
    """Run a recipe, or go on with a run that was stopped."""
    checked = read_recipe_to_run(recipe, overrides)
    _check_photos(checked)

    from vae_ldm.run.stages import train_run

    train_run(checked, dry_run=dry_run, restart=cast("list[Stage]", restart or []), profile=profile)


def _check_photos(recipe: Any) -> None:
    """Raise DataError where the folder of photos is not there, and the run has not decoded them before."""
    decoded = paths.expanded(recipe.output_dir) / recipe.name / "pictures"
    folders = [source.part.photo_folder for source in recipe.data.all_sources]
    for folder in folders:
        if folder is not None and not decoded.exists():
            paths.photos(Path(folder))


@app.command(rich_help_panel=DRAW)
def generate(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A run folder or a pipeline folder.", callback=paths.pipeline)
    ],
    prompts: Annotated[
        list[str],
        typer.Argument(metavar="PROMPT", help='What to draw; "" for anything. Several are drawn from the same seeds.'),
    ],
    num_images: Annotated[
        int, typer.Option("-n", "--num-images", metavar="N", min=1, max=MAX_DRAWN, help="Pictures of each prompt.")
    ] = 16,
    seed: SeedOption = 0,
    out: Annotated[Path | None, folder_option("samples")] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=MAX_DENOISING_STEPS, help="Denoising steps a picture; by default the recipe's."
        ),
    ] = None,
    guidance_scale: GuidanceOption = None,
) -> None:
    """Draw pictures from one prompt, or from each of several."""
    from vae_ldm.desk.generate import generate as draw
    from vae_ldm.terminal import new_output

    with new_place(out, "samples") as folder:
        pictures = draw(
            source,
            prompts,
            num_images=num_images,
            seed=seed,
            output_dir=folder,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
        )
    output = new_output()
    for picture in pictures:
        output.say(picture)


@app.command(rich_help_panel=TRAIN)
def evaluate(
    run: TrainedRunArgument,
    num_samples: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=MAX_DRAWN, help="Pictures to draw; by default the recipe's.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the measurements even where they are of more pictures.")
    ] = False,
) -> None:
    """Measure a run again. report.html, metrics.json and the grids are written anew."""
    from vae_ldm.run.evaluate import evaluate_run

    evaluate_run(run, num_samples=num_samples, replace=replace)


@app.command(rich_help_panel=PHOTOS)
def compare(
    photos: PhotosArgument,
    autoencoders: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="AUTOENCODER",
            help="Runs, folders, ORG/NAME of the Hub or starter, which comes with the package; by default starter.",
            callback=paths.models,
        ),
    ] = None,
    out: Annotated[Path | None, page_option("comparison.html")] = None,
    num_photos: Annotated[
        int, typer.Option(metavar="N", min=1, help="Photos to take, evenly spread over the folder.")
    ] = 256,
    side: Annotated[
        int | None,
        typer.Option(
            metavar="PX",
            min=8,
            help="Crop photos to squares of this side; by default the median of their shorter sides.",
        ),
    ] = None,
) -> None:
    """Say which autoencoder reconstructs your photos best. It also says whether to train one at all."""
    from vae_ldm.desk.compare.compare import compare as compare_autoencoders

    with new_place(out, "comparison.html") as page:
        compare_autoencoders(photos, autoencoders or (), out=page, num_photos=num_photos, side=side)


@app.command(rich_help_panel=TRAIN)
def export(
    run: RunArgument,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="[last|best|STEP|FILE]",
            help="A checkpoint of the diffusion stage, or of the autoencoder where that has none; by default what the "
            "recipe prefers, which is last unless it says export: best.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A new folder for the pipeline; by default one in the run, named by the step.",
            callback=paths.new_folder,
        ),
    ] = None,
    student: Annotated[
        bool | None,
        typer.Option(
            "--student/--teacher",
            help="Of a run with diffusion.distill, the student of few passes or the UNet that it learned from; by "
            "default the one that the run exports.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a checkpoint as an ordinary diffusers pipeline."""
    from vae_ldm.run.state import find_checkpoint, is_last

    if not is_last(checkpoint) and student is None:
        find_checkpoint(run, str(checkpoint))

    from vae_ldm.run.export import export_checkpoint
    from vae_ldm.terminal import new_output

    which: Distilled | None = None if student is None else "student" if student else "teacher"
    new_output().say(export_checkpoint(run, checkpoint=checkpoint, output_dir=out, which=which))


@app.command(rich_help_panel=TRAIN)
def push(
    run: TrainedRunArgument,
    repository: RepositoryArgument,
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public",
            help="Who may see it; by default a new repository is private, and an existing one stays as it is.",
            show_default=False,
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="The branch to push to; by default main.")
    ] = None,
    tag: Annotated[str | None, typer.Option(metavar="TAG", help="A name for what is pushed.")] = None,
    license_id: Annotated[
        str | None,
        typer.Option(
            "--license",
            metavar="ID",
            help="The licence, such as apache-2.0; by default that of the pretrained weights.",
        ),
    ] = None,
    show_photos: Annotated[
        bool, typer.Option("--show-photos", help="Let held-out photos travel too, beside their reconstructions.")
    ] = False,
) -> None:
    """Push a finished run to the Hub. Pipeline, recipe, metrics, grid and card go in one commit."""
    from vae_ldm.hub import check_token

    check_token(repository)

    from vae_ldm.run.push import push as push_run
    from vae_ldm.terminal import new_output

    pushed = push_run(
        run,
        repository,
        private=private,
        revision=revision,
        tag=tag,
        license=license_id,
        show_photos=show_photos,
    )
    new_output().say(pushed.url)


@app.command(rich_help_panel=TRAIN)
@going_on()
def pull(
    repository: RepositoryArgument,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a copy here, besides that in the cache.", callback=paths.any_path),
    ] = None,
    revision: Annotated[str | None, typer.Option(metavar="REV", help="A branch, a tag or a commit.")] = None,
) -> None:
    """Download a repository of the Hub, safetensors only. Its name then works without a connection."""
    from vae_ldm.hub import pull as pull_repository
    from vae_ldm.terminal import new_output

    new_output().say(pull_repository(repository, out, revision=revision))


@app.command(rich_help_panel=LEARN)
def lesson(
    beta: Annotated[
        float,
        typer.Option(metavar="NUMBER", min=0, help="Weight of the KL term in the VAE of the lesson.", callback=finite),
    ] = 0.1,
    out: Annotated[Path | None, folder_option("lesson")] = None,
) -> None:
    """Train an autoencoder and a VAE in plain NumPy. Each step is explained, and drawn in four pictures (seconds)."""
    # On matrices as small as these a second thread only adds to the work.
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")

    from vae_ldm.lesson.story import tell

    with new_place(out, "lesson") as folder:
        tell(typer.echo, beta=beta, output_dir=folder)


app.command(rich_help_panel=DRAW)(walk_verbs.morph)
app.command(rich_help_panel=DRAW)(walk_verbs.walk)
app.command(rich_help_panel=DRAW)(walk_verbs.grid)
app.command(rich_help_panel=DESK)(claim_verbs.desk)
app.command(rich_help_panel=DESK)(claim_verbs.claim)
for _group, (_verbs_of, _part) in {
    "recipe": (recipe_verbs, TRAIN),
    "augment": (augment_verbs, DRAW),
    "index": (index_verbs, PHOTOS),
    "archive": (archive_verbs, PHOTOS),
    "novelty": (novelty_verbs, DESK),
}.items():
    app.add_typer(_verbs_of.app, name=_group, rich_help_panel=_part)
    for _verb in _verbs_of.app.registered_commands:
        _verb.cls = Verb
for _verb in app.registered_commands:
    _verb.cls = Verb


def main() -> None:
    """The entry point. Exit codes: 0 done, 1 the run failed, 2 the input is wrong, 130 interrupted, 143 stopped."""
    # transformers speaks while it is imported, of a torchvision that nothing here needs.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if "OMP_WAIT_POLICY" not in os.environ:
        # A thread of libgomp that waits spins 300,000 times by default, and starves whatever else runs; 20,000 times
        # cost nothing on a quiet machine (benchmarks/threads.py). libgomp reads this when torch is imported.
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    for stream in (sys.stdout, sys.stderr):  # a screen that has not every letter shows the others escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="vae-ldm")
