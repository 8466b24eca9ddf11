"""What the rest of the package needs to know about a network, whichever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from c3d_extract.preprocess.spec import Preprocessing

__all__ = ["Backbone", "Shape"]

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
