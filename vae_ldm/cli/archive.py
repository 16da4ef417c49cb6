"""The verbs about archives of photos."""

from pathlib import Path
from typing import Annotated

import typer

from vae_ldm.choices import FileFormat, Preference
from vae_ldm.cli import paths
from vae_ldm.cli.endings import going_on
from vae_ldm.cli.options import (
    EncoderOption,
    MovedModelOption,
    PhotosArgument,
    TargetPSNROption,
    finite,
    one_of,
    page_option,
)
from vae_ldm.paths import new_place

app = typer.Typer(
    help="Keep photos in the fewest bytes that are good enough.", no_args_is_help=True, rich_markup_mode=None
)

ArchiveArgument = Annotated[
    Path, typer.Argument(metavar="ARCHIVE", help="The archive's folder.", callback=paths.archive)
]


@app.command()
@going_on("archive")
def add(
    archive: Annotated[
        Path, typer.Argument(metavar="ARCHIVE", help="The archive's folder.", callback=paths.archive_place)
    ],
    photos: PhotosArgument,
    model: EncoderOption = None,
    target_psnr: TargetPSNROption = None,
    prefer: Annotated[
        Preference | None,
        typer.Option(
            metavar=one_of(Preference), help="The smallest of all (default), or latents wherever they reach the target."
        ),
    ] = None,
) -> None:
    """Archive photos, except those that are archived already. A stopped command goes on when it is repeated."""
    from vae_ldm.desk.archive.add import add as add_photos

    add_photos(archive, photos, model=model, target_psnr=target_psnr, prefer=prefer)


@app.command("list")
def list_entries(
    archive: ArchiveArgument,
    pattern: Annotated[str | None, typer.Argument(metavar="PATTERN", help="Ids to show, such as 'train/*'.")] = None,
) -> None:
    """List what an archive holds, and how."""
    from vae_ldm.desk.archive.listing import list_entries as lines
    from vae_ldm.terminal import new_output

    output = new_output()
    for line in lines(archive, pattern):
        output.say(line)


@app.command()
def extract(
    archive: ArchiveArgument,
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATTERN", help="Ids to extract, such as 'train/*'; by default all."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the photos go.", callback=paths.output_folder)] = Path(
        "extracted"
    ),
    model: MovedModelOption = None,
    file_format: Annotated[
        FileFormat,
        typer.Option(
            "--format",
            metavar=one_of(FileFormat),
            help="own: latents as PNG and the others as they are kept; or all in one format.",
        ),
    ] = "own",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
) -> None:
    """Write archived photos as files again."""
    from vae_ldm.desk.archive.reading import extract as extract_photos

    extract_photos(archive, patterns or (), out=out, model=model, file_format=file_format, overwrite=overwrite)


@app.command()
def verify(
    archive: ArchiveArgument,
    photos: Annotated[
        Path | None,
        typer.Argument(
            metavar="PHOTOS", help="Compare with these photos, each of which must be there.", callback=paths.photos
        ),
    ] = None,
    model: MovedModelOption = None,
) -> None:
    """Find every byte that has changed. With PHOTOS also check that the archive gives each photo back."""
    from vae_ldm.desk.archive.reading import verify as verify_archive

    verify_archive(archive, photos, model=model)


@app.command()
def report(
    photos: PhotosArgument,
    model: EncoderOption = None,
    out: Annotated[Path | None, page_option("archive.html")] = None,
    num_photos: Annotated[
        int,
        typer.Option(
            "-n", "--num-photos", metavar="N", min=1, help="Photos to measure, evenly spread over the folder."
        ),
    ] = 48,
    target_psnr: Annotated[
        float,
        typer.Option(metavar="DB", min=10, max=60, help="The PSNR that the sentences are about.", callback=finite),
    ] = 32,
) -> None:
    """Say where latents take fewer bytes than JPEG, WebP and AVIF. Nothing is archived."""
    from vae_ldm.desk.archive.report import report as write_report

    with new_place(out, "archive.html") as page:
        write_report(photos, model=model, out=page, num_photos=num_photos, target_psnr=target_psnr)
