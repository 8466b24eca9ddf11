"""Errors are one line, and the same line in another process."""

from __future__ import annotations

import pickle

import pytest

from c3d_extract.errors import C3DError, LockedError, MismatchError, StoreError, UsageError


@pytest.mark.parametrize(
    "error",
    [
        UsageError("is unknown", subject="--layer", hint="try fc6"),
        StoreError("the disk is full"),
        LockedError("another process writes it", subject="a.h5"),
        MismatchError("was made otherwise", differences=["stride: 16 → 8"], subject="a.h5", hint="another"),
    ],
    ids=str,
)
def test_an_error_from_another_process_is_the_same(error: C3DError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
