"""Textured shapes on a textured ground: the classes of motion differ in motion only.

Where a shape is at mid-clip, how large it is, its look, ground and light are drawn alike for every class,
and each class of `REVERSALS` is the other one run backwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from c3d_extract.train.synthetic.camera import Camera
from c3d_extract.train.synthetic.canvas import Array, Canvas, Look, turned
from c3d_extract.train.synthetic.ground import random_colour, random_ground

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MOTIONS", "REVERSALS", "SHAPES", "camera_shake", "paint_shapes"]

REVERSALS = (
    ("left", "right"),
    ("up", "down"),
    ("clockwise", "counter-clockwise"),
    ("grow", "shrink"),
    ("pan-left", "pan-right"),
    ("zoom-in", "zoom-out"),
)
"""Pairs of motions that are each other run backwards."""

MOTIONS = (*(name for pair in REVERSALS for name in pair), "to-and-fro", "circling", "still")


def _disc(u: Array, v: Array) -> Array:
    return np.hypot(u, v) - np.float32(0.9)


def _square(u: Array, v: Array) -> Array:
    distance: Array = np.maximum(np.abs(u), np.abs(v)) - np.float32(0.75)
    return distance


def _triangle(u: Array, v: Array) -> Array:
    return np.maximum(np.maximum(-v, v * 0.5 + u * 0.866), v * 0.5 - u * 0.866).astype(
        np.float32
    ) - np.float32(0.45)


def _star(u: Array, v: Array) -> Array:
    rim: Array = 0.62 + 0.32 * np.cos(5 * np.arctan2(u, -v))
    return np.subtract(np.hypot(u, v), rim, dtype=np.float32)


def _ring(u: Array, v: Array) -> Array:
    return np.abs(np.hypot(u, v) - np.float32(0.68)) - np.float32(0.22)


def _cross(u: Array, v: Array) -> Array:
    a, b = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(a - 0.28, b - 0.95), np.maximum(b - 0.28, a - 0.95)).astype(np.float32)


def _bar(u: Array, v: Array) -> Array:
    distance: Array = np.maximum(np.abs(u) - np.float32(1.0), np.abs(v) - np.float32(0.32))
    return distance


def _crescent(u: Array, v: Array) -> Array:
    bite: Array = np.hypot(u - np.float32(0.45), v)
    distance: Array = np.maximum(np.hypot(u, v) - np.float32(0.95), np.float32(0.75) - bite)
    return distance


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "bar": _bar,
    "crescent": _crescent,
}
"""Signed distance of each shape, about one unit in radius, negative inside."""


@dataclass
class _Course:
    """How thing and camera move: offset and pan (T, 2) in frame heights, angle and logs of scale (T,)."""

    offset: Array
    pan: Array
    angle: Array
    log_scale: Array
    log_zoom: Array


def _course(motion: str, n_frames: int, rng: np.random.Generator) -> _Course:
    even = np.arange(n_frames) / (n_frames - 1) - 0.5
    s = even + rng.uniform(-0.6, 0.6) * (even**2 - 0.25)  # a changing speed; its mirror image is as likely
    course = _Course(*np.zeros((2, n_frames, 2)), *np.zeros((3, n_frames)))
    way = rng.uniform(0.2, 0.75)
    sign = -1.0 if motion in {"left", "up", "counter-clockwise", "shrink", "zoom-out", "pan-left"} else 1.0
    if motion in {"left", "right"}:
        course.offset[:, 0] = sign * way * s
    elif motion in {"up", "down"}:
        course.offset[:, 1] = sign * way * s
    elif motion.endswith("clockwise"):
        course.angle = sign * rng.uniform(0.9, 5.0) * s
    elif motion in {"grow", "shrink"}:
        course.log_scale = sign * rng.uniform(0.5, 1.5) * s
    elif motion.startswith("pan"):
        course.pan[:, 0] = -sign * way * s  # the camera goes one way, the picture the other
    elif motion.startswith("zoom"):
        course.log_zoom = sign * rng.uniform(0.35, 0.9) * s
    elif motion != "still":
        course.offset = _oscillation(motion, s, rng)
    return course


def _oscillation(motion: str, s: Array, rng: np.random.Generator) -> Array:
    phase = 2 * np.pi * (rng.choice([-1, 1]) * rng.uniform(0.8, 2.2) * s + rng.random())
    reach = rng.uniform(0.1, 0.28)
    path: Array = reach * np.stack([np.cos(phase), np.sin(phase)], axis=1)
    if motion == "to-and-fro":
        direction = rng.uniform(0, np.pi)
        path = path[:, 1:] * (np.cos(direction), np.sin(direction))
    return path


def camera_shake(n_frames: int, height: int, rng: np.random.Generator) -> Array:
    """Return a hand's tremor (T, 2) in pixels, in three clips of ten; as likely run backwards."""
    if rng.random() > 0.3:
        return np.zeros((n_frames, 2))
    steps = rng.normal(0, 1, (n_frames, 2)) * rng.uniform(0.002, 0.012) * height
    shake: Array = 0.5 * (steps + np.roll(steps, 1, axis=0))
    return shake


def _random_look(rng: np.random.Generator) -> Look:
    colour = random_colour(rng)
    second = (colour + rng.choice([-1, 1]) * rng.uniform(0.25, 0.6)).clip(0, 1).astype(np.float32)
    return Look(colour, second, ("stripes", "checks", "dots")[rng.integers(3)], rng.uniform(1.0, 3.0))


def paint_shapes(motion: str, shape: str, size: tuple[int, int, int], rng: np.random.Generator) -> Canvas:
    """Paint one to three things of one shape doing one motion; ``size`` is T, H, W."""
    n_frames, height, width = size
    course = _course(motion, n_frames, rng)
    camera = Camera(course.pan * height + camera_shake(n_frames, height, rng), np.exp(course.log_zoom))
    ground = random_ground(rng, int(height * 1.5), int(width * 1.5))
    canvas = Canvas(camera.view(ground, (height, width)))
    for _ in range((1, 1, 1, 2, 3)[rng.integers(5)]):
        start = rng.uniform(0.2, 0.8, 2) * (width, height)
        centre = camera.place(start + course.offset * height, (height, width))
        radius = rng.uniform(0.1, 0.3) * height * np.exp(course.log_scale) * camera.zoom
        angle = course.angle + rng.uniform(0, 2 * np.pi)
        _paint_shape(canvas, shape, _random_look(rng), centre=centre, radius=radius, angle=angle)
    if rng.random() < 0.2:
        _paint_pole(canvas, rng)
    return canvas


def _paint_shape(
    canvas: Canvas, shape: str, look: Look, *, centre: Array, radius: Array, angle: Array
) -> None:
    near = canvas.near(centre[None], centre[None], radius[None] * 1.15 + 1)
    u, v, pixels = turned(near, centre[None], angle[None], radius[None])
    cover = np.clip(np.float32(0.5) - SHAPES[shape](u, v) * pixels, 0, 1)
    canvas.lay(near, cover, [look], u, v)


def _paint_pole(canvas: Canvas, rng: np.random.Generator) -> None:
    # Something still in front: a pole or a beam that hides a part.
    _, n_frames, height, width = canvas.pixels.shape
    x, y, angle = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, np.pi)
    half = np.array([np.cos(angle), np.sin(angle)]) * (height + width)
    ends = [np.full((1, n_frames, 2), (x, y) + way * half) for way in (-1, 1)]
    canvas.rods(ends[0], ends[1], np.array([rng.uniform(0.02, 0.07) * height]), [_random_look(rng)])
