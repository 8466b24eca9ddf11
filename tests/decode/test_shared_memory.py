"""The memory that decoders share: the same bytes for both processes, also where the kernel offers little."""

from __future__ import annotations

import errno
import mmap
import os
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from c3d_extract.decode import DecodeOptions
from c3d_extract.decode.shared_memory import Layout, SlotMemory, anonymous_file
from c3d_extract.errors import DecoderError
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.preprocess.spec import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memfd_create is Linux's")
OPTIONS = DecodeOptions(FrameSampler(Preprocessing()), 16)


@pytest.mark.parametrize("refusal", [errno.ENOSYS, errno.EPERM])
def test_kernels_without_anonymous_files_get_a_temporary_one(
    tmp_path: Path, refusal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "memfd_create", _refuse(refusal))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    layout = Layout.of(OPTIONS, n_slots=5, n_heartbeats=3)
    assert layout.n_header_bytes % mmap.PAGESIZE == 0
    descriptor = anonymous_file(layout.n_bytes)
    assert os.fstat(descriptor).st_size == layout.n_bytes
    one, other = SlotMemory(descriptor, layout), SlotMemory(descriptor, layout)
    os.close(descriptor)
    one.slots[-1, -1] = 7
    one.heartbeats[2] = 1.5
    assert (other.slots[-1, -1] == 7).all()
    assert other.slots.shape == (5, 16, 112, 112, 3)
    assert not other.slots[:-1].any()
    assert other.heartbeats.tolist() == [0, 0, 1.5]
    assert not list(tmp_path.iterdir()), "it never has a name"


def test_where_there_is_no_memory_to_share_the_reason_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "memfd_create", _refuse(errno.ENOSYS))
    monkeypatch.setattr(tempfile, "TemporaryFile", _refuse(errno.ENOSPC))
    with pytest.raises(DecoderError) as caught:
        anonymous_file(1000)
    told = str(caught.value)
    assert told.startswith(
        "no memory to share with a decoder: [Errno 38] Function not implemented (memfd_create)"
    )
    assert "[Errno 28] No space left on device (a temporary file of " in told
    assert told.endswith("; set TMPDIR to a folder that can be written to")


def _refuse(number: int) -> Callable[..., None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return refuse
