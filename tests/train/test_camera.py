from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.fft import dctn, idctn
from scipy.ndimage import map_coordinates

from c3d_extract.train.synthetic.camera import (
    Camera,
    _blurred,
    _compress,
    _exposed,
    _exposed_over_time,
    _noise,
    _softened,
    _tinted,
    moving_camera,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("size", [(2, 9, 7), (1, 1, 5), (3, 2, 2), (1, 5, 1)])
def test_blur_averages_neighbours_and_leaves_the_edges(size: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(3).random((3, *size)).astype(np.float32)
    blurred = pixels.astype(float)
    for axis in (2, 3):
        line = np.moveaxis(blurred, axis, 0)
        line[1:-1] = 0.6 * line[1:-1] + 0.2 * (line[:-2] + line[2:])
    assert np.allclose(_blurred(pixels, np.float32(0.2)), blurred, atol=1e-6)  # float32 sums of three


def test_a_camera_samples_the_background_as_scipy_does() -> None:
    rng = np.random.default_rng(4)
    background = rng.random((3, 50, 60)).astype(np.float32)
    # Shifts alone, further than the background reaches (mirrored), and zooming, in and out.
    looking = Camera(rng.uniform(-40, 40, (8, 2)), np.array([1, 1, 1, 1, 0.6, 1.7, 1.1, 0.9]))
    seen = looking.view(background, (30, 40))
    for t in range(8):
        y, x = np.mgrid[:30, :40]
        at = [
            (position - (size - 1) / 2 - shift) / looking.zoom[t] + (whole - 1) / 2
            for position, size, shift, whole in (
                (y, 30, looking.shift[t, 1], 50),
                (x, 40, looking.shift[t, 0], 60),
            )
        ]
        for channel in range(3):
            expected = map_coordinates(background[channel].astype(float), at, order=1, mode="mirror")
            # The last line is sampled a thousandth before its middle; float32 shares do the rest.
            assert np.abs(seen[channel, t] - expected).max() < 1.1e-3


@pytest.mark.parametrize("size", [(2, 24, 40), (1, 19, 531), (3, 7, 30)])
def test_compression_rounds_the_cosine_transform_of_whole_blocks(size: tuple[int, int, int]) -> None:
    levels = np.random.default_rng(5).uniform(0, 255, (3, *size)).astype(np.float32)
    expected, unsure = levels.astype(float), np.zeros(levels.shape, np.bool_)
    steps = 12 * (0.5 + 0.25 * np.add.outer(np.arange(8), np.arange(8)))
    for y in range(0, size[1] - 7, 8):
        for x in range(0, size[2] - 7, 8):
            block = (..., slice(y, y + 8), slice(x, x + 8))
            counts = dctn(expected[block], axes=(2, 3), norm="ortho") / steps
            unsure[block] = np.abs(counts % 1 - 0.5).min(axis=(2, 3), keepdims=True) < 1e-3
            expected[block] = idctn(np.rint(counts) * steps, axes=(2, 3), norm="ortho")
    _compress(levels, 12.0)
    # Sums of 8 float32 products of up to 255 twice over, there and back; blocks in which one
    # coefficient is a thousandth from being rounded the other way are left out, a few in a hundred.
    assert unsure.mean() < 0.25
    assert np.abs(levels - expected)[~unsure].max(initial=0) < 2e-3


@pytest.mark.parametrize("size", [(3, 20, 33), (1, 1, 1), (1, 840, 900)])
@pytest.mark.parametrize("noisy", [True, False])
def test_recording_clips_to_8_bits(size: tuple[int, int, int], noisy: bool) -> None:
    rng = np.random.default_rng(6)
    pixels = rng.uniform(-0.2, 1.3, (3, *size)).astype(np.float32)
    starts = rng.integers(0, max((1 << 21) - pixels[:, 0].size, 0) + 1, size[0]).tolist() if noisy else []
    seen = _exposed(pixels, np.float32(240), np.float32(-3), (np.float32(7), starts))
    expected = pixels.astype(float) * 240 - 3
    for t, start in enumerate(starts):
        noise = np.resize(_noise()[start:], pixels[:, t].size)
        expected[:, t] += 7 * noise.reshape(pixels[:, t].shape)
    expected = np.moveaxis(expected.clip(0, 255), 0, -1)
    sure = np.abs(expected - np.rint(expected)) > 1e-3  # float32 may fall on the other side of a whole number
    sure |= (expected == 0) | (expected == 255)
    assert sure.mean() > 0.9 or seen.size < 10
    assert np.array_equal(seen[sure], expected.astype(np.uint8)[sure])


@pytest.mark.parametrize("change", [_exposed_over_time, _softened, _tinted])
def test_every_change_of_quality_keeps_a_flat_picture_flat(change: Callable[..., np.ndarray]) -> None:
    # Weights that do not add up to 1, or neighbours taken from elsewhere, would show here.
    flat = np.full((3, 6, 10, 14), 0.5, np.float32)
    flat[:, :, :, 7:] = 0.4
    n_changed = 0
    for seed in range(60):
        found = change(np.random.default_rng(seed), flat.copy())
        assert found.shape == flat.shape
        assert np.ptp(found[:, :, :, :3]) < 1e-6
        assert np.ptp(found[:, :, :, -3:]) < 1e-6
        if change is not _tinted:
            assert np.allclose(found[:, :, :, [0, -1]], flat[:, :, :, [0, -1]], atol=1e-6)
        n_changed += not np.array_equal(found, flat)
    assert change is _exposed_over_time or 5 < n_changed < 55


def test_half_the_frame_rate_repeats_frames_and_an_open_shutter_mixes_neighbours() -> None:
    steps = np.broadcast_to(np.float32(2) ** np.arange(8)[:, None, None], (3, 8, 2, 2)).copy()
    seen = {
        tuple(_exposed_over_time(np.random.default_rng(seed), steps)[0, :, 0, 0].tolist())
        for seed in range(120)
    }
    levels = [float(2**t) for t in range(8)]
    mixed = [1.0, *(2**t / 2 + 2 ** (t - 1) / 4 + 2 ** (t + 1) / 4 for t in range(1, 7)), 128.0]
    pairs = [levels[t // 2 * 2] for t in range(8)]
    later = [levels[min((t + 1) // 2 * 2, 7)] for t in range(8)]
    assert seen == {tuple(levels), tuple(mixed), tuple(pairs), tuple(later)}


def test_grey_and_gamma_keep_black_white_and_the_order_of_levels() -> None:
    ramp = np.linspace(0, 1, 21, dtype=np.float32).reshape(1, 1, 1, 21).repeat(3, axis=0)
    colours = np.stack([ramp[0] * 0.2, ramp[1], ramp[2] * 0.6])
    n_grey = 0
    for seed in range(80):
        found = _tinted(np.random.default_rng(seed), ramp)
        assert found[..., 0].max() == 0
        assert found[..., -1].min() == pytest.approx(1)
        assert (np.diff(found) > 0).all()
        n_grey += bool(np.ptp(_tinted(np.random.default_rng(seed), colours), axis=0).max() < 1e-6)
    assert 2 <= n_grey <= 20


def test_moving_cameras_pan_and_zoom_both_ways_about_the_middle_of_the_clip() -> None:
    cameras = [moving_camera(17, 100, np.random.default_rng(seed)) for seed in range(300)]
    zooms = np.array([np.log(camera.zoom) for camera in cameras])
    assert np.abs(zooms[:, 8]).max() < 1e-12
    assert 30 < (zooms[:, -1] > 0).sum() + (zooms[:, -1] < 0).sum() < 90
    assert min((zooms[:, -1] > 0).sum(), (zooms[:, -1] < 0).sum()) > 10
    pans = np.array([camera.shift[-1] - camera.shift[0] for camera in cameras])
    assert 40 < (np.abs(pans[:, 0]) > 5).sum() < 120
    assert abs(np.sign(pans[np.abs(pans[:, 0]) > 5, 0]).mean()) < 0.35
