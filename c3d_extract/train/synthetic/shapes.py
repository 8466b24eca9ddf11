"""Textured shapes on a textured background: the classes of motion differ in motion only.

A shape's position at mid-clip, size, texture, background and lighting have the same distribution for every
class, and each class of a pair in `REVERSALS` is the time reversal of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from c3d_extract.train.synthetic.background import random_background, random_colour
from c3d_extract.train.synthetic.camera import Camera, camera_shake
from c3d_extract.train.synthetic.canvas import Array, Canvas, Texture, local_coordinates

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MOTIONS", "REVERSALS", "SHAPES", "paint_shapes"]

REVERSALS = (
    ("left", "right"),
    ("up", "down"),
    ("clockwise", "counter-clockwise"),
    ("grow", "shrink"),
    ("pan-left", "pan-right"),
    ("zoom-in", "zoom-out"),
)
"""Pairs of motions that are time reversals of each other."""

MOTIONS = (*(name for pair in REVERSALS for name in pair), "to-and-fro", "circling", "still")

_f32 = np.float32

SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": lambda u, v: np.hypot(u, v) - _f32(0.9),
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) - _f32(0.75),
    "triangle": lambda u, v: (
        np.maximum(np.maximum(-v, v * 0.5 + u * 0.866), v * 0.5 - u * 0.866).astype(_f32) - _f32(0.45)
    ),
    "star": lambda u, v: np.subtract(np.hypot(u, v), 0.62 + 0.32 * np.cos(5 * np.arctan2(u, -v)), dtype=_f32),
    "ring": lambda u, v: np.abs(np.hypot(u, v) - _f32(0.68)) - _f32(0.22),
    "cross": lambda u, v: np.minimum(
        np.maximum(np.abs(u) - 0.28, np.abs(v) - 0.95), np.maximum(np.abs(v) - 0.28, np.abs(u) - 0.95)
    ).astype(_f32),
    "bar": lambda u, v: np.maximum(np.abs(u) - _f32(1.0), np.abs(v) - _f32(0.32)),
    "crescent": lambda u, v: np.maximum(
        np.hypot(u, v) - _f32(0.95), _f32(0.75) - np.hypot(u - _f32(0.45), v)
    ),
}
"""Signed distance of each shape, about one unit in radius, negative inside."""


@dataclass
class _Trajectory:
    """How object and camera move: offset and pan (T, 2) in frame heights, angle and log scales (T,)."""

    offset: Array
    pan: Array
    angle: Array
    log_scale: Array
    log_zoom: Array


def _trajectory(motion: str, n_frames: int, rng: np.random.Generator) -> _Trajectory:
    even = np.arange(n_frames) / (n_frames - 1) - 0.5
    s = even + rng.uniform(-0.6, 0.6) * (even**2 - 0.25)  # varying speed; its time reversal is equally likely
    found = _Trajectory(*np.zeros((2, n_frames, 2)), *np.zeros((3, n_frames)))
    distance = rng.uniform(0.2, 0.75)
    sign = -1.0 if motion in {"left", "up", "counter-clockwise", "shrink", "zoom-out", "pan-left"} else 1.0
    if motion in {"left", "right"}:
        found.offset[:, 0] = sign * distance * s
    elif motion in {"up", "down"}:
        found.offset[:, 1] = sign * distance * s
    elif motion.endswith("clockwise"):
        found.angle = sign * rng.uniform(0.9, 5.0) * s
    elif motion in {"grow", "shrink"}:
        found.log_scale = sign * rng.uniform(0.5, 1.5) * s
    elif motion.startswith("pan"):
        found.pan[:, 0] = -sign * distance * s  # the picture moves opposite to the camera
    elif motion.startswith("zoom"):
        found.log_zoom = sign * rng.uniform(0.35, 0.9) * s
    elif motion != "still":
        found.offset = _oscillation(motion, s, rng)
    return found


def _oscillation(motion: str, s: Array, rng: np.random.Generator) -> Array:
    phase = 2 * np.pi * (rng.choice([-1, 1]) * rng.uniform(0.8, 2.2) * s + rng.random())
    amplitude = rng.uniform(0.1, 0.28)
    path: Array = amplitude * np.stack([np.cos(phase), np.sin(phase)], axis=1)
    if motion == "to-and-fro":
        direction = rng.uniform(0, np.pi)
        path = path[:, 1:] * (np.cos(direction), np.sin(direction))
    return path


def _random_texture(rng: np.random.Generator) -> Texture:
    colour = random_colour(rng)
    second = (colour + rng.choice([-1, 1]) * rng.uniform(0.25, 0.6)).clip(0, 1).astype(np.float32)
    return Texture(colour, second, ("stripes", "checks", "dots")[rng.integers(3)], rng.uniform(1.0, 3.0))


def paint_shapes(motion: str, shape: str, size: tuple[int, int, int], rng: np.random.Generator) -> Canvas:
    """Paint one to three objects of one shape in one motion; ``size`` is T, H, W."""
    n_frames, height, width = size
    path = _trajectory(motion, n_frames, rng)
    camera = Camera(path.pan * height + camera_shake(n_frames, height, rng), np.exp(path.log_zoom))
    background = random_background(rng, int(height * 1.5), int(width * 1.5))
    canvas = Canvas(camera.view(background, (height, width)))
    for _ in range((1, 1, 1, 2, 3)[rng.integers(5)]):
        start = rng.uniform(0.2, 0.8, 2) * (width, height)
        centre = camera.place(start + path.offset * height, (height, width))[None]
        radius = (rng.uniform(0.1, 0.3) * height * np.exp(path.log_scale) * camera.zoom)[None]
        angle = (path.angle + rng.uniform(0, 2 * np.pi))[None]
        texture = _random_texture(rng)
        near = canvas.near(centre, centre, radius * 1.15 + 1)
        u, v, pixels = local_coordinates(near, centre, angle, radius)
        coverage = np.clip(np.float32(0.5) - SHAPES[shape](u, v) * pixels, 0, 1)
        canvas.blend(near, coverage, [texture], u, v)
    if rng.random() < 0.2:
        _paint_occluder(canvas, rng)
    return canvas


def _paint_occluder(canvas: Canvas, rng: np.random.Generator) -> None:
    # Something still in front, such as a pole or a beam, that hides a part.
    _, n_frames, height, width = canvas.pixels.shape
    x, y, angle = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, np.pi)
    half = np.array([np.cos(angle), np.sin(angle)]) * (height + width)
    starts, ends = (np.full((1, n_frames, 2), (x, y) + sign * half) for sign in (-1, 1))
    radii = np.full((1, n_frames), rng.uniform(0.02, 0.07) * height)
    canvas.capsules(starts, ends, radii, [_random_texture(rng)])
