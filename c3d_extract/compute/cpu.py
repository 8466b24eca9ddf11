"""The network on a CPU: the same sums as `c3d_extract.models.c3d.C3D`, with fewer products and in cache.

Three things make it fast, each measured in ``benchmarks/RESULTS.md``:

- Convolutions of three frames' depth are done by minimal filtering along time: F(4,3) gives four frames
  of output for six products instead of twelve (A. Lavin and S. Gray, Fast Algorithms for Convolutional
  Neural Networks, arXiv 1509.09308, Section 4; S. Winograd, Arithmetic Complexity of Computations, 1980).
  What remains are 2-D convolutions, which oneDNN does near the processor's peak.
- The early layers run clip by clip and a few frames at a time, so that a map is pooled while it is in
  cache. A whole map of conv1a is 51 MB: writing it to fresh memory costs more than computing it.
- conv1a sees its three frames as nine channels of one image: three channels fill no vector.
- Each core takes whole clips, by itself. Cores that share each product wait for each other at every
  one of some 60 a clip, which is dear where a decoder takes a core's time in between.

Maps are float32 (N, T, H, W, C), contiguous; in bf16 only what is multiplied and the product are rounded
to it, and every sum between them is in fp32. Every convolution sees the same shapes whatever the batch, so
that a clip's features do not depend on its neighbours.

Kernels are laid out once by operators that torch keeps for its own compiler. They are tried before they are
trusted, and where they are gone or changed, torch's public convolution takes their place.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F

from c3d_extract.models.c3d import max_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from c3d_extract.models.c3d import Architecture

    _Finish = Callable[[list[dict[str, Tensor]]], dict[str, Tensor]]

__all__ = ["CLIPS_TOGETHER", "CpuC3D"]

_N_STAGES, _LAST_EARLY_STAGE = 5, 3
CLIPS_TOGETHER = 4  # clips that the late layers see together: their weights outweigh their maps
_FRAMES_AT_ONCE = 2  # of conv1a: 6 MB of output, which stays in cache until it is pooled
_setting_threads = threading.Lock()  # their number is the process's
_FEW_CHANNELS = 32  # up to here the frames under a kernel are seen as channels of one image


class _PlaneConvolution:
    """A 2-D convolution of float32 (N, H, W, C) with its kernels laid out once as oneDNN wants them.

    ``dtype`` is what it multiplies in.
    """

    def __init__(
        self, kernels: Tensor, bias: Tensor | None, size: tuple[int, int, int], dtype: torch.dtype
    ) -> None:
        n, height, width = size
        self._dtype = dtype
        self._padding = [side // 2 for side in kernels.shape[2:]]
        self._bias = None if bias is None else bias.to(dtype)
        self._kernels = kernels.to(dtype).contiguous(memory_format=torch.channels_last)
        self._packed = _packs(dtype)
        if self._packed:
            shape = [n, kernels.shape[1], height, width]
            self._kernels = _laid_out(self._kernels, self._padding, shape)

    def __call__(self, x: Tensor) -> Tensor:
        image = x.to(self._dtype).contiguous().permute(0, 3, 1, 2)
        if self._packed:
            y = _convolve_laid_out(image, self._kernels, self._bias, self._padding)
        else:
            y = _convolve(image, self._kernels, self._bias, self._padding)
        return y.float().permute(0, 2, 3, 1).contiguous()


def _convolve(image: Tensor, kernels: Tensor, bias: Tensor | None, padding: list[int]) -> Tensor:
    """Convolve by what torch offers to all; a row's pixels are summed in one order wherever they stand."""
    if image.shape[2:3] == kernels.shape[2:3] == (1,):
        # The plain way is a matrix product over the row, and sums its last pixels in another order. As
        # images of a pixel each they are alike.
        return F.conv2d(image.permute(3, 1, 2, 0), kernels, bias).permute(3, 1, 2, 0)
    return F.conv2d(image, kernels, bias, padding=padding)


def _laid_out(kernels: Tensor, padding: list[int], shape: list[int]) -> Tensor:
    """Lay kernels out for images of ``shape`` (N, C, H, W)."""
    made: Tensor = torch.ops.mkldnn._reorder_convolution_weight(  # noqa: SLF001
        kernels, padding, [1, 1], [1, 1], 1, shape
    )
    return made


def _convolve_laid_out(image: Tensor, kernels: Tensor, bias: Tensor | None, padding: list[int]) -> Tensor:
    y: Tensor = torch.ops.mkldnn._convolution_pointwise(  # noqa: SLF001
        image, kernels, bias, padding, [1, 1], [1, 1], 1, "none", [], ""
    )
    return y


def _packs(dtype: torch.dtype) -> bool:
    """Say whether this build of torch and this processor lay kernels out for ``dtype``, rightly."""
    return _has_onednn(dtype) and _why_not_laid_out(dtype) is None


def _has_onednn(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    # Where the question itself is gone, trying is the answer.
    bf16 = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    return dtype == torch.float32 or bool(bf16())


@functools.cache
def _why_not_laid_out(dtype: torch.dtype) -> str | None:
    """Try torch's private operators on a small image, once a process; return what is wrong, if anything."""
    # Small whole numbers: products and sums are exact, and only bf16's result is rounded.
    image = torch.arange(2 * 8 * 6 * 7).remainder(7).sub(3).view(2, 6, 7, 8).to(dtype).permute(0, 3, 1, 2)
    kernels = torch.arange(16 * 8 * 9).remainder(5).sub(2).view(16, 8, 3, 3).to(dtype)
    kernels, bias = kernels.contiguous(memory_format=torch.channels_last), torch.ones(16, dtype=dtype)
    try:
        found = _convolve_laid_out(image, _laid_out(kernels, [1, 1], list(image.shape)), bias, [1, 1])
    except (AttributeError, TypeError, RuntimeError) as error:  # gone, or it takes other arguments now
        return str(error).strip().partition("\n")[0]
    right = F.conv2d(image.float(), kernels.float(), bias.float(), padding=1)
    if found.shape != right.shape or not torch.allclose(found.float(), right, rtol=1e-2, atol=1e-3):
        return "its results are wrong"
    return None


class _FoldedConvolution:
    """A convolution of few channels: the frames under the kernel become channels of one image."""

    def __init__(self, weight: Tensor, bias: Tensor, size: tuple[int, int, int], dtype: torch.dtype) -> None:
        out, into, self._depth, height, width = weight.shape
        kernels = weight.transpose(1, 2).reshape(out, self._depth * into, height, width)
        n, rows, columns = size
        self._convolve = _PlaneConvolution(kernels, bias, (n * _FRAMES_AT_ONCE, rows, columns), dtype)

    def blocks(self, x: Tensor) -> Iterator[Tensor]:
        n, frames, half = x.shape[0], x.shape[1], self._depth // 2
        padded = F.pad(x, (0, 0, 0, 0, 0, 0, half, half))
        folded = torch.cat([padded[:, i : i + frames] for i in range(self._depth)], dim=-1)
        for part in torch.split(folded, _FRAMES_AT_ONCE, dim=1):
            yield torch.unflatten(self._convolve(part.flatten(0, 1)), 0, (n, -1))


class _PlainConvolution:
    """Any other: torch's own 3-D convolution."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        self._weight = weight.to(dtype).contiguous(memory_format=torch.channels_last_3d)
        self._bias = bias.to(dtype)
        self._padding = [side // 2 for side in weight.shape[2:]]

    def blocks(self, x: Tensor) -> Iterator[Tensor]:
        image = x.to(self._weight.dtype).permute(0, 4, 1, 2, 3)
        y = F.conv3d(image, self._weight, self._bias, padding=self._padding)
        yield y.float().permute(0, 2, 3, 4, 1).contiguous()


def _forth_of_six(x: Sequence[Tensor]) -> list[Tensor]:
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


def _back_to_four(m: Sequence[Tensor]) -> list[Tensor]:
    near, far = m[1] + m[2], m[3] + m[4]
    near_odd, far_odd = m[1] - m[2], m[3] - m[4]
    return [
        m[0].add_(near).add_(far),
        torch.add(near_odd, far_odd, alpha=2),
        near.add_(far, alpha=4),
        m[5].add_(near_odd).add_(far_odd, alpha=8),
    ]


def _forth_of_two(x: Sequence[Tensor]) -> list[Tensor]:
    return [x[1] + x[2], x[2], x[1]]


def _back_to_two(m: Sequence[Tensor]) -> list[Tensor]:
    return [m[1].add_(m[0]), m[2].add_(m[0])]


class _Filter(NamedTuple):
    """A way to filter a run of frames with three taps: outputs = back((taps @ kernels) * forth(frames)).

    Frames begin one before the first output and end one after the last. ``back`` may overwrite what it
    is given. Sums only, no matrix products: those round in another order for another number of threads.
    """

    n_outputs: int
    taps: Tensor
    forth: Callable[[Sequence[Tensor]], list[Tensor]]
    back: Callable[[Sequence[Tensor]], list[Tensor]]
    bias_product: int  # the one that goes into every output once: there the bias is added


_F43 = _Filter(
    n_outputs=4,
    taps=torch.tensor(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    ),
    forth=_forth_of_six,
    back=_back_to_four,
    bias_product=1,
)
"""Four outputs of three taps by six products (Lavin and Gray, equation 12)."""

_WHOLE_OF_TWO = _Filter(
    n_outputs=2,
    taps=torch.tensor([[0.0, 1, 0], [0, -1, 1], [1, -1, 0]]),
    forth=_forth_of_two,
    back=_back_to_two,
    bias_product=0,
)
"""A map of two frames between zeros: b(x+y) + (c-b)y and b(x+y) + (a-b)x, three products instead of four."""


class _FilteredConvolution:
    """A convolution three frames deep, by minimal filtering along time."""

    def __init__(
        self, weight: Tensor, bias: Tensor, size: tuple[int, int, int], dtype: torch.dtype, how: _Filter
    ) -> None:
        self._how = how
        self._convolve = [
            _PlaneConvolution(
                (weight * row.view(3, 1, 1)).sum(dim=2),
                bias if p == how.bias_product else None,
                size,
                dtype,
            )
            for p, row in enumerate(how.taps)
        ]

    def blocks(self, x: Tensor) -> Iterator[Tensor]:
        zero = torch.zeros_like(x[:, 0])
        frames = [zero, *x.unbind(1), zero]
        for start in range(0, x.shape[1], self._how.n_outputs):
            seen = self._how.forth(frames[start : start + self._how.n_outputs + 2])
            products = [convolve(plane) for convolve, plane in zip(self._convolve, seen, strict=True)]
            yield torch.stack(self._how.back(products), dim=1)


class _Layer(NamedTuple):
    name: str
    stage: int
    ends_stage: bool
    convolution: _FoldedConvolution | _FilteredConvolution | _PlainConvolution


class _Running:
    """A batch on its way: called, it waits for the features, float32 (N, D) a layer."""

    def __init__(self, groups: list[Future[dict[str, Tensor]]], finish: _Finish) -> None:
        self._groups = groups
        self._finish = finish

    def done(self) -> bool:
        """Say whether a call would wait no longer for other threads."""
        return all(group.done() for group in self._groups)

    def __call__(self) -> dict[str, Tensor]:
        return self._finish([group.result() for group in self._groups])


class CpuC3D:
    """A network of the family on a CPU, in fp32 or bf16.

    Worth its while from some 32 filters on: below, a map fits into the cache as a whole, and filtering
    takes longer than the products that it saves.

    Parameters
    ----------
    architecture, layers
        What is computed.
    state
        float32 tensors by the prototxt's names; not kept.
    dtype
        What products are computed in, torch.float32 or torch.bfloat16.
    batch_size
        Clips that the fully connected layers see together.
    threads
        Clips in work at a time, each on a core.

    Attributes
    ----------
    warnings
        What makes it slow here, if anything.
    """

    def __init__(
        self,
        architecture: Architecture,
        layers: Sequence[str],
        state: Mapping[str, Tensor],
        *,
        dtype: torch.dtype,
        batch_size: int,
        threads: int,
    ) -> None:
        self.batch_size = batch_size
        self.layers = tuple(layers)
        self._architecture = architecture
        self._dtype = dtype
        why = _why_not_laid_out(dtype) if _has_onednn(dtype) else None
        self.warnings = [_slower(why)] if why else []
        # A single small image goes to a matrix product, and is not summed in the same order every time.
        self._group = min(CLIPS_TOGETHER, batch_size if _packs(dtype) else max(2, batch_size))
        self._pool = ThreadPoolExecutor(
            threads, "c3d-network", initializer=torch.set_num_threads, initargs=(1,)
        )
        with _one_thread():
            self._start_threads(threads)
            made = [self._layer(name, stage, state) for name, stage in _convolutions(architecture)]
            # As a convolution of a row of pixels: unlike torch's matrix product, it sums a row in the same
            # order wherever in a batch it stands, and its weights are laid out once.
            self._linear = {
                name: _PlaneConvolution(
                    state[f"{name}.weight"][:, :, None, None],
                    state[f"{name}.bias"],
                    (1, 1, batch_size),
                    dtype,
                )
                for name in architecture.linear_names(layers)
            }
        self._early = [layer for layer in made if layer.stage <= _LAST_EARLY_STAGE]
        self._late = [layer for layer in made if layer.stage > _LAST_EARLY_STAGE]

    def _start_threads(self, n: int) -> None:
        """Start all of the pool's threads, while one thread a product is the process's setting and theirs."""
        begun = Barrier(n + 1)
        for _ in range(n):
            self._pool.submit(begun.wait)
        begun.wait()

    def _layer(self, name: str, stage: int, state: Mapping[str, Tensor]) -> _Layer:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        _, frames, height, width = self._architecture.map_shapes()[name]
        size = (1 if stage <= _LAST_EARLY_STAGE else self._group, height, width)
        ends_stage = name == self._architecture.conv_names[stage - 1][-1]
        return _Layer(name, stage, ends_stage, _convolution(weight, bias, frames, size, self._dtype))

    def start(self, clips: Sequence[Callable[[], Tensor]]) -> _Running:
        """Begin with a batch of at most ``batch_size``; what it returns waits for the features when called.

        Each clip is a call that returns float32 (T, H, W, 3); it is called on the core that takes the
        clip. Features are float32 (N, D) a layer.
        """
        with _one_thread():  # what the pool's threads begin with
            early = [self._pool.submit(self._run_early, clip) for clip in clips]
        groups = [early[i : i + self._group] for i in range(0, len(early), self._group)]
        late = [self._pool.submit(self._run_late, group) for group in groups]
        return _Running(late, functools.partial(self._finish, n=len(clips)))

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
        # The pool takes work in order: all of these are done or in work, so that waiting cannot lock.
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
                y = max_pool(x.permute(0, 4, 1, 2, 3), layer.stage, self._architecture.pool5)
                x = y.permute(0, 2, 3, 4, 1)
        return x


def _slower(why: str) -> str:
    return f"slower than it could be: torch {torch.__version__} does not lay kernels out as known ({why})"


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    with _setting_threads:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _convolutions(architecture: Architecture) -> list[tuple[str, int]]:
    named = enumerate(architecture.conv_names, start=1)
    return [(name, stage) for stage, names in named for name in names]


def _convolution(
    weight: Tensor, bias: Tensor, frames: int, size: tuple[int, int, int], dtype: torch.dtype
) -> _FoldedConvolution | _FilteredConvolution | _PlainConvolution:
    """Choose how a layer is convolved: ``size`` is clips, rows and columns of what it sees at once."""
    into, depth = weight.shape[1:3]
    if into * depth <= _FEW_CHANNELS and frames % _FRAMES_AT_ONCE == 0:
        return _FoldedConvolution(weight, bias, size, dtype)
    if depth == 3 and frames % 4 == 0:
        return _FilteredConvolution(weight, bias, size, dtype, _F43)
    if depth == 3 and frames == 2:
        return _FilteredConvolution(weight, bias, size, dtype, _WHOLE_OF_TWO)
    return _PlainConvolution(weight, bias, dtype)


def _padded(x: Tensor, n: int) -> Tensor:
    """Fill up with zero rows to ``n``, so that every batch has the same shape."""
    return x if len(x) == n else torch.cat([x, x.new_zeros((n - len(x), *x.shape[1:]))])


def _pooled(x: Tensor, stage: int) -> Tensor:
    """Max-pool (N, T, H, W, C) after the stages 1 to 4: halves rows and columns, and from 2 on frames."""
    if stage > 1:
        pairs = torch.unflatten(x[:, : x.shape[1] // 2 * 2], 1, (-1, 2))
        x = torch.maximum(pairs[:, :, 0], pairs[:, :, 1])
    image = x.flatten(0, 1).permute(0, 3, 1, 2)
    return torch.unflatten(F.max_pool2d(image, 2).permute(0, 2, 3, 1), 0, (len(x), -1))
