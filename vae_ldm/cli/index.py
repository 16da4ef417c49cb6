"""The verbs about an index of photos."""

from pathlib import Path
from typing import Annotated

import typer

from vae_ldm.cli.desk_options import (
    BackboneOption,
    EncoderOption,
    Features,
    FeaturesOption,
    MovedModelOption,
    PhotosArgument,
)

app = typer.Typer(help="Search photos by photo.", no_args_is_help=True, rich_markup_mode=None)


IndexArgument = Annotated[
    str, typer.Argument(metavar="INDEX", help="A folder; with --store the name of an index in that database.")
]
StoreOption = Annotated[
    str | None,
    typer.Option(metavar="URL", help="postgresql://USER@HOST/DATABASE (with pgvector), for many desks at once."),
]
CaptionColumnOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Column of metadata files with captions; by default caption or text."),
]


@app.command()
def build(
    index: IndexArgument,
    photos: PhotosArgument,
    model: EncoderOption,
    features: FeaturesOption = Features.BOTH,
    backbone: BackboneOption = None,
    store: StoreOption = None,
    caption_column: CaptionColumnOption = None,
) -> None:
    """Make an index of photos, or go on with one that was stopped."""
    from vae_ldm.desk.search.build import build_index

    build_index(
        index,
        photos,
        model=model,
        kind=features.value,
        backbone=backbone,
        store=_checked_store(store),
        caption_column=caption_column,
    )


@app.command()
def add(
    index: IndexArgument,
    photos: PhotosArgument,
    store: StoreOption = None,
    model: MovedModelOption = None,
    caption_column: CaptionColumnOption = None,
) -> None:
    """Add the photos that an index lacks."""
    from vae_ldm.desk.search.build import add_photos

    add_photos(index, photos, store=_checked_store(store), model=model, caption_column=caption_column)


@app.command()
def query(
    index: IndexArgument,
    photos: PhotosArgument,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Photos to find for each.")] = 10,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Draw what was found on a sheet (.png).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")] = False,
    store: StoreOption = None,
    model: MovedModelOption = None,
) -> None:
    """Find the photos most like a photo, or like each of a folder."""
    from vae_ldm.desk.search.query import query_index

    query_index(index, photos, k=k, out=out, as_json=as_json, store=_checked_store(store), model=model)


def _checked_store(store: str | None) -> str | None:
    if store is not None and not store.startswith(("postgresql://", "postgres://")):
        raise typer.BadParameter(f"{store!r} names no database: postgresql://USER@HOST/DATABASE", param_hint="--store")
    return store
