"""C3D for NVIDIA GPUs computes the same function; these are its operations, on a CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from c3d_extract.models.c3d import ARCHITECTURES, C3D, Architecture
from c3d_extract.models.c3d_cuda import CudaC3D

CLIP = (16, 48, 64)


def pair(architecture: Architecture) -> tuple[C3D, CudaC3D]:
    torch.manual_seed(0)
    plain, faster = C3D(architecture).eval(), CudaC3D(architecture).eval()
    faster.load_state_dict(plain.state_dict())
    return plain, faster


@pytest.mark.parametrize("name", ["c3d", "depth-1", "depth-7", "increasing"])
@pytest.mark.parametrize("clip", [CLIP, (17, 50, 37)])
@pytest.mark.parametrize("pool5", ["ceil", "symmetric"])
def test_every_layer_is_that_of_the_plain_network(name: str, clip: tuple[int, int, int], pool5: str) -> None:
    narrow = ARCHITECTURES[name].scaled(1 / 16)
    architecture = replace(narrow, clip=clip, pool5=pool5)  # type: ignore[arg-type]
    plain, faster = pair(architecture)
    x = torch.randn(2, 3, *clip).contiguous(memory_format=torch.channels_last_3d) * 40
    with torch.inference_mode():
        expected, found = plain(x, architecture.layers), faster(x, architecture.layers)
    for layer in architecture.layers:
        error = (found[layer] - expected[layer]).norm() / expected[layer].norm()
        assert error < 1e-5, layer  # sums in another order, fp32


def test_a_pool_before_the_bias_changes_no_bit_and_keeps_what_is_not_a_number() -> None:
    x = torch.randn(2, 8, 4, 6, 8).to(torch.bfloat16)
    x[0, 0, 0, 0, 0], x[1, 3, 2, 2, 2] = float("nan"), float("inf")
    bias = torch.randn(8, 1, 1, 1).to(torch.bfloat16)
    _, faster = pair(replace(ARCHITECTURES["c3d"].scaled(1 / 16), clip=CLIP))
    last = x.contiguous(memory_format=torch.channels_last_3d)
    for stage, window in ((1, (1, 2, 2)), (2, (2, 2, 2))):
        expected = torch.nn.functional.max_pool3d(x + bias, window)
        found = faster.pool(stage, last) + bias
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
