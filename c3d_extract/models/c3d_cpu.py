"""C3D on a CPU: the same function as `c3d_extract.models.c3d.C3D`, with fewer products and in cache.

Four optimisations, each measured in ``benchmarks/RESULTS.md``:

- Convolutions three frames deep use minimal filtering along time: F(4,3) computes four frames of output
  with six products instead of twelve (A. Lavin and S. Gray, Fast Algorithms for Convolutional
  Neural Networks, arXiv 1509.09308, Section 4; S. Winograd, Arithmetic Complexity of Computations, 1980).
  The products are 2-D convolutions, which oneDNN computes at close to the processor's peak.
- The early layers run one clip and a few frames at a time, so that a map is pooled while it is in cache.
  A whole map of conv1a is 51 MB: writing it to newly allocated memory takes longer than computing it.
- conv1a takes its three frames as nine channels of one image: three channels do not fill a SIMD vector.
- Each core computes whole clips; see `c3d_extract.models.cpu_threads`.

Maps are float32 (N, T, H, W, C), contiguous; in bf16 only the factors and the products are rounded to it,
and all other sums are in fp32. Every convolution has the same input shape whatever the batch, so that a
clip's features do not depend on the other clips.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F

from c3d_extract.models.c3d_shapes import max_pool
from c3d_extract.models.cpu_convolutions import PlaneConvolution, can_prepack, choose_convolution, why_slower
from c3d_extract.models.cpu_threads import OneCoreThreads, RunningGroups, one_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    from torch import Tensor

    from c3d_extract.models.c3d_shapes import C3DShapes
    from c3d_extract.models.cpu_convolutions import Convolution

__all__ = ["CLIPS_TOGETHER", "CpuC3D"]

_N_STAGES, _LAST_EARLY_STAGE = 5, 3
CLIPS_TOGETHER = 4  # clips per call of the late layers, whose weights are larger than their maps


class _Layer(NamedTuple):
    name: str
    stage: int
    ends_stage: bool
    convolution: Convolution


class CpuC3D:
    """A network of the family on a CPU, in fp32 or bf16.

    Faster than torch from about 32 filters on: below that, a whole map fits into the cache, and minimal
    filtering takes longer than the products that it saves.

    Parameters
    ----------
    shapes, layers
        The network, and the layers to compute.
    state
        float32 tensors under the prototxt's names; not kept.
    dtype
        The type that products are computed in, torch.float32 or torch.bfloat16.
    batch_size
        Clips per call of the fully connected layers.
    threads
        Number of clips computed concurrently, each on one core.

    Attributes
    ----------
    warnings
        Why it is slower than expected on this machine, if it is.
    """

    def __init__(
        self,
        shapes: C3DShapes,
        layers: Sequence[str],
        state: Mapping[str, Tensor],
        *,
        dtype: torch.dtype,
        batch_size: int,
        threads: int,
    ) -> None:
        self.batch_size = batch_size
        self.layers = tuple(layers)
        self._shapes = shapes
        self._dtype = dtype
        slower = why_slower(dtype)
        self.warnings = [slower] if slower else []
        # torch computes a single small image as a matrix product, whose order of summation varies.
        self._group = min(CLIPS_TOGETHER, batch_size if can_prepack(dtype) else max(2, batch_size))
        self._threads = OneCoreThreads(threads)
        with one_thread():
            made = [self._layer(name, stage, state) for name, stage in _convolutions(shapes)]
            self._linear = {name: self._linear_layer(name, state) for name in shapes.linear_names(layers)}
        self._early = [layer for layer in made if layer.stage <= _LAST_EARLY_STAGE]
        self._late = [layer for layer in made if layer.stage > _LAST_EARLY_STAGE]

    def _layer(self, name: str, stage: int, state: Mapping[str, Tensor]) -> _Layer:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        _, frames, height, width = self._shapes.map_shapes()[name]
        size = (1 if stage <= _LAST_EARLY_STAGE else self._group, height, width)
        ends_stage = name == self._shapes.conv_names[stage - 1][-1]
        return _Layer(name, stage, ends_stage, choose_convolution(weight, bias, frames, size, self._dtype))

    def _linear_layer(self, name: str, state: Mapping[str, Tensor]) -> PlaneConvolution:
        # As a convolution of a row of pixels: unlike torch's matrix product, its order of summation does not
        # depend on the position in the batch, and its weights are prepacked once.
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return PlaneConvolution(weight[:, :, None, None], bias, (1, 1, self.batch_size), self._dtype)

    def start(self, clips: Sequence[Callable[[], Tensor]]) -> RunningGroups:
        """Start computing a batch of at most ``batch_size``; calling the result waits for the features.

        Each clip is a function that returns float32 (T, H, W, 3); the thread that computes the clip calls
        it. Features are float32 (N, D) per layer.
        """
        early = [self._threads.submit(self._run_early, clip) for clip in clips]
        groups = [early[i : i + self._group] for i in range(0, len(early), self._group)]
        late = [self._threads.submit(self._run_late, group) for group in groups]
        return RunningGroups(late, functools.partial(self._finish, n=len(clips)))

    def _finish(self, groups: list[dict[str, Tensor]], n: int) -> dict[str, Tensor]:
        maps = {name: torch.cat([group[name] for group in groups])[:n] for name in groups[0]}
        found = {name: y.permute(0, 4, 1, 2, 3).flatten(1) for name, y in maps.items()}
        x = _padded(found["pool5"], self.batch_size)
        for name, multiply in self._linear.items():
            x = multiply(x[None, None])[0, 0]
            x = x if name == "fc8" else F.relu_(x)
            found[name] = x[:n]
        if "prob" in self.layers:
            found["prob"] = F.softmax(found["fc8"], dim=1)
        return {layer: found[layer] for layer in self.layers}

    @torch.inference_mode()
    def _run_early(self, clip: Callable[[], Tensor]) -> Tensor:
        return self._run(self._early, clip()[None], {})

    @torch.inference_mode()
    def _run_late(self, early: Sequence[Future[Tensor]]) -> dict[str, Tensor]:
        # The pool runs tasks in the order of submission: every clip that this waits for is done or running,
        # so this cannot deadlock, even if all threads run this function.
        group = _padded(torch.cat([clip.result() for clip in early]), self._group)
        found: dict[str, Tensor] = {}
        found["pool5"] = self._run(self._late, group, found)
        return found

    def _run(self, layers: Sequence[_Layer], x: Tensor, found: dict[str, Tensor]) -> Tensor:
        for layer in layers:
            if layer.ends_stage and layer.stage < _N_STAGES:
                x = torch.cat([F.relu_(_pooled(y, layer.stage)) for y in layer.convolution.blocks(x)], dim=1)
                continue
            x = torch.cat([F.relu_(y) for y in layer.convolution.blocks(x)], dim=1)
            if layer.ends_stage:
                found[layer.name] = x
                y = max_pool(x.permute(0, 4, 1, 2, 3), layer.stage, self._shapes.pool5)
                x = y.permute(0, 2, 3, 4, 1)
        return x


def _convolutions(shapes: C3DShapes) -> list[tuple[str, int]]:
    named = enumerate(shapes.conv_names, start=1)
    return [(name, stage) for stage, names in named for name in names]


def _padded(x: Tensor, n: int) -> Tensor:
    """Pad with zero rows to ``n``, so that every batch has the same shape."""
    return x if len(x) == n else torch.cat([x, x.new_zeros((n - len(x), *x.shape[1:]))])


def _pooled(x: Tensor, stage: int) -> Tensor:
    """Max-pool (N, T, H, W, C) after stages 1 to 4: halves rows and columns and, from stage 2 on, frames."""
    if stage > 1:
        pairs = torch.unflatten(x[:, : x.shape[1] // 2 * 2], 1, (-1, 2))
        x = torch.maximum(pairs[:, :, 0], pairs[:, :, 1])
    image = x.flatten(0, 1).permute(0, 3, 1, 2)
    return torch.unflatten(F.max_pool2d(image, 2).permute(0, 2, 3, 1), 0, (len(x), -1))
