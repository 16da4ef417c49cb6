"""Puts many small pictures on one: samples by class, originals beside reconstructions, samples beside neighbours."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vae_ldm.models.joined_pictures import JoinedPictures, PictureArray

MARGIN = 12  # around the grid, and between a label and its row
GAP = 6  # between pictures of different groups
PAIR_GAP = 2  # between pictures of one group
FONT_SIZE = 13
LINE = 18  # height kept for a line of text
MAX_LABEL = 220
LEGIBLE = 96  # the shorter side a small picture is enlarged to, in pixels; a title has room above it

# A transparent page and middle grey letters read well on white paper and in a dark browser alike.
INK = (124, 124, 124)
PAPER, PAPER_INK = (255, 255, 255), (40, 40, 40)
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def in_cells(pictures: PictureArray) -> np.ndarray:
    """The pictures as an array uint8 [N, H, W, C]; those of several sizes in the middle of cells of the largest size.

    A smaller one is enlarged by a whole number as far as it fits, each pixel to a square.
    """
    if not isinstance(pictures, JoinedPictures) or pictures.has_one_size:
        return np.asarray(pictures)
    height, width = (max(sides) for sides in zip(*pictures.sizes, strict=True))
    cells = np.full((len(pictures), height, width, pictures.channels), INK[0], np.uint8)
    for cell, picture in zip(cells, pictures, strict=True):
        times = min(height // picture.shape[0], width // picture.shape[1])
        large = picture.repeat(times, axis=0).repeat(times, axis=1)
        top, left = (height - large.shape[0]) // 2, (width - large.shape[1]) // 2
        cell[top : top + large.shape[0], left : left + large.shape[1]] = large
    return cells


def image_grid(
    images: np.ndarray,
    *,
    num_columns: int,
    group_size: int = 1,
    captions: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    column_titles: Sequence[str] | None = None,
    scale: int | None = None,
    on_paper: bool = False,
) -> Image.Image:
    """A transparent RGBA page with `images` (uint8 [N, H, W, C], C in 1, 3, 4), row by row; a last row may be short.

    Pictures of one group of `group_size` neighbours stand close together and share a caption: N / group_size captions
    below the pictures, one label at the left of each row, one title above each column (or `group_size` titles, which
    are repeated). `scale` enlarges each pixel to a square; None takes the smallest that makes small pictures legible.
    `on_paper` is for a file of its own, to be opened by anything: RGB, dark letters on white.
    """
    num_images, height, width, channels = images.shape
    num_rows = math.ceil(num_images / num_columns)
    assert images.dtype == np.uint8, f"pictures at rest are uint8, not {images.dtype}"
    assert channels in MODES, f"a picture of {channels} channels has no colours to show"
    assert num_columns % group_size == num_images % group_size == 0, "a group may not be torn apart"
    assert captions is None or len(captions) == num_images // group_size, "one caption a group"
    assert row_labels is None or len(row_labels) == num_rows, "one label a row"
    assert column_titles is None or len(column_titles) in {group_size, num_columns}, "one title a column"

    scale = scale or max(1, math.ceil(LEGIBLE / min(height, width)))
    cell_height, cell_width = height * scale, width * scale
    font = ImageFont.load_default(FONT_SIZE)
    label_width = 0
    if row_labels:
        label_width = min(MAX_LABEL, math.ceil(max(font.getlength(label) for label in row_labels))) + MARGIN
    titles = list(column_titles or ())
    titles *= num_columns // len(titles) if titles else 1

    num_groups = num_columns // group_size
    group_width = group_size * cell_width + (group_size - 1) * PAIR_GAP
    group_gap = GAP if group_size == 1 else 2 * GAP
    row_height = cell_height + GAP + (LINE if captions else 0)
    left = MARGIN + label_width
    top = MARGIN + (LINE if titles else 0)
    page_width = left + num_groups * group_width + (num_groups - 1) * group_gap + MARGIN
    page_height = top + num_rows * row_height - GAP + MARGIN

    # Under the transparency lies the ink's colour, so that the soft edges of letters do not fade to black.
    ink = PAPER_INK if on_paper else INK
    page = Image.new("RGBA", (page_width, page_height), (*ink, 0))
    draw = ImageDraw.Draw(page)

    def write(text: str, x: float, y: float, room: float, anchor: str) -> None:
        draw.text((x, y), shorten(text, font, room), fill=(*ink, 255), font=font, anchor=anchor)

    def column_x(column: int) -> int:
        group, place = divmod(column, group_size)
        return left + group * (group_width + group_gap) + place * (cell_width + PAIR_GAP)

    for column, title in enumerate(titles):
        write(title, column_x(column) + cell_width / 2, MARGIN + LINE / 2 - 2, cell_width, "mm")
    for row, label in enumerate(row_labels or ()):
        write(label, left - MARGIN, top + row * row_height + cell_height / 2, MAX_LABEL, "rm")
    for index, pixels in enumerate(images):
        row, column = divmod(index, num_columns)
        page.paste(to_pillow(pixels, scale), (column_x(column), top + row * row_height))
    for group, caption in enumerate(captions or ()):
        row, column = divmod(group * group_size, num_columns)
        below = top + row * row_height + cell_height + LINE / 2
        write(caption, column_x(column) + group_width / 2, below, group_width, "mm")
    return Image.alpha_composite(Image.new("RGBA", page.size, PAPER), page).convert("RGB") if on_paper else page


def pair_grid(
    left: PictureArray,
    right: PictureArray,
    *,
    pairs_per_row: int,
    captions: Sequence[str] | None = None,
    titles: tuple[str, str] = ("original", "reconstruction"),
    scale: int | None = None,
) -> Image.Image:
    """`image_grid` of pairs: `left[i]` beside `right[i]` (uint8 [N, H, W, C] each), one caption a pair."""
    left, right = in_cells(left), in_cells(right)
    assert left.shape == right.shape, f"{left.shape} beside {right.shape}"
    return image_grid(
        np.stack([left, right], axis=1).reshape(-1, *left.shape[1:]),
        num_columns=2 * min(pairs_per_row, len(left)),
        group_size=2,
        captions=captions,
        column_titles=titles,
        scale=scale,
    )


def to_pillow(pixels: np.ndarray, scale: int = 1) -> Image.Image:
    """The picture `pixels` (uint8 [H, W, C]) as an RGBA image of [H * scale, W * scale], each pixel a square."""
    channels = pixels.shape[-1]
    flat = np.ascontiguousarray(pixels[..., 0] if channels == 1 else pixels)
    image = Image.fromarray(flat, MODES[channels]).convert("RGBA")
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float) -> str:
    """`text` on one line, cut with an ellipsis where it is wider than `room` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"
