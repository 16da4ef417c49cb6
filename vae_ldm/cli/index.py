"""The verbs about an index of photos."""

from pathlib import Path
from typing import Annotated

import typer

from vae_ldm.cli import paths
from vae_ldm.cli.endings import going_on
from vae_ldm.cli.options import (
    BackboneOption,
    EncoderOption,
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
@going_on("index")
def build(
    index: IndexArgument,
    photos: PhotosArgument,
    model: EncoderOption = None,
    features: FeaturesOption = "both",
    backbone: BackboneOption = None,
    store: StoreOption = None,
    caption_column: CaptionColumnOption = None,
) -> None:
    """Make an index of photos, or go on with one that was stopped."""
    if _checked_store(store) is None:
        index = str(paths.index_place(index))

    from vae_ldm.desk.search.build import build_index

    build_index(
        index,
        photos,
        model=model,
        kind=features,
        backbone=backbone,
        store=store,
        caption_column=caption_column,
    )


@app.command()
@going_on("index")
def add(
    index: IndexArgument,
    photos: PhotosArgument,
    store: StoreOption = None,
    model: MovedModelOption = None,
    caption_column: CaptionColumnOption = None,
) -> None:
    """Add the photos that an index lacks."""
    if _checked_store(store) is None:
        index = str(paths.index(index))

    from vae_ldm.desk.search.build import add_photos

    add_photos(index, photos, store=store, model=model, caption_column=caption_column)


@app.command()
def query(
    index: IndexArgument,
    photos: PhotosArgument,
    k: Annotated[int, typer.Option("-k", metavar="N", min=1, max=1000, help="Photos to find for each.")] = 10,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a contact sheet of what was found (.png).", callback=paths.sheet),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")] = False,
    store: StoreOption = None,
    model: MovedModelOption = None,
) -> None:
    """Find the photos most like a photo, or like each of a folder."""
    if _checked_store(store) is None:
        index = str(paths.index(index))

    from vae_ldm.desk.search.query import query_index

    query_index(index, photos, k=k, out=out, as_json=as_json, store=store, model=model)


def _checked_store(store: str | None) -> str | None:
    if store is not None and not store.startswith(("postgresql://", "postgres://")):
        raise typer.BadParameter(f"{store!r} names no database: postgresql://USER@HOST/DATABASE", param_hint="--store")
    return store
