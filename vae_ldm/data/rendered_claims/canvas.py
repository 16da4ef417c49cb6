"""A supersampled canvas whose coordinates are the object's own, whatever its pose and its dent."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Color = tuple[int, ...]  # RGB, or RGBA where paint is laid on thinly
Points = np.ndarray | list[tuple[float, float]]  # [N, 2], x to the right and y down, the object within about [-1, 1]

EDGE_PIECES = 10  # straight edges are cut this finely before they are bent


@dataclass(frozen=True)
class Dent:
    """A flat-bottomed hollow exp(-r^4): one formula pushes the outline in and says where light falls on its walls."""

    center: np.ndarray
    radii: np.ndarray
    push: np.ndarray
    """The way that a point at the center is moved."""

    def bend(self, points: np.ndarray) -> np.ndarray:
        """The points [N, 2], moved by the blow."""
        r2 = (((points - self.center) / self.radii) ** 2).sum(-1, keepdims=True)
        return points + self.push * np.exp(-r2 * r2)

    def shading(self, points: np.ndarray, light: np.ndarray) -> np.ndarray:
        """Slope of the hollow toward the light, [...] in [-1, 1]: the wall far from the light is the bright one."""
        p = (points - self.center - 0.6 * self.push) / self.radii
        r2 = (p * p).sum(-1)
        return -2.63 * (p @ light) * r2 * np.exp(-r2 * r2)  # 2.63 brings the largest slope to 1


@dataclass(frozen=True)
class Pose:
    """A homography from object coordinates to the picture's, whose shorter side spans [-1, 1]."""

    matrix: np.ndarray
    """[3, 3]"""

    @classmethod
    def draw(cls, rng: np.random.Generator, max_turn: float) -> "Pose":
        """A pose turned by up to `max_turn` degrees, perhaps mirrored, and seen slightly from the side."""
        turn = np.deg2rad(rng.uniform(-max_turn, max_turn))
        scale = rng.uniform(0.80, 0.94)
        mirror = rng.choice([-1.0, 1.0])
        cos, sin = scale * np.cos(turn), scale * np.sin(turn)
        shift_x, shift_y = rng.uniform(-0.08, 0.08, size=2) - [0, 0.03]
        tilt_x, tilt_y = rng.uniform(-0.1, 0.1, size=2)
        return cls(np.array([[mirror * cos, -sin, shift_x], [mirror * sin, cos, shift_y], [tilt_x, tilt_y, 1.0]]))

    def unmirrored(self) -> "Pose":
        """The same pose seen directly where it was seen in a mirror."""
        return Pose(self.matrix * [self.handedness, 1, 1])

    @property
    def handedness(self) -> float:
        """-1 where print would be seen in a mirror, else 1."""
        return float(np.sign(np.linalg.det(self.matrix[:2, :2])))

    def to_picture(self, points: np.ndarray) -> np.ndarray:
        """Object points [..., 2] as picture points."""
        return _transform(self.matrix, points)

    def to_object(self, points: np.ndarray) -> np.ndarray:
        """Picture points [..., 2] as points on the object's plane."""
        return _transform(np.linalg.inv(self.matrix), points)

    def direction_to_object(self, direction: np.ndarray) -> np.ndarray:
        """A unit vector of the picture as the object, turned and mirrored, sees it: [2]."""
        turned = direction @ self.matrix[:2, :2]
        return turned / np.linalg.norm(turned)


class Canvas:
    """Paints polygons several times larger than the picture and averages them down: smooth edges at any size."""

    def __init__(
        self, image_size: tuple[int, int], pose: Pose, dent: Dent | None = None, *, bent_points: int | None = None
    ) -> None:
        """`bent_points`: edges are bent as pieces, as many as give an outline so many points; None: 10 an edge."""
        height, width = image_size
        self.pose, self.dent, self._bent_points = pose, dent, bent_points
        self.shows_letters = min(image_size) >= 128
        """Whether the smallest print is more than a grey line."""
        self._factor = 4 if min(image_size) < 48 else 3 if min(image_size) < 128 else 2
        size = (width * self._factor, height * self._factor)
        self._center, self._unit = np.array(size) / 2, min(size) / 2
        self._picture, self._mask = Image.new("RGB", size), Image.new("L", size)
        self._brush, self._mask_brush = ImageDraw.Draw(self._picture), ImageDraw.Draw(self._mask)
        self._thin_brush = ImageDraw.Draw(self._picture, "RGBA")  # mixes RGBA paint in, at several times the cost

    def backdrop(self, points: Points, fill: Color) -> None:
        """Paint a polygon given in picture coordinates, behind the object."""
        self._brush.polygon(self._pixels(np.asarray(points)), fill=fill)

    def silhouette(self, points: Points, fill: Color) -> None:
        """Paint a polygon that is part of the object's outline, and so casts a shadow."""
        pixels = self._project(points)
        self._brush.polygon(pixels, fill=fill)
        self._mask_brush.polygon(pixels, fill=255)

    def polygon(self, points: Points, fill: Color) -> None:
        """Paint a polygon on the object."""
        brush = self._thin_brush if len(fill) == 4 else self._brush
        brush.polygon(self._project(points), fill=fill)

    def polygons(self, shapes: np.ndarray | Sequence[Points], fills: Sequence[Color]) -> None:
        """Paint polygons [N, K, 2] on the object, each in its color; a dent leaves their edges straight."""
        self._paint_all(self._project_all(np.asarray(shapes, float)), fills)

    def marks(self, shapes: np.ndarray, fill: Color) -> None:
        """Paint small quadrilaterals [N, 4, 2] of one color on the object; a dent leaves their edges straight.

        Pillow paints the pixels under an outline too, so they are made smaller by as much: a fine bar is as wide as it
        is meant to be.
        """
        self._paint_all(_shrink(self._project_all(shapes), 0.5), [fill] * len(shapes))

    def backdrops(self, shapes: np.ndarray | Sequence[Points], fills: Sequence[Color]) -> None:
        """Paint polygons [N, K, 2] given in picture coordinates, behind the object, each in its color."""
        self._paint_all(self._center + np.asarray(shapes, float) * self._unit, fills)

    def rectangle(self, left: float, top: float, right: float, bottom: float, fill: Color) -> None:
        """Paint an upright rectangle on the object."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill)

    def averaged(self, softness: float) -> tuple[np.ndarray, Image.Image]:
        """The picture, float32 [H, W, 3] in [0, 255], and the object's mask (mode L), both at their final size.

        `softness` is the standard deviation of the lens's blur in pixels.
        """
        picture, mask = self._picture.reduce(self._factor), self._mask.reduce(self._factor)
        if softness > 0:
            picture, mask = (layer.filter(ImageFilter.GaussianBlur(softness)) for layer in (picture, mask))
        return np.asarray(picture, np.float32), mask

    def _project(self, points: Points) -> list[float]:
        points = np.asarray(points, float)
        if self.dent is not None:
            num_pieces = EDGE_PIECES if self._bent_points is None else -(-self._bent_points // len(points))
            steps = np.arange(num_pieces)[:, None] / num_pieces
            edges = np.roll(points, -1, axis=0) - points
            points = self.dent.bend((points[:, None] + steps * edges[:, None]).reshape(-1, 2))
        return self._pixels(self.pose.to_picture(points))

    def _project_all(self, shapes: np.ndarray) -> np.ndarray:
        points = shapes.reshape(-1, 2)
        if self.dent is not None:
            points = self.dent.bend(points)
        return (self._center + self.pose.to_picture(points) * self._unit).reshape(shapes.shape)

    def _paint_all(self, pixels: np.ndarray, fills: Sequence[Color]) -> None:
        for outline, fill in zip(pixels.reshape(len(pixels), -1).tolist(), fills, strict=True):
            (self._thin_brush if len(fill) == 4 else self._brush).polygon(outline, fill=fill)

    def _pixels(self, points: np.ndarray) -> list[float]:
        return (self._center + points * self._unit).ravel().tolist()


def picture_grid(image_size: tuple[int, int]) -> np.ndarray:
    """The picture coordinates of every pixel's center: [H, W, 2]."""
    height, width = image_size
    ys, xs = np.mgrid[:height, :width].astype(np.float32) + 0.5
    return np.stack([xs - width / 2, ys - height / 2], axis=-1) / (min(image_size) / 2)


def ellipse(center: tuple[float, float], radii: tuple[float, float], start: float = 0, end: float = 360) -> np.ndarray:
    """Points along an ellipse from `start` to `end` degrees, clockwise from the right: [N, 2]."""
    num_points = max(4, round(abs(end - start) / 15))
    angles = np.deg2rad(start + (end - start) / (num_points - 1) * np.arange(num_points))
    return np.array(center) + np.array(radii) * np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def rounded_rectangle(left: float, top: float, right: float, bottom: float, radius: float) -> np.ndarray:
    """The outline [N, 2] with its corners rounded to `radius`."""
    r = radius
    corners = [(right - r, bottom - r), (left + r, bottom - r), (left + r, top + r), (right - r, top + r)]
    return np.concatenate([ellipse(c, (r, r), 90 * k, 90 * k + 90) for k, c in enumerate(corners)])


def _shrink(corners: np.ndarray, margin: float) -> np.ndarray:
    """Quadrilaterals [N, 4, 2] whose sides lie `margin` further inside, or on their middle line where they are thin."""
    sides = corners[:, [1, 3]] - corners[:, :1]
    lengths = np.sqrt((sides * sides).sum(-1, keepdims=True)) + 1e-9
    inward = sides * np.minimum(margin / lengths, 0.5)
    u, v = inward[:, 0], inward[:, 1]
    plus, minus = u + v, u - v
    return corners + np.stack([plus, -minus, -plus, minus], axis=1)


def _transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    mapped = points @ matrix[:, :2].T + matrix[:, 2]
    return mapped[..., :2] / mapped[..., 2:]
