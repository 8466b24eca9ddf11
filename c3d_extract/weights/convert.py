"""Conversion from any layout to the native one, and its rounding error."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from c3d_extract.errors import UsageError
from c3d_extract.models.instantiate import built_with
from c3d_extract.weights.layouts.native import save_checkpoint
from c3d_extract.weights.load import load_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from c3d_extract.weights.checkpoint import Checkpoint

__all__ = ["Rounding", "convert"]


class Rounding(NamedTuple):
    """Relative difference between the written file and its source: ‖difference‖ / ‖source‖.

    ``weights`` is over all tensors, ``worst_layer`` that of the worst tensor, ``features`` that of the
    default layer ``layer`` for a clip of noise.
    """

    weights: float
    worst_layer: float
    features: float
    layer: str


def convert(
    source: str | Path, output: Path, *, dtype: Literal["fp32", "fp16"] = "fp32", **how: Any
) -> tuple[Checkpoint, Rounding]:
    """Write ``source`` to ``output`` in the native format, read it back and compare.

    ``how`` is passed to `load_checkpoint`: mean, pool5, colour, fc6_order, offline, progress.

    Raises
    ------
    WeightsError
        Where the source does not load or the output cannot be written.
    UsageError
        Where both are the same file.
    """
    checkpoint = load_checkpoint(source, **how)
    if output.exists() and output.samefile(checkpoint.path):
        raise UsageError("would replace its own source", subject=output)
    save_checkpoint(
        output,
        checkpoint.state,
        checkpoint.backbone,
        checkpoint.preprocessing,
        checkpoint.mean,
        name=checkpoint.name,
        mean_name=checkpoint.mean_name,
        labels=checkpoint.labels,
        licence=checkpoint.licence,
        extra={
            "converted_from": {
                "file": checkpoint.path.name,
                "sha256": checkpoint.sha256,
                "layout": checkpoint.layout,
                "notes": list(checkpoint.notes),
            }
        },
        dtype=dtype,
    )
    return checkpoint, _rounding(checkpoint, load_checkpoint(output))


def _rounding(source: Checkpoint, written: Checkpoint) -> Rounding:
    layer = source.backbone.default_layer
    differences = {
        name: (tensor - written.state[name]).norm().item() for name, tensor in source.state.items()
    }
    norms = {name: tensor.norm().item() for name, tensor in source.state.items()}
    if not any(differences.values()):  # bit-identical: skip two forward passes
        return Rounding(0.0, 0.0, 0.0, layer)
    whole = sum(d * d for d in differences.values()) ** 0.5 / sum(n * n for n in norms.values()) ** 0.5
    worst = max(difference / norms[name] for name, difference in differences.items() if norms[name] > 0)
    before, after = _features_of_noise(source, layer), _features_of_noise(written, layer)
    features = ((after - before).norm() / before.norm().clamp_min(1e-12)).item()
    return Rounding(whole, worst, features, layer)


def _features_of_noise(checkpoint: Checkpoint, layer: str) -> torch.Tensor:
    """Return a layer's features, (1, D), of a fixed clip of noise."""
    backbone = checkpoint.backbone
    weights = {name: checkpoint.state[name] for name in backbone.state_shapes([layer])}
    model = built_with(partial(backbone.build, [layer]), weights)
    # Grey levels around the mean.
    noise = torch.randn(1, 3, *backbone.clip, generator=torch.Generator().manual_seed(0)) * 50
    with torch.inference_mode():
        features: torch.Tensor = model.eval()(noise, [layer])[layer]
    return features
