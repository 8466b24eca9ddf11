"""The interface between a network and the rest of the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from torch import Tensor, nn

    from c3d_extract.preprocess.spec import Preprocessing

__all__ = ["CLASS_LAYERS", "Backbone", "CpuNetwork", "RunningBatch", "Shape"]

CLASS_LAYERS = frozenset({"fc8", "logits", "prob"})
"""Layers of one value a class."""

Shape = tuple[int, ...]


class Backbone(Protocol):
    """A network that turns a clip of frames into feature vectors.

    It describes the network and holds no weights. `Architecture` implements it for C3D, `VideoNetwork` for
    torchvision's.
    """

    @property
    def name(self) -> str:
        """Name of the network in a checkpoint and on the command line."""

    @property
    def clip(self) -> tuple[int, int, int]:
        """Frames, rows and columns of the input."""

    @property
    def n_classes(self) -> int | None:
        """Outputs of the classifier; None where there is none, or where the network's usual one is meant."""

    @property
    def fps(self) -> float | None:
        """Frames per second of the training videos; None to use every decoded frame."""

    @property
    def frame_step(self) -> int:
        """Every how many decoded frames one is taken, where ``fps`` is None; 1 takes all."""

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers whose features can be extracted, in the order of the network."""

    @property
    def default_layer(self) -> str:
        """The layer that is extracted unless another is requested."""

    @property
    def default_stride(self) -> int:
        """Frames between the starts of clips unless another stride is requested."""

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of frames, unless the checkpoint specifies another."""

    @property
    def input_weight(self) -> str:
        """Name of the tensor whose second axis is the channels of the input.

        Frames are in B, G, R order. For a network that takes R, G, B, this axis is flipped once instead of
        each frame.
        """

    @property
    def variant(self) -> Mapping[str, str]:
        """What else of the network determines its features and differs between checkpoints, by name."""

    def layer_size(self, layer: str) -> int:
        """Return the length D of a layer's feature vector."""

    def n_channels(self, layer: str) -> int:
        """Return the number of channels C of a layer that is a map (C, T, H, W), else its length."""

    def check_layers(self, layers: Sequence[str]) -> None:
        """Raise UsageError unless every layer is one of `layers`."""

    def state_shapes(self, layers: Sequence[str] | None = None) -> dict[str, Shape]:
        """Return the name and shape of every tensor, or of those that ``layers`` need."""

    def to_json(self) -> dict[str, Any]:
        """Return its description as JSON values, from which `registry.backbone_from_json` makes it again."""

    def with_classes(self, n_classes: int) -> Self:
        """Return the network with another number of classes; raise WeightsError for one it cannot have."""

    def n_parameters(self) -> int:
        """Return the number of trained numbers: weights and biases, not running averages."""

    def operations(self) -> int:
        """Return the floating-point operations of one clip; a multiply-add counts as two."""

    def peak_elements(self) -> int:
        """Return the peak number of elements that one clip needs in GPU memory."""

    def cpu_batch_size(self, threads: int) -> int:
        """Return the batch size for a CPU on which ``threads`` cores work."""

    def build(self, layers: Sequence[str] | None = None) -> nn.Module:
        """Build the network with uninitialised or random weights.

        Its ``forward(clips, layers)`` takes float (N, 3, T, H, W) and returns (N, D) for each layer.

        Parameters
        ----------
        layers
            The layers that will be requested; later ones are not built. None builds all.
        """

    def cuda_network(self, layers: Sequence[str]) -> nn.Module | None:
        """Return a faster implementation for NVIDIA GPUs, or None where `build`'s is as fast.

        It takes and returns what `build`'s does, and has tensors of the same names and shapes.
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
            The layers to compute.
        state
            float32 tensors with the names and shapes of `state_shapes`; not kept.
        dtype
            The type that products are computed in, torch.float32 or torch.bfloat16.
        batch_size
            Clips in a batch.
        threads
            Number of clips computed concurrently, each on one core.
        """


class RunningBatch(Protocol):
    """A batch that is being computed; calling it waits for the features, float32 (N, D) for each layer."""

    def done(self) -> bool:
        """Return whether a call would return without waiting for other threads."""

    def __call__(self) -> dict[str, Tensor]:
        """Wait for the features and return them."""


class CpuNetwork(Protocol):
    """An implementation for CPUs that distributes the clips of a batch over its own threads."""

    @property
    def warnings(self) -> Sequence[str]:
        """Why it is slower than expected on this machine, if it is."""

    def start(self, clips: Sequence[Callable[[], Tensor]]) -> RunningBatch:
        """Start computing a batch.

        Each clip is a function that returns float32 (T, H, W, 3); the thread that computes the clip calls it.
        """
