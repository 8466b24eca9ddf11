"""What is staged, read as a run reads it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from c3d_extract.sources.staging import Staged, Staging


def ready(stage: Staging) -> Iterator[Staged]:
    """What is staged, without the answers that nothing is ready yet."""
    for item in stage:
        if item is None:
            time.sleep(0.001)
        else:
            yield item


def contents(stage: Staging) -> dict[int, bytes | str]:
    """Read and release each video; a failed one gives its reason."""
    found: dict[int, bytes | str] = {}
    for task, path, error in ready(stage):
        assert task not in found
        found[task] = path.read_bytes() if error is None else error
        stage.release(task)
        assert error or not path.exists()
    return found
