"""Any module of torch on a CPU: each core computes a few clips at a time by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from c3d_extract.models.cpu_threads import OneCoreThreads, RunningGroups
from c3d_extract.models.instantiate import built_with

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

__all__ = ["CpuModule"]


class CpuModule:
    """A module that each of several threads calls with a few clips; implements `CpuNetwork`.

    Every call has the same number of clips, the last one padded with zeros, so that a clip's features depend
    neither on the size of the batch nor on the number of cores.

    Parameters
    ----------
    build
        Returns the module, with any weights. It takes float (N, 3, T, H, W) and layers, and returns
        (N, D) for each.
    layers
        The layers to compute.
    state
        float32 tensors by the module's names; not kept where ``dtype`` is another.
    dtype
        The type that it computes in.
    clips_together
        Clips in a call.
    threads
        Calls at a time, each on one core.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        layers: Sequence[str],
        state: Mapping[str, Tensor],
        *,
        dtype: torch.dtype,
        clips_together: int,
        threads: int,
    ) -> None:
        module = built_with(build, state)
        self.module = module.to(dtype).to(memory_format=torch.channels_last_3d).eval().requires_grad_(False)
        self.warnings: Sequence[str] = ()
        self._layers = tuple(layers)
        self._dtype = dtype
        self._group = clips_together
        self._threads = OneCoreThreads(threads)

    def start(self, clips: Sequence[Callable[[], Tensor]]) -> RunningGroups:
        """Start computing a batch; each clip is a function that returns float32 (T, H, W, 3)."""
        groups = [clips[i : i + self._group] for i in range(0, len(clips), self._group)]
        return RunningGroups([self._threads.submit(self._run, group) for group in groups], self._finish)

    @torch.inference_mode()
    def _run(self, clips: Sequence[Callable[[], Tensor]]) -> dict[str, Tensor]:
        x = torch.stack([clip() for clip in clips])
        x = torch.cat([x, x.new_zeros((self._group - len(x), *x.shape[1:]))])
        # (N, T, H, W, 3) viewed as (N, 3, T, H, W) is channels_last_3d already: nothing is copied.
        found = self.module(x.to(self._dtype).permute(0, 4, 1, 2, 3), self._layers)
        return {layer: rows[: len(clips)].float() for layer, rows in found.items()}

    @torch.inference_mode()
    def _finish(self, groups: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {layer: torch.cat([group[layer] for group in groups]) for layer in self._layers}
