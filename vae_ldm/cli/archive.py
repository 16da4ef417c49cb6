"""The verbs about archives of photos."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vae_ldm.cli.desk_options import EncoderOption, MovedModelOption, PhotosArgument

app = typer.Typer(
    help="Keep photos in the fewest bytes that are good enough.", no_args_is_help=True, rich_markup_mode=None
)

ArchiveArgument = Annotated[Path, typer.Argument(metavar="ARCHIVE", file_okay=False, help="The archive's folder.")]


class Preference(StrEnum):
    """What `--prefer` may name."""

    SMALLEST = "smallest"
    LATENTS = "latents"


class Format(StrEnum):
    """What `--format` may name."""

    OWN = "own"
    PNG = "png"
    WEBP = "webp"
    JPEG = "jpeg"


@app.command()
def add(
    archive: ArchiveArgument,
    photos: PhotosArgument,
    model: EncoderOption,
    target_psnr: Annotated[
        float | None,
        typer.Option(min=10, max=60, help="dB that every photo keeps at least; by default 32, or the archive's own."),
    ] = None,
    prefer: Annotated[
        Preference | None,
        typer.Option(help="The smallest of all (default), or latents wherever they reach the target."),
    ] = None,
) -> None:
    """Archive photos; those that are there already are passed over, so a stopped command is simply repeated."""
    from vae_ldm.desk.archive.add import add as add_photos

    add_photos(archive, photos, model=model, target_psnr=target_psnr, prefer=None if prefer is None else prefer.value)


@app.command("list")
def list_entries(
    archive: ArchiveArgument,
    pattern: Annotated[str | None, typer.Argument(metavar="PATTERN", help="Ids to show, such as 'train/*'.")] = None,
) -> None:
    """List what an archive holds, and how."""
    from vae_ldm.desk.archive.listing import list_entries as lines

    for line in lines(archive, pattern):
        typer.echo(line)


@app.command()
def extract(
    archive: ArchiveArgument,
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATTERN...", help="Ids to extract, such as 'train/*'; by default all."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Where the photos go.")] = Path("extracted"),
    model: MovedModelOption = None,
    file_format: Annotated[
        Format, typer.Option("--format", help="Latents as PNG and the others as they are kept, or all as one.")
    ] = Format.OWN,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
) -> None:
    """Write archived photos as pictures again."""
    from vae_ldm.desk.archive.reading import extract as extract_photos

    extract_photos(archive, patterns or (), out=out, model=model, file_format=file_format.value, overwrite=overwrite)


@app.command()
def verify(
    archive: ArchiveArgument,
    photos: Annotated[
        Path | None, typer.Argument(metavar="PHOTOS", help="Compare with these photos, each of which must be there.")
    ] = None,
    model: MovedModelOption = None,
) -> None:
    """Find every byte that has changed; with PHOTOS also whether each could be had back from the archive."""
    from vae_ldm.desk.archive.reading import verify as verify_archive

    verify_archive(archive, photos, model=model)


@app.command()
def report(
    photos: PhotosArgument,
    model: EncoderOption,
    out: Annotated[Path, typer.Option(metavar="FILE", dir_okay=False, help="Where the page goes.")] = Path(
        "archive.html"
    ),
    num_photos: Annotated[
        int, typer.Option("-n", "--num-photos", min=1, help="Photos to measure, evenly spread over the folder.")
    ] = 48,
    target_psnr: Annotated[float, typer.Option(min=10, max=60, help="dB for which the sum is drawn in words.")] = 32,
) -> None:
    """Say, before anything is archived, where latents take fewer bytes than JPEG, WebP and AVIF, and where not."""
    from vae_ldm.desk.archive.report import report as write_report

    write_report(photos, model=model, out=out, num_photos=num_photos, target_psnr=target_psnr)
