"""Options of a run's store."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from c3d_extract.output.basis_file import check_basis
from c3d_extract.output.paths import OutputPaths
from c3d_extract.output.pca_basis import check_n_components

if TYPE_CHECKING:
    from c3d_extract.output.identity import RunIdentity
    from c3d_extract.output.pca_basis import PcaBasis

__all__ = ["StoreOptions"]


@dataclass(frozen=True)
class StoreOptions:
    """Which files a run writes, and how; the same for `RunStore.open` and `RunStore.preview`."""

    output: Path
    """The feature file; its folder is created if missing."""
    clips: Path | None = None
    """The clip file, or None for none."""
    overwrite: bool = False
    """Do not resume an earlier run. Its feature file stays until the new file replaces it."""
    retry_failed: bool = False
    """Do not count failed videos as done."""
    pca: int | None = None
    """Fit and apply a basis of that many components."""
    basis: PcaBasis | None = None
    """Apply this basis."""
    l2: bool = False
    """L2-normalise each video's average, before PCA."""
    durable: bool = True
    """Wait for the disk after each video. If False, finished videos survive a kill, not a power loss."""

    def paths(self) -> OutputPaths:
        """Return all files of the output."""
        return OutputPaths.of(Path(self.output), None if self.clips is None else Path(self.clips))

    def complete(self, identity: RunIdentity) -> RunIdentity:
        """Return the identity with the options that affect the files, so that they are compared, too.

        Raises
        ------
        PcaError
            The basis, or the number of components, does not fit the layers.
        MismatchError
            The basis was fitted on features computed in another way.
        """
        check_n_components(self.pca, identity.layer_sizes)
        if self.basis is not None:
            settings = {**identity.settings, "l2": self.l2}
            check_basis(self.basis, identity.layer_sizes, identity.weights, settings)
        own = {
            "l2": self.l2,
            "pca": self.pca,
            "pca_from_sha256": self.basis.sha256 if self.basis else None,
            "clips": self.clips is not None,
        }
        return replace(identity, settings={**own, **identity.settings})
