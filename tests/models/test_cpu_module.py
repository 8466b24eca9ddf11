"""A module on several threads, each with a core: a clip's features depend on nothing but the clip."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from c3d_extract.models.c3d import ARCHITECTURES, C3D
from c3d_extract.models.cpu_module import CpuModule

if TYPE_CHECKING:
    from collections.abc import Sequence

NARROW = replace(ARCHITECTURES["c3d"].scaled(1 / 8), clip=(16, 32, 40))
LAYERS = ("pool5", "fc6")


@pytest.fixture(scope="module")
def plain() -> C3D:
    torch.manual_seed(3)
    return C3D(NARROW, LAYERS).eval()


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(0, 50, (11, *NARROW.clip, 3)).astype(np.float32))


def run(plain: C3D, clips: torch.Tensor, threads: int, places: Sequence[int]) -> dict[str, torch.Tensor]:
    build = partial(C3D, NARROW, LAYERS)
    network = CpuModule(
        build, LAYERS, plain.state_dict(), dtype=torch.float32, clips_together=4, threads=threads
    )
    return network.start([partial(clips.__getitem__, place) for place in places])()


def test_features_are_those_of_the_module(plain: C3D, clips: torch.Tensor) -> None:
    found = run(plain, clips, 2, range(11))
    with torch.inference_mode():
        expected = plain(clips.permute(0, 4, 1, 2, 3), LAYERS)
    for layer in LAYERS:
        error = (found[layer] - expected[layer]).norm() / expected[layer].norm()
        assert error < 1e-5  # another batch, other sums, fp32


def test_a_clip_has_the_same_bits_in_any_batch_at_any_place_on_any_number_of_cores(
    plain: C3D, clips: torch.Tensor
) -> None:
    expected = run(plain, clips, 1, range(11))
    for threads, places in ((3, [10, 2, 7, 7, 0, 9]), (2, [5]), (1, [3, 1])):
        found = run(plain, clips, threads, places)
        for layer in LAYERS:
            torch.testing.assert_close(found[layer], expected[layer][list(places)], rtol=0, atol=0)


def test_an_error_in_a_thread_is_raised_where_the_features_are_asked_for(
    plain: C3D, clips: torch.Tensor
) -> None:
    with pytest.raises(IndexError):
        run(plain, clips, 2, [1, 99])


def test_torchs_number_of_threads_stays_as_it_is(plain: C3D, clips: torch.Tensor) -> None:
    before = torch.get_num_threads()
    run(plain, clips, 2, range(4))
    assert torch.get_num_threads() == before
