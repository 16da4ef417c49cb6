"""The laptop, the parcel and the tin with what a photo of them shows: keys, a pasted label, a printed wrap."""

import numpy as np
from numpy.typing import ArrayLike

from vae_ldm.data.rendered_claims.canvas import Canvas, Color, ellipse, rounded_rectangle
from vae_ldm.data.rendered_claims.fine.label import paint_fine_label
from vae_ldm.data.rendered_claims.fine.lettering import (
    LETTER_PITCH,
    bar_code,
    boxes,
    small_print,
    thick,
    word,
    word_width,
)
from vae_ldm.data.rendered_claims.objects import (
    GLASS_CRACK,
    PARCEL_FACE,
    TIN_HALF_WIDTH,
    Item,
    article,
    barrel,
    choose,
    shade,
)

FRAME_COLORS: dict[str, Color] = {"black": (46, 46, 50), "silver": (182, 185, 190), "grey": (108, 110, 116)}
SCREEN_COLORS: dict[str, tuple[Color, Color]] = {
    "blue": ((58, 98, 158), (28, 62, 104)),
    "purple": ((98, 74, 140), (62, 38, 88)),
    "green": ((62, 122, 112), (24, 76, 62)),
    "orange": ((206, 128, 76), (120, 58, 44)),
}
BOX_COLORS: dict[str, Color] = {"brown": (172, 130, 88), "tan": (198, 161, 116)}
TAPE_COLORS: dict[str, Color] = {"red": (178, 62, 54), "blue": (66, 98, 158), "clear": (214, 190, 150)}
WRAPS: dict[str, tuple[Color, Color]] = {  # the wrap, and what is pictured on it
    "red": ((172, 40, 38), (214, 70, 48)),
    "green": ((46, 112, 66), (112, 164, 70)),
    "blue": ((44, 82, 148), (150, 172, 190)),
    "yellow": ((218, 170, 56), (232, 196, 92)),
    "orange": ((206, 106, 42), (226, 146, 60)),
}
WORDS = ("TOMATO", "BEANS", "CORN", "PEAS", "SOUP", "TUNA")
PAPER: Color = (240, 238, 230)
INK: Color = (34, 33, 38)
TEAR: tuple[Color, Color] = ((30, 22, 18), (240, 226, 204))


def paint_laptop(canvas: Canvas, rng: np.random.Generator) -> tuple[str, str]:
    """An opened laptop: the lid with its screen and camera, and below it the keys and the touchpad."""
    name, shell = choose(rng, FRAME_COLORS)
    screen_name, (light, dark) = choose(rng, SCREEN_COLORS)
    deck = shade(shell, 0.88)
    canvas.silhouette(_EDGE, shade(shell, 0.55))
    canvas.silhouette(_DECK, deck)
    canvas.polygon(_KEY_WELL, shade(deck, 0.72))
    canvas.marks(_KEYS, (40, 40, 45) if sum(shell) > 240 else (24, 24, 27))
    canvas.polygon(_TOUCHPAD, shade(deck, 0.9))
    canvas.silhouette(_LID, shell)
    canvas.polygon(_LID_GLASS, (27, 27, 31))
    canvas.rectangle(-0.6, 0.292, 0.6, 0.325, shade(shell, 0.45))
    canvas.polygon(_CAMERA, (74, 80, 96))
    left, top, right, bottom = SCREEN
    canvas.polygons(_SKY, [shade(light, 0.62 + 0.1 * k) for k in range(len(_SKY))])
    xs = np.linspace(left, right, 22)
    wave, lean = rng.uniform(0, 6.3, size=3), rng.uniform(-0.15, 0.15)
    shows_window = rng.random() < 0.5
    ys = np.array([[-0.24], [-0.1], [0.03]]) + 0.08 * np.sin(3.1 * xs + wave[:, None]) + lean * xs
    ys += 0.035 * np.sin(9 * xs + wave[::-1, None])
    ridges = np.stack([np.broadcast_to(xs, ys.shape), ys.clip(top, bottom)], axis=-1)
    ground = np.broadcast_to([(right, bottom), (left, bottom)], (3, 2, 2))
    canvas.polygons(np.concatenate([ridges, ground], axis=1), [shade(dark, tone) for tone in (1.35, 1.0, 0.7)])
    if shows_window:
        _paint_window(canvas, rng, rng.uniform(-0.68, -0.12), rng.uniform(-0.66, -0.54))
    canvas.rectangle(left, bottom - 0.055, right, bottom, (22, 24, 32, 190))
    canvas.marks(_ICONS, (214, 220, 226))
    glare = rng.uniform(-0.5, 0.3)
    band = [(glare, top), (glare + 0.42, top), (glare + 0.1, bottom), (glare - 0.32, bottom)]
    canvas.polygon(band, (255, 255, 255, 12))
    return name, f"with {article(screen_name)} screen"


def paint_fine_parcel(canvas: Canvas, rng: np.random.Generator) -> tuple[str, str]:
    """A cardboard box with its flaps taped, printed arrows and a word, and a small label pasted on."""
    name, card = choose(rng, BOX_COLORS)
    tape_name, tape = choose(rng, TAPE_COLORS)
    left, top, right, bottom = PARCEL_FACE
    deep = np.array([rng.uniform(0.22, 0.34), -rng.uniform(0.24, 0.34)])
    a, b, c = np.array([left, top]), np.array([right, top]), np.array([right, bottom])
    canvas.silhouette(np.stack([a, b, b + deep, a + deep]), shade(card, 1.16))
    canvas.silhouette(np.stack([b, c, c + deep, b + deep]), shade(card, 0.62))
    canvas.silhouette(np.stack([a, b, c, np.array([left, bottom])]), card)
    flutes = rng.uniform(top + 0.05, bottom, size=8)
    lower = bottom - np.array([0.2, 0.55]) * (bottom - top)  # the front grows darker toward the ground
    tops, bottoms = np.concatenate([lower, flutes]), np.concatenate([[bottom, bottom], flutes + 0.012])
    paints: list[Color] = [(60, 36, 16, 16)] * 2 + [(*shade(card, 0.8), 60)] * 4 + [(*shade(card, 1.2), 60)] * 4
    canvas.polygons(boxes(left, tops, right, bottoms), paints)
    middle, half = (left + right) / 2, np.array([rng.uniform(0.075, 0.1), 0])
    m, reach = np.array([middle, top]), rng.uniform(0.2, 0.34)
    seam = 0.5 * deep + [[left, top - 0.008], [right, top - 0.008], [right, top + 0.008], [left, top + 0.008]]
    over = np.stack([m - half, m + half, m + half + deep, m - half + deep])
    down = boxes(middle + half[0] * np.array([-1, -0.6]), top, middle + half[0] * np.array([1, -0.35]), top + reach)
    canvas.polygons(
        [seam, over, *down], [shade(card, 0.7), (*shade(tape, 1.1), 225), (*tape, 225), (255, 255, 255, 60)]
    )
    edges = np.array([[a, b], [b, c], [b, b + deep]])
    canvas.marks(thick(edges, 0.016), (*shade(card, 1.32), 150))

    reading = canvas.pose.handedness  # print stays legible where the box is mirrored
    print_ink = shade(card, 0.42)

    def printed(shapes: np.ndarray, center: float) -> np.ndarray:
        return shapes * [reading, 1] + [center, 0]

    side = rng.choice([-1.0, 1.0])
    patch_x, patch_y = middle + side * 0.36, top + rng.uniform(0.3, 0.44)
    width, height = 0.25, rng.uniform(0.17, 0.21)
    margin = np.array([0.012, 0])
    patch = _around(patch_x, patch_y, width + margin, height + margin)
    canvas.polygons(patch, [shade(card, 0.72), PAPER])
    tops = patch_y - height + np.array([0.04, 0.1])
    lines = small_print(rng, -0.21, tops, 0.14, 0.036, legible=canvas.shows_letters)
    code = bar_code(rng, -0.21, patch_y + 0.02, 0.21, patch_y + height - 0.035, 16)
    canvas.marks(printed(np.concatenate([lines, code]), patch_x), INK)
    arrows_x = middle - side * 0.42
    heads = np.array([(0, -0.36), (0.055, -0.28), (-0.055, -0.28)]) + np.array([[[-0.09, bottom]], [[0.09, bottom]]])
    canvas.polygons(printed(heads, arrows_x), [print_ink] * 2)
    stems = boxes(np.array([-0.105, 0.075]), bottom - 0.28, np.array([-0.075, 0.105]), bottom - 0.16)
    ground = boxes(-0.17, bottom - 0.14, 0.17, bottom - 0.12)
    text = "FRAGILE"
    letters = word(text, -word_width(text, 0.095) / 2, bottom - 0.22, 0.095)
    canvas.marks(
        np.concatenate([printed(np.concatenate([stems, ground]), arrows_x), printed(letters, patch_x)]), print_ink
    )
    return name, f"with {tape_name} tape"


def paint_fine_tin(canvas: Canvas, rng: np.random.Generator) -> tuple[str, str]:
    """A food can: ribbed steel, a lid with a ring to pull, and a wrap with a word, a picture and small print."""
    name, (wrap, fruit) = choose(rng, WRAPS)
    steel: Color = (178, 181, 186)
    canvas.silhouette(_TIN_BODY, steel)
    height = rng.uniform(-0.4, -0.3)
    groove, line = shade(steel, 0.7), (222, 196, 120)
    band = barrel(height - 0.04, height + 0.26)
    canvas.polygons([_TIN_WRAP, *_TIN_GROOVES, *_TIN_LINES, band], [wrap, groove, groove, line, line, PAPER])
    text = WORDS[int(rng.integers(len(WORDS)))]
    size = min(0.2, 0.98 / (LETTER_PITCH * len(text)))
    name_print = word(text, -word_width(text, size) / 2, height + 0.11 - size / 2, size, weight=0.2)
    canvas.marks(_wrapped(name_print), shade(wrap, 0.62))
    low = height + 0.5
    places, radii = np.array([(-0.17, 0.02), (0.16, 0.04), (0.0, -0.03)]), np.array([[[0.12]], [[0.125]], [[0.145]]])
    centers = _wrapped(places + np.array([0, low]))[:, None]
    balls = np.concatenate(
        [
            centers + radii * _CIRCLE,
            centers - 0.012 + 0.88 * radii * _CIRCLE,
            centers - 0.35 * radii + 0.26 * radii * _CIRCLE,
        ]
    )
    shine = (255, 246, 226, 150)
    canvas.polygons(balls[[0, 3, 6, 1, 4, 7, 2, 5, 8]], [shade(fruit, 0.66), fruit, shine] * 3)
    leaf = np.array([(-0.02, -0.13), (0.1, -0.22), (0.16, -0.15), (0.06, -0.1)])
    canvas.polygon(_wrapped(leaf + np.array([0, low])), (74, 128, 58) if name != "green" else (196, 214, 120))
    lines = small_print(rng, -0.3, low + np.array([0.21, 0.27]), 0.3, 0.036, legible=canvas.shows_letters)
    canvas.marks(_wrapped(lines), shade(PAPER, 0.96))
    turned = rng.choice([-0.62, 0.62])
    patch = _around(turned, low + 0.05, 0.13, 0.12)
    canvas.marks(_wrapped(patch), PAPER)
    canvas.marks(_wrapped(bar_code(rng, turned - 0.1, low - 0.04, turned + 0.1, low + 0.13, 10)), INK)
    canvas.silhouette(_TIN_LID[0], _TIN_LID_COLORS[0])
    canvas.polygons(_TIN_LID[1:], _TIN_LID_COLORS[1:])
    return name, ""


def _paint_window(canvas: Canvas, rng: np.random.Generator, left: float, top: float) -> None:
    """A document on the screen: its bar, a heading, lines, and a picture in them."""
    width, height = 0.72, 0.56
    areas = boxes(
        left + np.array([0, 0, 0.45]),
        top + np.array([0, 0, 0.14]),
        left + np.array([width, width, 0.67]),
        top + np.array([height, 0.05, 0.32]),
    )
    canvas.polygons(areas, [(236, 238, 240), (196, 201, 208), (152, 172, 190)])
    lines = small_print(
        rng, left + 0.05, top + 0.15 + 0.08 * np.arange(4), left + 0.4, 0.036, legible=canvas.shows_letters
    )
    heading = boxes(left + 0.05, top + 0.085, left + 0.32, top + 0.12)
    canvas.marks(np.concatenate([heading, lines]), (96, 102, 114))


def _deck(points: np.ndarray | list[tuple[float, float]]) -> np.ndarray:
    """Points of the keyboard's plane, (-1, 0) at the left of the hinge and (1, 1) at the right in front, as seen."""
    points = np.asarray(points, float)
    u, t = points[..., 0], points[..., 1]
    return np.stack([u * (0.87 + 0.13 * t), 0.31 + 0.5 * t * (0.9 + 0.1 * t)], axis=-1)


def _wrapped(points: np.ndarray) -> np.ndarray:
    """Points of the wrap, laid flat with the middle at x = 0, as seen around the tin."""
    angle = points[..., 0] / TIN_HALF_WIDTH
    return np.stack([TIN_HALF_WIDTH * np.sin(angle), points[..., 1] + 0.17 * np.cos(angle)], axis=-1)


def _around(x: float, y: float, half_width: ArrayLike, half_height: ArrayLike) -> np.ndarray:
    """Upright rectangles about a point: [N, 4, 2]."""
    across, down = np.asarray(half_width), np.asarray(half_height)
    return boxes(x - across, y - down, x + across, y + down)


def _keys() -> np.ndarray:
    rows, columns = np.mgrid[:4, :13]
    lefts, tops = -0.845 + 0.13 * columns.ravel(), 0.105 + 0.105 * rows.ravel()
    edges = np.array([-0.845, -0.68, -0.515, -0.35, 0.37, 0.535, 0.70, 0.865])
    last_row = boxes(edges[:-1], 0.525, edges[1:] - 0.02, 0.61)
    return _deck(np.concatenate([boxes(lefts, tops, lefts + 0.113, tops + 0.085), last_row]))


SCREEN = (-0.80, -0.735, 0.80, 0.21)
_KEYS = _keys()
_EDGE = _deck([(-1, 0.97), (1, 0.97), (0.985, 1.06), (-0.985, 1.06)])
_DECK = _deck([(-1, 0), (1, 0), (1, 1), (-1, 1)])
_KEY_WELL = _deck([(-0.86, 0.09), (0.86, 0.09), (0.86, 0.63), (-0.86, 0.63)])
_TOUCHPAD = _deck([(-0.27, 0.68), (0.27, 0.68), (0.27, 0.95), (-0.27, 0.95)])
_LID = rounded_rectangle(-0.87, -0.86, 0.87, 0.31, 0.06)
_LID_GLASS = rounded_rectangle(-0.852, -0.842, 0.852, 0.292, 0.05)
_CAMERA = ellipse((0.0, -0.785), (0.016, 0.016))
_SKY = boxes(SCREEN[0], np.linspace(SCREEN[1], SCREEN[3], 8)[:-1], SCREEN[2], SCREEN[3])
_ICONS = boxes(-0.2 + 0.07 * np.arange(7), SCREEN[3] - 0.045, -0.165 + 0.07 * np.arange(7), SCREEN[3] - 0.01)
_TIN_BODY, _TIN_WRAP = barrel(-0.74, 0.80), barrel(-0.62, 0.70)
_TIN_GROOVES = [barrel(-0.70, -0.675), barrel(0.735, 0.76)]
_TIN_LINES = [barrel(-0.585, -0.565), barrel(0.645, 0.665)]
_CIRCLE = ellipse((0, 0), (1, 1))
# from its rim to the ring that it is pulled open by
_TIN_LID = np.stack(
    [
        ellipse((0, -0.74), (TIN_HALF_WIDTH, 0.17)),
        ellipse((0, -0.733), (0.555, 0.145)),
        ellipse((0, -0.724), (0.52, 0.127)),
        ellipse((0, -0.722), (0.43, 0.1)),
        ellipse((0, -0.716), (0.415, 0.094)),
        ellipse((0.1, -0.715), (0.17, 0.045)),
        ellipse((0.12, -0.712), (0.1, 0.022)),
        ellipse((-0.07, -0.722), (0.04, 0.014)),
    ]
)
_TIN_LID_COLORS: list[Color] = [
    (224, 226, 229),
    (112, 115, 122),
    (186, 189, 194),
    (160, 163, 169),
    (196, 199, 203),
    (128, 131, 138),
    (190, 193, 198),
    (98, 101, 108),
]

FINE_ITEMS: dict[str, Item] = {
    "laptop bezel": Item(
        paint_laptop, face=(-0.80, -0.76, 0.80, 0.23), max_turn=7, crack=GLASS_CRACK, may_be_mirrored=False
    ),
    "parcel": Item(paint_fine_parcel, face=PARCEL_FACE, max_turn=7, crack=TEAR),
    "tin": Item(
        paint_fine_tin, face=(-0.54, -0.48, 0.54, 0.80), max_turn=8, crack=TEAR, is_round=True, may_be_mirrored=False
    ),
    "shipping label": Item(
        paint_fine_label, face=(-0.90, -0.66, 0.90, 0.66), max_turn=24, stands=False, may_be_mirrored=False
    ),
}
