"""Whether a file's features are what a preset takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from c3d_extract.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from c3d_extract.output.export.base import Job, Needs, Preset
    from c3d_extract.output.feature_file import FeatureFile

__all__ = ["check_fit", "chosen_layers", "recipe"]


def recipe(needs: Needs) -> dict[str, str | int]:
    """Return the options of c3d-extract that make what a preset takes, without ``--clips``."""
    options: dict[str, str | int] = {"--layer": needs.layers[0]} if len(needs.layers) == 1 else {}
    options |= {} if needs.stride is None else {"--stride": needs.stride}
    return options | ({} if needs.crops == "centre" else {"--crops": needs.crops})


def chosen_layers(preset: Preset, file: FeatureFile, layer: str | None) -> Sequence[str]:
    """Return the layers to export: the one that is named, else those of the file that the preset takes.

    Raises
    ------
    UsageError
        Where that leaves several for a preset of one.
    StoreError
        Where the file has no layer of that name.
    """
    if layer is not None:
        file.size_of(layer)
        return [layer]
    taken = [each for each in file.layers if each in preset.needs.layers] or file.layers
    if len(taken) > 1 and not preset.needs.several_layers:
        reason = f"has {', '.join(taken)}, and {preset.name} takes one layer"
        raise UsageError(reason, subject=file.path, hint="choose it with --layer")
    return taken


def check_fit(preset: Preset, job: Job) -> None:
    """Raise `UsageError`, in one line with what to do instead, unless the features fit the preset."""
    differences = list(_differences(preset.needs, job))
    if differences:
        options = "".join(f" {name} {value}" for name, value in recipe(preset.needs).items())
        clips = " --clips FILE" if preset.needs.rows == "clips" else ""
        reason = f"does not fit {preset.name}: {'; '.join(differences)}"
        hint = f"extract with{options}{clips}, or --preset {preset.name}"
        raise UsageError(reason, subject=job.file.path, hint=hint)


def _differences(needs: Needs, job: Job) -> Iterator[str]:
    file = job.file
    if needs.rows == "clips" and file.kind != "clips":
        yield "it has a row a video, not a clip"
    if needs.layers and (other := [layer for layer in job.layers if layer not in needs.layers]):
        yield f"layer {', '.join(other)}, not {' or '.join(needs.layers)}"
    stride = file.attributes.get("settings", {}).get("stride")
    if needs.stride is not None and stride != needs.stride:
        yield f"stride {stride}, not {needs.stride}"
    # Tables keep a row a crop; all others have a place for one vector a clip.
    crops = file.attributes.get("settings", {}).get("crops", "centre")
    if needs.rows == "clips" and crops != needs.crops:
        yield f"crops {crops}, not {needs.crops}"
    is_projected = job.basis is not None or "pca_sha256" in file.attributes
    if needs.layers and is_projected and needs.basis is None:
        yield "its rows are projected by PCA"
    if needs.basis is not None and not is_projected:
        yield f"its rows are not projected by PCA, which --pca-from {needs.basis} does"
