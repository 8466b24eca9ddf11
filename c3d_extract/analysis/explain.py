"""What in a clip the units of a layer respond to, by guided backpropagation.

Figure 4 of the C3D paper shows this by deconvolution (Zeiler and Fergus, 2014): from one unit back to the
pixels, by transposed convolutions, the places of the maxima of pools, and a ReLU that keeps positive signals
alone. Guided backpropagation (Springenberg et al., 2015) also stops the signal at units that are inactive in
this clip. It is used here because its pictures are cleaner: of a small disc that moves over a still texture,
38 % of the energy is on the disc for fc6 of motion-mini, 34 % by deconvolution, 9 % by the plain gradient. As
with deconvolution, units of one clip have similar pictures: much in them is what makes any unit active.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from c3d_extract.errors import UsageError
from c3d_extract.models.instantiate import built_with

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from c3d_extract.preprocess.spec import Colour
    from c3d_extract.weights import Checkpoint

__all__ = ["Explainer", "Explanation", "UnitPicture"]


class UnitPicture(NamedTuple):
    """What one unit responds to.

    Attributes
    ----------
    unit
        Number of the unit: of the feature map, in a layer of maps.
    activation
        Its value; of a feature map the largest.
    pixels
        float32 (T, H, W, 3), R, G, B: positive where a brighter pixel would raise the activation. All 0 for a
        unit that is inactive.
    """

    unit: int
    activation: float
    pixels: NDArray[np.float32]


class Explanation(NamedTuple):
    """A clip, uint8 (T, H, W, 3), R, G, B, and the pictures of some units."""

    frames: NDArray[np.uint8]
    units: list[UnitPicture]


class Explainer:
    """Shows what the units of one layer respond to in clips.

    Parameters
    ----------
    checkpoint
        With the tensors that ``layer`` needs; of a network with ReLUs, as the method is defined by them.
    layer
        Any layer but ``prob``; None for the network's descriptor.
    device
        Where to compute.

    Raises
    ------
    UsageError
        For an unknown layer, and for ``prob``, each of whose units depends on all others.
    """

    def __init__(
        self, checkpoint: Checkpoint, layer: str | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.checkpoint = checkpoint
        self.layer = layer or checkpoint.backbone.default_layer
        backbone, layers = checkpoint.backbone, (self.layer,)
        backbone.check_layers(layers)
        if self.layer == "prob":
            raise UsageError(
                "each depends on all others", subject="units of prob", hint="take the layer before"
            )
        self.n_units = backbone.n_channels(self.layer)
        state = {name: checkpoint.state[name] for name in backbone.state_shapes(layers)}
        self._device = torch.device(device)
        model = built_with(partial(backbone.build, layers), state).to(self._device)
        self._model = model.eval().requires_grad_(False)

    def activations(self, clip: Tensor) -> NDArray[np.float32]:
        """Return the activation of each unit, float32 (n_units,); of a feature map the largest.

        ``clip`` is float32 (3, T, H, W), as `ClipDataset` returns it.
        """
        with torch.inference_mode():
            found: NDArray[np.float32] = self._activations(clip[None].to(self._device)).cpu().numpy()
        return found

    def explain(self, clip: Tensor, units: Sequence[int]) -> Explanation:
        """Return the clip's frames and the picture of each unit.

        Raises
        ------
        UsageError
            For a unit that the layer does not have, and a network without ReLUs.
        """
        self.check_units(units)
        x = clip[None].to(self._device, copy=True).requires_grad_()
        with _GuidedRelus() as relus:
            activations = self._activations(x)
        if relus.n_calls == 0:
            name = self.checkpoint.backbone.name
            raise UsageError("has no ReLUs, which guided backpropagation needs", subject=name)
        pictures = []
        for unit in units:
            (gradient,) = torch.autograd.grad(activations[unit], x, retain_graph=True)
            pixels = _channels_last(self._flipped_if("bgr", gradient[0].cpu()))
            pictures.append(UnitPicture(unit, float(activations[unit].detach()), pixels))
        return Explanation(self._frames(clip), pictures)

    def check_units(self, units: Sequence[int]) -> None:
        """Raise UsageError unless the layer has all ``units``."""
        for unit in units:
            if not 0 <= unit < self.n_units:
                raise UsageError(f"{self.layer} has units 0 to {self.n_units - 1}", subject=f"unit {unit}")

    def _activations(self, clips: Tensor) -> Tensor:
        flat: Tensor = self._model(clips, (self.layer,))[self.layer][0]
        return flat.view(self.n_units, -1).amax(dim=1)

    def _frames(self, clip: Tensor) -> NDArray[np.uint8]:
        """Return the frames that a network's input was made of."""
        std = torch.tensor(self.checkpoint.preprocessing.std).view(3, 1, 1, 1)
        bgr = self._flipped_if("rgb", clip) * std + torch.from_numpy(self.checkpoint.mean)
        return _channels_last(bgr.flip(0)).round().clip(0, 255).astype(np.uint8)

    def _flipped_if(self, colour: Colour, clip: Tensor) -> Tensor:
        return clip.flip(0) if self.checkpoint.preprocessing.colour == colour else clip


def _channels_last(clip: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = clip.permute(1, 2, 3, 0).contiguous().numpy()
    return found


class _GuidedRelu(torch.autograd.Function):
    """A ReLU that sends back positive signals alone, to active units alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return ReLU of ``x``."""
        output = x.clamp(min=0)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Tensor:
        """Return the signal for ``x``."""
        (output,) = ctx.saved_tensors
        guided: Tensor = signal.clamp(min=0) * (output > 0)
        return guided


class _GuidedRelus(TorchFunctionMode):
    """Replaces every ReLU of torch's modules that is called meanwhile by `_GuidedRelu`, and counts them."""

    n_calls = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call ``func``, or what replaces it."""
        del types
        if func is F.relu:
            self.n_calls += 1
            return _GuidedRelu.apply(args[0])
        return func(*args, **(kwargs or {}))
