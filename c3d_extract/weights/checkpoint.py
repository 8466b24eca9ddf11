"""A loaded checkpoint: a network's tensors and everything that determines its features."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from c3d_extract.errors import WeightsError
from c3d_extract.models.c3d import Architecture
from c3d_extract.weights.means import mean_sha256

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from c3d_extract.models.base import Backbone
    from c3d_extract.preprocess.spec import Preprocessing

__all__ = ["Checkpoint"]


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """A network's tensors and everything that determines its features.

    Attributes
    ----------
    name
        The registered name, or the file's.
    path
        The file.
    sha256
        Its hash.
    layout
        How the file named its tensors.
    backbone
        The network that the tensors belong to.
    preprocessing
        Preprocessing of frames.
    mean
        float32 (3, T, H, W), each of T, H, W the clip's or 1; grey levels in B, G, R order.
    mean_name
        The registered mean, the file's name, or the three numbers.
    state
        float32, contiguous; names and shapes as in `Backbone.state_shapes`.
    labels
        Class names in order, if available.
    licence
        Licence of the weights, if known.
    notes
        One-line remarks for the user.
    record
        The registry entry of its file, as JSON values.
    resized_mean
        float32 (3, T, rows, columns), the mean of whole resized frames, where it is one: for other crops than
        that of the centre.
    tensors_sha256
        The hash of the tensors that each loaded layer depends on, see `tensor_hash`.
    """

    name: str
    path: Path
    sha256: str
    layout: str
    backbone: Backbone
    preprocessing: Preprocessing
    mean: NDArray[np.float32]
    mean_name: str
    state: dict[str, torch.Tensor]
    labels: list[str] | None = None
    licence: str | None = None
    notes: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    resized_mean: NDArray[np.float32] | None = None
    tensors_sha256: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Checkpoint {self.name}: {self.backbone.name}, sha256 {self.sha256[:6]}…>"

    @property
    def architecture(self) -> Architecture:
        """Description of a network of C3D's family, for what is done with those alone.

        ``n_classes`` is None where the file has no fc8.

        Raises
        ------
        WeightsError
            For any other network.
        """
        if not isinstance(self.backbone, Architecture):
            why = f"is a {self.backbone.name}, and this is for C3D and its family alone"
            raise WeightsError(why, subject=self.name)
        return self.backbone

    def build(self, layers: Sequence[str] | None = None) -> nn.Module:
        """Return the network with these tensors, for training: in training mode, with gradients.

        Its input is float (N, 3, T, H, W) with the mean subtracted, channels as `Preprocessing.colour` says;
        `C3D.forward` returns the layers that it is asked for.

        Parameters
        ----------
        layers
            The layers that will be requested; later ones are not built. None builds all.

        Raises
        ------
        WeightsError
            Where a tensor is missing, such as that of a layer for which the checkpoint was not loaded.
        """
        missing = sorted(set(self.backbone.state_shapes(layers)) - set(self.state))
        if missing:
            hint = "load_checkpoint(…, layers=…) names the layers"
            raise WeightsError(f"was loaded without {missing[0]}", subject=self.name, hint=hint)
        network = self.backbone.build(layers)
        network.load_state_dict({name: self.state[name] for name in self.backbone.state_shapes(layers)})
        return network

    def identity(self, layers: Sequence[str] | None = None, *, with_crops: bool = False) -> dict[str, Any]:
        """Return what tells whether features of ``layers``, or of all, are comparable, as JSON values.

        Where ``tensors_sha256`` is equal, the file and its hash need not be. ``with_crops``: of other crops
        than the centre, each of which has the mean of its own pixels.
        """
        whole = self.resized_mean if with_crops else None
        hashes = self.tensors_sha256
        return {
            "weights": self.name,
            "weights_file": self.path.name,
            "weights_sha256": self.sha256,
            "tensors_sha256": {layer: hashes[layer] for layer in layers or hashes if layer in hashes},
            "architecture": self.backbone.name,
            **self.backbone.variant,
            **self.preprocessing.identity(),
            "mean": self.mean_name,
            "mean_sha256": mean_sha256(self.mean if whole is None else whole),
        }

    def record_json(self) -> dict[str, Any]:
        """Return everything that is known about the checkpoint, as JSON values."""
        return {
            **self.identity(),
            "layout": self.layout,
            "licence": self.licence,
            "architecture": self.backbone.to_json(),
            "preprocessing": self.preprocessing.to_json(),
            "notes": list(self.notes),
            "record": self.record,
        }
