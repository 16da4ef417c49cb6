"""Cracks, scratches and dents as thin as real ones: where it is widest, a crack has 1 to 2 px of 64."""

from dataclasses import dataclass

import numpy as np

from vae_ldm.data.rendered_claims.canvas import Canvas, Color, Dent
from vae_ldm.data.rendered_claims.damage import Box, distance_to_edge
from vae_ldm.data.rendered_claims.objects import GLASS_CRACK, Item

CRACK_WIDTH = 0.05
SCRATCH_WIDTH = 0.036
CREASE_WIDTH = 0.2  # of a dent's half width
OCCLUSION = 0.16


@dataclass(frozen=True)
class Buckle(Dent):
    """A shallow hollow exp(-r^2) that is longer one way than the other, with a sharp crease along its length."""

    turn: np.ndarray
    """The crease's direction, a unit vector."""
    crease: float
    """How strongly the crease shows beside the hollow."""

    def bend(self, points: np.ndarray) -> np.ndarray:
        p = self._own(points)
        return points + self.push * np.exp(-(p * p).sum(-1, keepdims=True))

    def shading(self, points: np.ndarray, light: np.ndarray) -> np.ndarray:
        x, y = np.moveaxis(points, -1, 0) - (self.center + 0.5 * self.push).astype(points.dtype)[:, None, None]
        (cos, sin), (length, width) = self.turn.tolist(), self.radii.tolist()
        along, across = x * (cos / length) + y * (sin / length), y * (cos / width) - x * (sin / width)
        light_along, light_across = float(light @ self.turn), float(light[1] * cos - light[0] * sin)
        far = along * along
        # a hollow sees less of the room: its middle is darker whichever way the light falls
        hollow = np.exp(-(far + across * across)) * (along * light_along + across * light_across + OCCLUSION)
        fold = across * (1 / CREASE_WIDTH)
        crease = np.exp(-(fold * fold + 1.4 * far)) * fold * (self.crease * light_across)
        return -2.33 * (hollow + crease)  # 2.33 brings the hollow's largest slope to 1

    def _own(self, points: np.ndarray) -> np.ndarray:
        """Points as the hollow measures them: along and across the crease, in radii."""
        way = np.stack([self.turn, [-self.turn[1], self.turn[0]]], axis=-1) / self.radii
        return (points - self.center) @ way


def draw_buckle(rng: np.random.Generator, face: Box) -> Buckle:
    """A blow anywhere on `face` but its middle, small or large, that pushes it toward the middle."""
    low, high = np.array(face[:2]), np.array(face[2:])
    middle, half = (low + high) / 2, (high - low) / 2
    angle = rng.uniform(0, 2 * np.pi)
    outward = np.array([np.cos(angle), np.sin(angle)])
    center = middle + outward * half * rng.uniform(0.5, 0.8)
    length, depth = rng.uniform(0.36, 0.54), rng.uniform(0.15, 0.23)
    crease_angle = angle + np.pi / 2 + rng.uniform(-0.7, 0.7)
    turn = np.array([np.cos(crease_angle), np.sin(crease_angle)])
    radii = np.array([length, length * rng.uniform(0.6, 0.85)])
    return Buckle(center, radii, -outward * depth, turn, crease=rng.uniform(0.8, 1.2))


def paint_fine_crack(canvas: Canvas, rng: np.random.Generator, item: Item) -> None:
    """A crack as the item's material has it."""
    paint = _paint_shatter if item.crack == GLASS_CRACK else _paint_tear
    paint(canvas, rng, item.face, core=item.crack[0], rim=item.crack[1])


def _paint_shatter(canvas: Canvas, rng: np.random.Generator, face: Box, *, core: Color, rim: Color) -> None:
    """Glass: thin rays from one point of impact to the edges of `face`, and pieces of rings between them."""
    low, high = np.array(face[:2]), np.array(face[2:])
    impact = low + (high - low) * rng.uniform(0.2, 0.8, size=2)
    num_rays = int(rng.integers(6, 10))
    angles = rng.uniform(0, 2 * np.pi) + (np.arange(num_rays) + rng.uniform(-0.3, 0.3, num_rays)) * 2 * np.pi / num_rays
    reach = np.array([distance_to_edge(impact, angle, low, high) for angle in angles])
    reach = np.minimum(reach, rng.uniform(0.45, 1.5, num_rays))
    rays = _wandering(rng, impact, angles, reach)  # [R, P, 2]
    widths = CRACK_WIDTH * rng.uniform(0.5, 0.85, (num_rays, 1)) * np.linspace(1, 0.25, rays.shape[1])
    shards = [outlines(rays, widths)]
    for place in (2, 4):  # points of neighboring rays as far out as each other
        ring = np.stack([rays[:, place], np.roll(rays, -1, axis=0)[:, place]], axis=1)
        near = np.linalg.norm(ring[:, 1] - ring[:, 0], axis=-1) < 0.5
        ring = ring[near & (rng.random(num_rays) < 0.45)]
        if len(ring):
            shards.append(outlines(ring, np.full(ring.shape[:2], 0.38 * CRACK_WIDTH)))
    for shard in shards:
        canvas.polygons(shard + 0.012, [rim] * len(shard))
    for shard in shards:
        canvas.polygons(shard, [core] * len(shard))
    star = impact + rng.uniform(0.03, 0.085, (9, 1)) * _directions(np.linspace(0, 2 * np.pi, 9, endpoint=False))
    canvas.polygon(star, core)


def _paint_tear(canvas: Canvas, rng: np.random.Generator, face: Box, *, core: Color, rim: Color) -> None:
    """Card and metal: one jagged gap across a part of `face`, with side branches; `rim` shows on one lip."""
    low, high = np.array(face[:2]), np.array(face[2:])
    impact = low + (high - low) * rng.uniform(0.3, 0.7, size=2)
    angle = rng.uniform(0, 2 * np.pi)
    num_arms = int(rng.integers(2, 4))
    angles = angle + np.arange(num_arms) * 2 * np.pi / num_arms + rng.uniform(-0.5, 0.5, num_arms)
    reach = np.array([distance_to_edge(impact, a, low, high) for a in angles]) * rng.uniform(0.75, 1.0, num_arms)
    arms = _wandering(rng, impact, angles, reach, swerve=0.1)
    gap = outlines(arms, CRACK_WIDTH * rng.uniform(0.95, 1.3, (num_arms, 1)) * np.linspace(1, 0.3, arms.shape[1]))
    roots = np.repeat(np.arange(num_arms), 2)
    starts = arms[roots, rng.integers(1, 6, len(roots))]
    forks = angles[roots] + rng.choice([-1, 1], len(roots)) * rng.uniform(0.5, 1.1, len(roots))
    room = np.array([distance_to_edge(s, a, low, high) for s, a in zip(starts, forks, strict=True)])
    twigs = _wandering(rng, starts, forks, np.minimum(room, rng.uniform(0.14, 0.4, len(roots))), swerve=0.1)
    fissures = outlines(twigs, 0.75 * CRACK_WIDTH * np.ones((len(roots), 1)) * np.linspace(1, 0.3, twigs.shape[1]))
    lip = np.array([0.018, 0.026])
    for shapes, color in ((gap + lip, rim), (fissures + lip, rim), (fissures, core), (gap, core)):
        canvas.polygons(shapes, [color] * len(shapes))


def paint_fine_scratches(canvas: Canvas, rng: np.random.Generator, item: Item) -> None:
    """Four to six fine strokes across the item's face, nearly parallel, long and short, with dark lower lips."""
    low, high = np.array(item.face[:2]), np.array(item.face[2:])
    middle, half = (low + high) / 2, (high - low) / 2
    slope = rng.uniform(0.2, 1.25) * rng.choice([-1, 1])
    along = np.array([np.cos(slope), np.sin(slope)])
    across = np.array([-along[1], along[0]])
    middle = middle + rng.uniform(-0.22, 0.22, size=2) * half
    count = int(rng.integers(4, 7))
    offsets = (np.arange(count) - (count - 1) / 2 + rng.uniform(-0.3, 0.3, count)) * rng.uniform(0.085, 0.14)
    centers = middle + across * offsets[:, None] + along * rng.uniform(-0.16, 0.16, (count, 1))
    lean = rng.uniform(-0.09, 0.09, (count, 1))
    ways = along + lean * across
    places = np.linspace(-1, 1, 5)
    reach = half.min() * rng.uniform(0.6, 1.1, (count, 1, 1))
    lines = centers[:, None] + reach * places[:, None] * ways[:, None]
    lines = lines + (rng.uniform(-0.05, 0.05, (count, 1)) * (1 - places**2))[..., None] * across
    widths = SCRATCH_WIDTH * rng.uniform(0.5, 1.15, (count, 1)) * np.array([0.25, 0.8, 1, 0.8, 0.25])
    strokes = outlines(lines.clip(low, high), widths)
    both = np.concatenate([strokes + np.array([0.006, 0.016]), strokes])
    canvas.polygons(both, [(30, 26, 28)] * count + [(250, 250, 247)] * count)


def outlines(lines: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Polylines [N, P, 2] that are `widths` [N, P] wide at their points, as outlines [N, 2 P, 2]."""
    way = np.gradient(lines, axis=1)
    normal = np.stack([-way[..., 1], way[..., 0]], axis=-1) / (np.linalg.norm(way, axis=-1, keepdims=True) + 1e-9)
    edge = normal * widths[..., None] / 2
    return np.concatenate([lines + edge, (lines - edge)[:, ::-1]], axis=1)


def _wandering(
    rng: np.random.Generator, starts: np.ndarray, angles: np.ndarray, lengths: np.ndarray, swerve: float = 0.04
) -> np.ndarray:
    """Polylines from `starts` ([2] or [N, 2]) of eight points that swerve at random about their way: [N, 8, 2]."""
    along = _directions(angles)
    across = np.stack([-along[:, 1], along[:, 0]], axis=-1)
    steps = np.linspace(0, 1, 8)
    side = swerve * rng.uniform(-1, 1, (len(angles), 8)) * np.minimum(steps * 4, 1)
    reach = lengths[:, None, None]
    way = reach * steps[:, None] * along[:, None] + np.minimum(reach, 0.8) * side[..., None] * across[:, None]
    return np.broadcast_to(starts, along.shape)[:, None] + way


def _directions(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)
