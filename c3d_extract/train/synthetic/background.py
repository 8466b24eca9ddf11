"""Still backgrounds of scenes: noise textures, lines, patches, a floor and a wall; and random colours.

Pictures are float32 (3, H, W), B, G, R in 0–1.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from c3d_extract.train.synthetic.canvas import Floats

__all__ = ["random_background", "random_colour"]

N_TILES, TILE_SIZE = 24, 512


def random_colour(rng: np.random.Generator) -> Floats:
    """Return B, G, R in 0–1: a random brightness with a random, mostly modest tint."""
    tint = rng.standard_normal(3) * (0.03, 0.12, 0.3)[rng.integers(3)]
    colour = rng.uniform(0.05, 0.95) + tint - tint.sum() / 3
    clipped: Floats = np.minimum(np.maximum(colour, 0), 1).astype(np.float32)
    return clipped


@cache
def _noise_tiles() -> Floats:
    # Smooth noise of several grain sizes, made once from a fixed seed: every background is cut from these.
    rng = np.random.default_rng(20150)
    tiles = []
    for number in range(N_TILES):
        falloff = (1.0, 0.7, 0.45)[number % 3]
        octaves = [falloff**k * _smooth_noise(rng, 4 << k) for k in range(7)]
        tile = np.sum(octaves, axis=0)
        tiles.append((tile - tile.mean()) / tile.std())
    return np.stack(tiles).clip(-2.5, 2.5).astype(np.float32) / np.float32(2.5)


def _smooth_noise(rng: np.random.Generator, cells: int) -> Floats:
    grid = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    position = np.linspace(0, cells, TILE_SIZE, endpoint=False)
    cell = position.astype(np.intp)
    share = (position - cell).astype(np.float32)
    share = share * share * (3 - 2 * share)
    lines = grid[cell] + share[:, None] * (grid[cell + 1] - grid[cell])
    return lines[:, cell] + share * (lines[:, cell + 1] - lines[:, cell])


def _noise_tile(rng: np.random.Generator, height: int, width: int) -> Floats:
    tile = _noise_tiles()[rng.integers(N_TILES)]
    step = 2 if max(height, width) * 2 <= TILE_SIZE and rng.random() < 0.5 else 1
    top, left = (int(rng.integers(0, max(TILE_SIZE - n * step, 0) + 1)) for n in (height, width))
    cut = tile[top : top + height * step : step, left : left + width * step : step]
    flip_rows, flip_columns = 2 * rng.integers(0, 2, 2) - 1
    cut = cut[::flip_rows, ::flip_columns]
    missing = height - cut.shape[0], width - cut.shape[1]
    return np.pad(cut, ((0, missing[0]), (0, missing[1])), mode="symmetric") if max(missing) > 0 else cut


def random_background(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Return a still picture float32 (3, height, width): textures, lines, patches, a floor and a wall."""
    picture = _texture(rng, height, width)
    if rng.random() < 0.4:
        horizon = int(rng.uniform(0.3, 0.7) * height)
        picture[:, horizon:] = _texture(rng, height - horizon, width)
    for _ in range(rng.integers(0, 5)):
        h, w = (int(n * rng.uniform(0.02, 0.4)) + 1 for n in (height, width))
        y, x = int(rng.uniform(-0.5 * h, height)), int(rng.uniform(-0.5 * w, width))
        patch = picture[:, max(y, 0) : y + h, max(x, 0) : x + w]
        patch += np.float32(rng.uniform(0.3, 1)) * (random_colour(rng)[:, None, None] - patch)
    if rng.random() < 0.3:
        _draw_lines(rng, picture)
    return picture


def _texture(rng: np.random.Generator, height: int, width: int) -> Floats:
    contrast = (0.03, 0.08, 0.2, 0.45)[rng.integers(4)]
    strength = np.float32(contrast) * (0.5 + random_colour(rng))
    picture = random_colour(rng)[:, None, None] + strength[:, None, None] * _noise_tile(rng, height, width)
    if rng.random() < 0.3:
        tint = (contrast * rng.standard_normal(3)).astype(np.float32)
        picture += tint[:, None, None] * _noise_tile(rng, height, width)
    np.clip(picture, np.float32(0), np.float32(1), out=picture)
    return picture


def _draw_lines(rng: np.random.Generator, picture: Floats) -> None:
    height, width = picture.shape[1:]
    angle = rng.uniform(0, np.pi)
    y, x = np.ogrid[:height, :width]
    period = rng.uniform(0.08, 0.5) * height
    across = x * np.cos(angle) + y * np.sin(angle) + rng.uniform(0, 100)
    on = across % period < period * rng.uniform(0.05, 0.5)
    strength = np.float32(rng.uniform(0.2, 0.9))
    for channel, level in zip(picture, random_colour(rng), strict=True):
        channel[on] += strength * (level - channel[on])
