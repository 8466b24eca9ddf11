"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test videos, which are not part of the project; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the real test videos in ../shared/data")
    return SHARED
