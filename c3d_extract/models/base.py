"""What the rest of the package needs to know about a network, whichever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from torch import Tensor, nn

    from c3d_extract.preprocess.spec import Preprocessing

__all__ = ["Backbone", "CpuNetwork", "RunningBatch", "Shape"]

Shape = tuple[int, ...]


class Backbone(Protocol):
    """A network that turns a clip of frames into feature vectors.

    The description only: it holds no weights. `Architecture` is C3D's.
    """

    @property
    def name(self) -> str:
        """What it is called in a checkpoint and on the command line."""

    @property
    def clip(self) -> tuple[int, int, int]:
        """Frames, rows and columns of the input."""

    @property
    def fps(self) -> float | None:
        """Frames per second that it was trained at; None where frames are taken as they are decoded."""

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that can be asked for, in the order of the network."""

    @property
    def default_layer(self) -> str:
        """The layer that is the network's descriptor unless another is asked for."""

    @property
    def default_stride(self) -> int:
        """Frames between the starts of clips unless another stride is asked for."""

    @property
    def preprocessing(self) -> Preprocessing:
        """What it wants done to frames, unless its checkpoint says otherwise."""

    @property
    def input_weight(self) -> str:
        """The tensor whose second axis is the channels of the input.

        Frames come as B, G, R. For a network that takes R, G, B this axis is flipped once, not each frame.
        """

    def layer_size(self, layer: str) -> int:
        """Length D of a layer's feature vector."""

    def check_layers(self, layers: Sequence[str]) -> None:
        """Raise UsageError unless every layer is one of `layers`."""

    def state_shapes(self, layers: Sequence[str] | None = None) -> dict[str, Shape]:
        """Name and shape of every tensor, or of those that ``layers`` need."""

    def peak_elements(self) -> int:
        """Count the numbers that one clip needs in memory at a time, at most, on a GPU."""

    def cpu_batch_size(self, threads: int) -> int:
        """Return how many clips suit a CPU at a time, where ``threads`` cores work on them."""

    def build(self, layers: Sequence[str] | None = None) -> nn.Module:
        """Build the network with its weights uninitialised or random.

        Its ``forward(clips, layers)`` takes float (N, 3, T, H, W) and returns (N, D) for each layer.

        Parameters
        ----------
        layers
            The layers that will be asked for; later ones are not built. None builds all.
        """

    def cpu_network(
        self,
        layers: Sequence[str],
        state: Mapping[str, Tensor],
        *,
        dtype: torch.dtype,
        batch_size: int,
        threads: int,
    ) -> CpuNetwork | None:
        """Return a faster implementation for CPUs, or None where `build`'s is as fast.

        Parameters
        ----------
        layers
            What is computed.
        state
            float32 tensors, named and shaped as `state_shapes` says; not kept.
        dtype
            What products are computed in, torch.float32 or torch.bfloat16.
        batch_size
            Clips in a batch.
        threads
            Clips that are worked on at a time, each by one core.
        """


class RunningBatch(Protocol):
    """A batch that is being computed; called, it waits for the features, float32 (N, D) for each layer."""

    def done(self) -> bool:
        """Say whether a call would not wait for other threads."""

    def __call__(self) -> dict[str, Tensor]:
        """Wait for the features."""


class CpuNetwork(Protocol):
    """An implementation for CPUs that shares the clips of a batch among threads of its own."""

    @property
    def warnings(self) -> Sequence[str]:
        """What makes it slow here, if anything."""

    def start(self, clips: Sequence[Callable[[], Tensor]]) -> RunningBatch:
        """Begin with a batch.

        Each clip is a call that returns float32 (T, H, W, 3); the thread that takes the clip calls it.
        """
