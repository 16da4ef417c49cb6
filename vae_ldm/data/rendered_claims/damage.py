"""Cracks, scratches and dents, bold enough to survive a small autoencoder: 5 to 7 % of the picture wide."""

import numpy as np

from vae_ldm.data.rendered_claims.canvas import Canvas, Color, Dent

Box = tuple[float, float, float, float]  # left, top, right, bottom in object coordinates

CRACK_WIDTH = 0.16
SCRATCH_WIDTH = 0.125


def paint_crack(canvas: Canvas, rng: np.random.Generator, face: Box, *, core: Color, rim: Color) -> None:
    """Jagged rays from one point of impact to the edges of `face`, each with a branch; `rim` shows on one side."""
    low, high = np.array(face[:2]), np.array(face[2:])
    impact = low + (high - low) * rng.uniform(0.32, 0.68, size=2)
    num_rays = int(rng.integers(3, 5))
    first = rng.uniform(0, 2 * np.pi)
    shards = []
    for k in range(num_rays):
        angle = first + (k + rng.uniform(-0.22, 0.22)) * 2 * np.pi / num_rays
        ray = jagged(rng, impact, angle, distance_to_edge(impact, angle, low, high))
        shards.append(stroke(ray, CRACK_WIDTH * np.linspace(1, 0.6, 5)))
        fork = ray[int(rng.integers(2, 4))]
        fork_angle = angle + rng.choice([-1, 1]) * rng.uniform(0.6, 1.0)
        reach = min(0.38, distance_to_edge(fork, fork_angle, low, high))
        shards.append(stroke(jagged(rng, fork, fork_angle, reach), CRACK_WIDTH * np.linspace(0.7, 0.3, 5)))
    for shard in shards:
        canvas.polygon(shard + 0.045, rim)
    for shard in shards:
        canvas.polygon(shard, core)


def paint_scratches(canvas: Canvas, rng: np.random.Generator, face: Box, *, bright: Color, dark: Color) -> None:
    """Three nearly parallel bright strokes across `face`, each with a dark lower lip."""
    low, high = np.array(face[:2]), np.array(face[2:])
    middle, half = (low + high) / 2, (high - low) / 2
    slope = rng.uniform(0.45, 1.1) * rng.choice([-1, 1])
    along = np.array([np.cos(slope), np.sin(slope)])
    across = np.array([-along[1], along[0]])
    middle = middle + rng.uniform(-0.15, 0.15, size=2) * half
    reach = 0.95 * half.min()
    places = np.linspace(-1, 1, 5)[:, None]
    for k in (-1, 0, 1):
        offset = k * 2.2 * SCRATCH_WIDTH + rng.uniform(-0.02, 0.02)
        center = middle + across * offset + along * rng.uniform(-0.12, 0.12)
        line = center + along * reach * rng.uniform(0.75, 1.1) * places
        line += across * rng.uniform(-0.04, 0.04) * (1 - places**2)
        scratch = stroke(line.clip(low, high), SCRATCH_WIDTH * np.array([0.05, 0.8, 1, 0.8, 0.05]))
        canvas.polygon(scratch + 0.045, dark)
        canvas.polygon(scratch, bright)


def draw_dent(rng: np.random.Generator, face: Box) -> Dent:
    """A blow near a side or corner of `face` that pushes it toward the middle."""
    low, high = np.array(face[:2]), np.array(face[2:])
    middle, half = (low + high) / 2, (high - low) / 2
    angle = rng.uniform(0, 2 * np.pi)
    outward = np.array([np.cos(angle), np.sin(angle)])
    center = middle + outward * half * rng.uniform(0.55, 0.8)
    return Dent(center, rng.uniform(0.39, 0.53, size=2), -outward * rng.uniform(0.16, 0.24))


def jagged(rng: np.random.Generator, start: np.ndarray, angle: float, length: float) -> np.ndarray:
    """A polyline of five points that swerves left and right of its way: [5, 2]."""
    along = np.array([np.cos(angle), np.sin(angle)])
    sides = rng.uniform(0.5, 1.0, size=5) * np.array([0, 1, -1, 1, -0.5]) * rng.choice([-1, 1])
    return start + length * (np.linspace(0, 1, 5)[:, None] * along + 0.11 * sides[:, None] * [-along[1], along[0]])


def stroke(line: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The outline of a polyline [N, 2] that is `widths` [N] wide at its points: [2 N, 2]."""
    way = np.gradient(line, axis=0)
    normal = np.stack([-way[:, 1], way[:, 0]], axis=-1) / (np.linalg.norm(way, axis=-1, keepdims=True) + 1e-9)
    edge = normal * widths[:, None] / 2
    return np.concatenate([line + edge, (line - edge)[::-1]])


def distance_to_edge(start: np.ndarray, angle: float, low: np.ndarray, high: np.ndarray) -> float:
    along = np.array([np.cos(angle), np.sin(angle)]) + 1e-9
    return float(np.where(along > 0, (high - start) / along, (low - start) / along).min())
