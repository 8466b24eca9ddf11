"""Convolutions on a CPU, float32 (N, T, H, W, C) in and out, for `c3d_extract.models.c3d_cpu`.

Kernels are prepacked (put into oneDNN's own memory order) once, by private operators of
torch's compiler. They are tested before use; if they are missing or changed, torch's public convolution is
used instead.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

__all__ = ["Convolution", "PlaneConvolution", "can_prepack", "choose_convolution", "why_slower"]

_FRAMES_AT_ONCE = 2  # of conv1a: 6 MB of output, which stays in cache until it is pooled
_FEW_CHANNELS = 32  # up to this many, the frames under a kernel become channels of one image


class Convolution(Protocol):
    """A convolution that returns its output a few frames at a time."""

    def blocks(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the output of ``x`` as consecutive blocks of frames, without ReLU."""


class PlaneConvolution:
    """A 2-D convolution of float32 (N, H, W, C) with its kernels prepacked for oneDNN.

    ``dtype`` is the type of its factors and products.
    """

    def __init__(
        self, kernels: Tensor, bias: Tensor | None, size: tuple[int, int, int], dtype: torch.dtype
    ) -> None:
        n, height, width = size
        self._dtype = dtype
        self._padding = [side // 2 for side in kernels.shape[2:]]
        self._bias = None if bias is None else bias.to(dtype)
        self._kernels = kernels.to(dtype).contiguous(memory_format=torch.channels_last)
        self._is_prepacked = can_prepack(dtype)
        if self._is_prepacked:
            shape = [n, kernels.shape[1], height, width]
            self._kernels = _prepacked(self._kernels, self._padding, shape)

    def __call__(self, x: Tensor) -> Tensor:
        """Return float32 (N, H, W, out) of float32 (N, H, W, in)."""
        image = x.to(self._dtype).contiguous().permute(0, 3, 1, 2)
        if self._is_prepacked:
            y = _convolve_prepacked(image, self._kernels, self._bias, self._padding)
        else:
            y = _convolve(image, self._kernels, self._bias, self._padding)
        return y.float().permute(0, 2, 3, 1).contiguous()


def _convolve(image: Tensor, kernels: Tensor, bias: Tensor | None, padding: list[int]) -> Tensor:
    """Convolve by torch's public operator; every pixel of a row is summed in the same order."""
    if image.shape[2:3] == kernels.shape[2:3] == (1,):
        # torch computes this as a matrix product over the row, and sums the last pixels of the row in another
        # order. As images of one pixel each, all are summed in the same order.
        return F.conv2d(image.permute(3, 1, 2, 0), kernels, bias).permute(3, 1, 2, 0)
    return F.conv2d(image, kernels, bias, padding=padding)


def _prepacked(kernels: Tensor, padding: list[int], shape: list[int]) -> Tensor:
    """Prepack kernels for images of ``shape`` (N, C, H, W)."""
    made: Tensor = torch.ops.mkldnn._reorder_convolution_weight(  # noqa: SLF001
        kernels, padding, [1, 1], [1, 1], 1, shape
    )
    return made


def _convolve_prepacked(image: Tensor, kernels: Tensor, bias: Tensor | None, padding: list[int]) -> Tensor:
    y: Tensor = torch.ops.mkldnn._convolution_pointwise(  # noqa: SLF001
        image, kernels, bias, padding, [1, 1], [1, 1], 1, "none", [], ""
    )
    return y


def can_prepack(dtype: torch.dtype) -> bool:
    """Return whether this build of torch correctly prepacks kernels of ``dtype`` for this processor."""
    return _has_onednn(dtype) and _prepack_problem(dtype) is None


def _has_onednn(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    # A torch without this function may still have the operators: `_prepack_problem` tries them.
    bf16 = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    return dtype == torch.float32 or bool(bf16())


@functools.cache
def _prepack_problem(dtype: torch.dtype) -> str | None:
    """Try torch's private operators on a small image, once per process; return the problem, if any."""
    # Small whole numbers: products and sums are exact, and only bf16's result is rounded.
    image = torch.arange(2 * 8 * 6 * 7).remainder(7).sub(3).view(2, 6, 7, 8).to(dtype).permute(0, 3, 1, 2)
    kernels = torch.arange(16 * 8 * 9).remainder(5).sub(2).view(16, 8, 3, 3).to(dtype)
    kernels, bias = kernels.contiguous(memory_format=torch.channels_last), torch.ones(16, dtype=dtype)
    try:
        found = _convolve_prepacked(image, _prepacked(kernels, [1, 1], list(image.shape)), bias, [1, 1])
    except (AttributeError, TypeError, RuntimeError) as error:  # missing, or with other parameters
        return str(error).strip().partition("\n")[0]
    expected = F.conv2d(image.float(), kernels.float(), bias.float(), padding=1)
    if found.shape != expected.shape or not torch.allclose(found.float(), expected, rtol=1e-2, atol=1e-3):
        return "its results are wrong"
    return None


def why_slower(dtype: torch.dtype) -> str | None:
    """Return, in one line, why convolutions are slower than with oneDNN's prepacked kernels, if they are."""
    why = _prepack_problem(dtype) if _has_onednn(dtype) else None
    if why is None:
        return None
    return f"slower than it could be: torch {torch.__version__} does not prepack kernels as expected ({why})"


class _FoldedConvolution:
    """A convolution of few channels: the frames under the kernel become channels of one image."""

    def __init__(self, weight: Tensor, bias: Tensor, size: tuple[int, int, int], dtype: torch.dtype) -> None:
        out, into, self._depth, height, width = weight.shape
        kernels = weight.transpose(1, 2).reshape(out, self._depth * into, height, width)
        n, rows, columns = size
        self._convolve = PlaneConvolution(kernels, bias, (n * _FRAMES_AT_ONCE, rows, columns), dtype)

    def blocks(self, x: Tensor) -> Iterator[Tensor]:
        n, frames, half = x.shape[0], x.shape[1], self._depth // 2
        padded = F.pad(x, (0, 0, 0, 0, 0, 0, half, half))
        folded = torch.cat([padded[:, i : i + frames] for i in range(self._depth)], dim=-1)
        for part in torch.split(folded, _FRAMES_AT_ONCE, dim=1):
            yield torch.unflatten(self._convolve(part.flatten(0, 1)), 0, (n, -1))


class _PlainConvolution:
    """Any other convolution: torch's 3-D operator."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        self._weight = weight.to(dtype).contiguous(memory_format=torch.channels_last_3d)
        self._bias = bias.to(dtype)
        self._padding = [side // 2 for side in weight.shape[2:]]

    def blocks(self, x: Tensor) -> Iterator[Tensor]:
        image = x.to(self._weight.dtype).permute(0, 4, 1, 2, 3)
        y = F.conv3d(image, self._weight, self._bias, padding=self._padding)
        yield y.float().permute(0, 2, 3, 4, 1).contiguous()


def _input_transform_f43(x: Sequence[Tensor]) -> list[Tensor]:
    even, odd = x[4] - x[2], x[3] - x[1]
    even_4, odd_4 = torch.sub(x[4], x[2], alpha=4), torch.sub(x[3], x[1], alpha=4)
    return [
        torch.sub(x[4], x[2], alpha=5).add_(x[0], alpha=4),
        even_4 + odd_4,
        even_4 - odd_4,
        torch.add(even, odd, alpha=2),
        torch.sub(even, odd, alpha=2),
        torch.sub(x[5], x[3], alpha=5).add_(x[1], alpha=4),
    ]


def _output_transform_f43(m: Sequence[Tensor]) -> list[Tensor]:
    near, far = m[1] + m[2], m[3] + m[4]
    near_odd, far_odd = m[1] - m[2], m[3] - m[4]
    return [
        m[0].add_(near).add_(far),
        torch.add(near_odd, far_odd, alpha=2),
        near.add_(far, alpha=4),
        m[5].add_(near_odd).add_(far_odd, alpha=8),
    ]


def _input_transform_pair(x: Sequence[Tensor]) -> list[Tensor]:
    return [x[1] + x[2], x[2], x[1]]


def _output_transform_pair(m: Sequence[Tensor]) -> list[Tensor]:
    return [m[1].add_(m[0]), m[2].add_(m[0])]


class _MinimalFilter(NamedTuple):
    """A minimal filtering algorithm for three taps along time.

    outputs = output_transform((kernel_transform @ kernels) * input_transform(frames)). Frames begin one
    before the first output and end one after the last. ``output_transform`` may overwrite its input.
    Both are sums, because the rounding of a matrix product depends on the number of threads.
    """

    n_outputs: int
    kernel_transform: Tensor
    input_transform: Callable[[Sequence[Tensor]], list[Tensor]]
    output_transform: Callable[[Sequence[Tensor]], list[Tensor]]
    bias_product: int  # the product that every output contains once: the bias is added to it


_F43 = _MinimalFilter(
    n_outputs=4,
    kernel_transform=torch.tensor(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    ),
    input_transform=_input_transform_f43,
    output_transform=_output_transform_f43,
    bias_product=1,
)
"""Four outputs of three taps with six products (Lavin and Gray, equation 12)."""

_PAIR = _MinimalFilter(
    n_outputs=2,
    kernel_transform=torch.tensor([[0.0, 1, 0], [0, -1, 1], [1, -1, 0]]),
    input_transform=_input_transform_pair,
    output_transform=_output_transform_pair,
    bias_product=0,
)
"""Two frames x, y between zeros, taps a, b, c: b(x+y) + (c-b)y and b(x+y) + (a-b)x: 3 products, not 4."""


class _FilteredConvolution:
    """A convolution three frames deep, by minimal filtering along time."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        size: tuple[int, int, int],
        dtype: torch.dtype,
        method: _MinimalFilter,
    ) -> None:
        self._filter = method
        self._convolve = [
            PlaneConvolution(
                (weight * row.view(3, 1, 1)).sum(dim=2),
                bias if p == method.bias_product else None,
                size,
                dtype,
            )
            for p, row in enumerate(method.kernel_transform)
        ]

    def blocks(self, x: Tensor) -> Iterator[Tensor]:
        zero = torch.zeros_like(x[:, 0])
        frames = [zero, *x.unbind(1), zero]
        for start in range(0, x.shape[1], self._filter.n_outputs):
            seen = self._filter.input_transform(frames[start : start + self._filter.n_outputs + 2])
            products = [convolve(plane) for convolve, plane in zip(self._convolve, seen, strict=True)]
            yield torch.stack(self._filter.output_transform(products), dim=1)


def choose_convolution(
    weight: Tensor, bias: Tensor, frames: int, size: tuple[int, int, int], dtype: torch.dtype
) -> Convolution:
    """Return the implementation for a layer; ``size`` is the clips, rows and columns of its input."""
    into, depth = weight.shape[1:3]
    if into * depth <= _FEW_CHANNELS and frames % _FRAMES_AT_ONCE == 0:
        return _FoldedConvolution(weight, bias, size, dtype)
    if depth == 3 and frames % 4 == 0:
        return _FilteredConvolution(weight, bias, size, dtype, _F43)
    if depth == 3 and frames == 2:
        return _FilteredConvolution(weight, bias, size, dtype, _PAIR)
    return _PlainConvolution(weight, bias, dtype)
