"""The verbs that draw new photos from photos, and prove whether they help."""

import difflib
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from typer.core import TyperGroup

from vae_ldm.choices import MAX_DRAWN, ClassifierKind, How
from vae_ldm.cli import paths
from vae_ldm.cli.endings import going_on
from vae_ldm.cli.options import (
    DenoisingStepsOption,
    GuidanceOption,
    PipelineOption,
    SeedOption,
    each_of,
    finite,
    one_of,
    page_option,
    strengths,
)
from vae_ldm.errors import VaeLdmError
from vae_ldm.paths import new_place


class _DrawUnlessTold(TyperGroup):
    """`augment PHOTOS ...` is `augment draw PHOTOS ...`: the verb's plain use needs no second verb."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            word = args[0]
            if (nearest := difflib.get_close_matches(word, self.commands, n=1)) and not paths.expanded(word).exists():
                raise VaeLdmError(f"{word}: no such command of augment, and no such folder; did you mean {nearest[0]}?")
            args = ["draw", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_DrawUnlessTold,
    help="Draw new labelled photos and prove whether they help.\n\n"
    "`augment PHOTOS ...` is short for `augment draw PHOTOS ...`; `augment draw --help` lists its options.",
    no_args_is_help=True,
    rich_markup_mode=None,
    subcommand_metavar="[draw|prove] [PHOTOS] ...",
)

PhotosArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="PHOTOS",
        help="One folder of photos a class; by default the run's own.",
        show_default=False,
        callback=paths.photos,
    ),
]


@app.command()
@going_on("out")
def draw(
    model: PipelineOption,
    photos: PhotosArgument = None,
    per_class: Annotated[int, typer.Option(metavar="N", min=1, max=MAX_DRAWN, help="Pictures of each class.")] = 50,
    how: Annotated[
        list[str] | None,
        typer.Option(
            help="How to draw; may be repeated; by default all three ways.", show_default=False, **each_of(How)
        ),
    ] = None,
    strength: Annotated[
        list[float] | None,
        typer.Option(
            metavar="SHARE",
            help="How far to noise a photo is varied, from 0.01 to 1; may be repeated; by default 0.3, 0.5 and 0.7.",
            show_default=False,
            callback=strengths,
        ),
    ] = None,
    min_confidence: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=1,
            help="The least probability of its class, by a classifier.",
            callback=finite,
        ),
    ] = 0.0,
    max_tries: Annotated[
        int, typer.Option(metavar="N", min=1, max=1000, help="The most pictures to draw for each one wanted.")
    ] = 8,
    seed: SeedOption = 0,
    denoising_steps: DenoisingStepsOption = None,
    guidance_scale: GuidanceOption = None,
    caption_template: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="What to ask for: 'a photo of {label}'; by default the recipe's.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="A new folder, or one to go on with.", callback=paths.output_folder)
    ] = Path("augmented"),
) -> None:
    """Draw new photos of every class. Near copies and other classes are left out."""
    from vae_ldm.desk.augment.folder import AugmentedFolder
    from vae_ldm.desk.augment.request import AugmentRequest

    request = AugmentRequest(
        per_class=per_class,
        how=cast("tuple[How, ...]", tuple(how or get_args(How))),
        strengths=tuple(strength or (0.3, 0.5, 0.7)),
        seed=seed,
        min_confidence=min_confidence,
        max_tries=max_tries,
        num_inference_steps=denoising_steps,
        guidance_scale=guidance_scale,
        caption_template=caption_template,
    )
    AugmentedFolder(out).check(request.settings)  # before libraries and weights are loaded, which takes seconds

    from vae_ldm.desk.augment.augment import augment

    augment(photos, model, out=out, request=request)
    from vae_ldm.terminal import new_output

    new_output().say(out)


@app.command()
def prove(
    synthetic: Annotated[Path, typer.Option(metavar="DIR", help="What augment has drawn.", callback=paths.existing)],
    photos: PhotosArgument = None,
    classifier: Annotated[
        ClassifierKind,
        typer.Option(
            metavar=one_of(ClassifierKind), help="The classifier: trained from scratch, or linear on frozen features."
        ),
    ] = "small-cnn",
    shots: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Real photos of each class, beside a row with all; may be repeated; by default 10, 20 and 50.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=2, help="Classifiers trained for each cell of the table.")] = 5,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Training steps in every cell of the table.")] = 300,
    out: Annotated[Path | None, page_option("proof.html")] = None,
) -> None:
    """Measure whether a classifier gains from synthetic photos."""
    from vae_ldm.desk.augment.proof import prove_augmentation

    with new_place(out, "proof.html", ".md", ".json") as page:
        prove_augmentation(
            photos,
            synthetic,
            out=page,
            classifier=classifier,
            shots=tuple(shots or (10, 20, 50)),
            num_seeds=seeds,
            num_steps=steps,
        )
