"""The networks during training: initial weights, dropout, batch norm, and the tensors to be written."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from c3d_extract.errors import UsageError
from c3d_extract.models.base import CLASS_LAYERS
from c3d_extract.models.c3d import C3D, Architecture
from c3d_extract.models.torchvision import VideoModel, VideoNetwork
from c3d_extract.train.summary import SUMMARY_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from c3d_extract.models.base import Backbone
    from c3d_extract.train.recipes import Recipe

__all__ = ["Outputs", "TrainingNet", "VideoTrainingNet", "last_layer", "start_from", "training_net"]


class Outputs(NamedTuple):
    """Scores (N, classes), and predicted summaries (N, `SUMMARY_SIZE`) if the recipe asks for them."""

    scores: Tensor
    summary: Tensor | None


class TrainingNet(C3D):
    """C3D with the recipe's initial weights, dropout and, if requested, batch norm after each convolution.

    Parameters
    ----------
    architecture
        Description of the network; needs ``n_classes``.
    recipe
        ``initial``, ``dropout``, ``batch_norm`` and ``summary`` are used.
    """

    def __init__(self, architecture: Architecture, recipe: Recipe) -> None:
        super().__init__(architecture)
        self.dropout = recipe.dropout
        self.norms = nn.ModuleDict()
        if recipe.batch_norm:
            groups = zip(architecture.conv_names, architecture.filters, strict=True)
            self.norms.update(
                {
                    name: nn.BatchNorm3d(n)
                    for names, sizes in groups
                    for name, n in zip(names, sizes, strict=True)
                }
            )
        # Predicts the summary from fc6; left behind with the batch norm.
        self.summary = nn.Linear(architecture.hidden[0], SUMMARY_SIZE) if recipe.summary else None
        _initialise(self, recipe.initial)

    def convolve(self, name: str, x: Tensor) -> Tensor:
        """Apply one convolution, and its batch norm."""
        y = super().convolve(name, x)
        return self.norms[name](y) if name in self.norms else y

    def outputs(self, clips: Tensor) -> Outputs:
        """Return the outputs for clips, float (N, 3, T, H, W)."""
        fc6 = F.relu(self.get_submodule("fc6")(self.maps(clips, (), {})))
        x = F.dropout(fc6, self.dropout, self.training)
        x = F.dropout(F.relu(self.get_submodule("fc7")(x)), self.dropout, self.training)
        return Outputs(self.get_submodule("fc8")(x), None if self.summary is None else self.summary(fc6))

    forward = outputs  # type: ignore[assignment]  # DistributedDataParallel calls forward

    def logits(self, clips: Tensor) -> Tensor:
        """Return fc8 of clips, float (N, 3, T, H, W), as float32 (N, n_classes)."""
        return self.outputs(clips).scores.float()

    def plain_state(self) -> dict[str, Tensor]:
        """Return the tensors of a plain `C3D`: batch norm folded into the convolution before it.

        In evaluation y = g·(w*x + b - m)/s + h, with s = sqrt(variance + eps): the kernel becomes w·g/s, the
        bias (b - m)·g/s + h.
        """
        state = {name: value.detach().clone() for name, value in self.state_dict().items()}
        for name, norm in self.norms.items():
            assert isinstance(norm, nn.BatchNorm3d)  # noqa: S101 - for the type checker
            mean, variance = state[f"norms.{name}.running_mean"], state[f"norms.{name}.running_var"]
            scale = state[f"norms.{name}.weight"] / torch.sqrt(variance + norm.eps)
            state[f"{name}.weight"] *= scale[:, None, None, None, None]
            state[f"{name}.bias"] = (state[f"{name}.bias"] - mean) * scale + state[f"norms.{name}.bias"]
        return {name: state[name].cpu() for name in self.architecture.state_shapes()}


class VideoTrainingNet(VideoModel):
    """One of torchvision's video networks, with the recipe's dropout before its last layer.

    Initial weights are torchvision's own.

    Parameters
    ----------
    network
        Description of the network.
    recipe
        ``dropout`` is used.
    last_layer_only
        Whether no other layer is trained: the others are then run as in inference.

    Raises
    ------
    UsageError
        If the recipe has what C3D's family alone can do.
    """

    def __init__(self, network: VideoNetwork, recipe: Recipe, *, last_layer_only: bool = False) -> None:
        for option, value in (("summary", recipe.summary), ("batch_norm", recipe.batch_norm)):
            if value:
                reason = f"is for C3D and its family, and this is a {network.name}"
                raise UsageError(reason, subject=f"recipe's {option}")
        super().__init__(network)
        self.architecture = network
        self._last_layer_only = last_layer_only
        self._head = self.model.get_submodule(self._family.head)
        self._dropout = nn.Dropout(recipe.dropout)
        for name, module in self._head.named_children():
            if isinstance(module, nn.Dropout):
                setattr(self._head, name, nn.Identity())
        self._head.register_forward_pre_hook(lambda _head, inputs: self._dropout(*inputs))

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode, of those layers that are trained."""
        super().train(mode)
        if self._last_layer_only:
            self.model.eval()
        return self

    def outputs(self, clips: Tensor) -> Outputs:
        """Return the outputs for clips, float (N, 3, T, H, W)."""
        return Outputs(VideoModel.forward(self, clips, ("logits",))["logits"], None)

    forward = outputs  # type: ignore[assignment]  # DistributedDataParallel calls forward

    def logits(self, clips: Tensor) -> Tensor:
        """Return the scores of clips, float (N, 3, T, H, W), as float32 (N, n_classes)."""
        return self.outputs(clips).scores.float()

    def plain_state(self) -> dict[str, Tensor]:
        """Return the tensors under torchvision's names."""
        return {name: value.detach().cpu().clone() for name, value in self.state_dict().items()}


def training_net(
    backbone: Backbone, recipe: Recipe, *, last_layer_only: bool = False
) -> TrainingNet | VideoTrainingNet:
    """Return a network to be trained, all of it or its last layer alone."""
    net: TrainingNet | VideoTrainingNet
    if isinstance(backbone, VideoNetwork):
        net = VideoTrainingNet(backbone, recipe, last_layer_only=last_layer_only)
    else:
        assert isinstance(backbone, Architecture)  # noqa: S101 - for the type checker
        net = TrainingNet(backbone, recipe)
    if last_layer_only:
        trained = last_layer(backbone)
        for name, value in net.state_dict(keep_vars=True).items():
            if isinstance(value, nn.Parameter):
                value.requires_grad_(name in trained)
    return net


def last_layer(backbone: Backbone) -> set[str]:
    """Return the names of the tensors that make classes of a descriptor."""
    others = [layer for layer in backbone.layers if layer not in CLASS_LAYERS]
    return set(backbone.state_shapes()) - set(backbone.state_shapes(others))


def start_from(net: TrainingNet | VideoTrainingNet, state: Mapping[str, Tensor]) -> list[str]:
    """Load every tensor of a plain network that fits; return the names of those not loaded."""
    own = net.architecture.state_shapes()
    fitting = {name: value for name, value in state.items() if own.get(name) == tuple(value.shape)}
    net.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))


def _initialise(net: TrainingNet, initial: str) -> None:
    for name, module in net.named_modules():
        if not isinstance(module, nn.Conv3d | nn.Linear):
            continue
        if initial == "he":
            nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5)
            bias = 0.0
        else:
            nn.init.normal_(module.weight, std=0.005 if name in {"fc6", "fc7"} else 0.01)
            bias = 0.0 if name in {"conv1a", "fc8"} else 1.0
        nn.init.constant_(module.get_parameter("bias"), bias)
