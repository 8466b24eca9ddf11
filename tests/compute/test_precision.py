"""A precision is one that the device has; torch's flags say what was asked for, and are set back."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch

from c3d_extract.compute.precision import choose_precision, common_precision, fp32_products
from c3d_extract.errors import DeviceError

if TYPE_CHECKING:
    from c3d_extract.settings import Precision

CPU = torch.device("cpu")


def test_precisions_that_a_cpu_lacks_are_refused() -> None:
    precisions: tuple[Precision, ...] = ("fp16", "tf32")
    for name in precisions:
        with pytest.raises(DeviceError, match="only on a GPU"):
            choose_precision(name, CPU)
    assert choose_precision("auto", CPU) in {"fp32", "bf16"}


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9 has other names")
def test_fp32_is_what_was_asked_for_and_a_programs_own_choice_comes_back() -> None:
    conv, matmul = cast("Any", torch.backends.cudnn).conv, torch.backends.cuda.matmul
    before = conv.fp32_precision, matmul.fp32_precision
    try:
        for own in ("tf32", "ieee"):
            conv.fp32_precision = matmul.fp32_precision = own
            for asked in ("tf32", "ieee"):
                with fp32_products(tf32=asked == "tf32"):
                    assert (conv.fp32_precision, matmul.fp32_precision) == (asked, asked)
                    assert not matmul.allow_fp16_reduced_precision_reduction
                assert (conv.fp32_precision, matmul.fp32_precision) == (own, own)
    finally:
        conv.fp32_precision, matmul.fp32_precision = before
    with fp32_products(tf32=False):
        pass
    assert torch.get_float32_matmul_precision() == "highest"  # raises where old and new names were mixed
    assert matmul.allow_fp16_reduced_precision_reduction


def test_threads_that_want_other_flags_wait_for_each_other() -> None:
    has_conv = hasattr(torch.backends.cudnn, "conv")
    owner, name = (
        (torch.backends.cudnn.conv, "fp32_precision") if has_conv else (torch.backends.cudnn, "allow_tf32")  # type: ignore[attr-defined]
    )
    before = getattr(owner, name)
    is_in, may_leave, seen = threading.Event(), threading.Event(), []

    def with_tf32() -> None:
        with fp32_products(tf32=True):
            is_in.set()
            may_leave.wait(5)
            seen.append(getattr(owner, name))

    def without() -> None:
        is_in.wait(5)
        with fp32_products(tf32=False):
            may_leave.set()
            seen.append(getattr(owner, name))

    threads = [threading.Thread(target=target) for target in (with_tf32, without)]
    for thread in threads:
        thread.start()
    assert is_in.wait(5)
    threads[1].join(0.2)
    assert threads[1].is_alive()  # it waits for the flags
    may_leave.set()
    for thread in threads:
        thread.join(5)
    assert seen == (["tf32", "ieee"] if has_conv else [True, False])
    assert getattr(owner, name) == before


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((6, 0), "fp32"), ((6, 1), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((9, 0), "fp16")],
)
def test_auto_is_fp16_only_on_gpus_that_are_fast_at_it(
    capability: tuple[int, int], precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert choose_precision("auto", torch.device("cuda", 0)) == precision


def test_gpus_of_which_one_is_slow_at_fp16_run_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6 + device.index, 1))
    monkeypatch.setattr(torch.version, "hip", None)
    devices = [torch.device("cuda", i) for i in range(2)]
    assert common_precision("auto", devices) == "fp32"
    assert common_precision("auto", devices[1:]) == "fp16"
    assert common_precision("fp16", devices) == "fp16"


def test_a_gpu_without_units_for_bf16_is_asked_for_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7 + device.index, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"model {device.index}")
    monkeypatch.setattr(torch.version, "hip", None)
    old, new = torch.device("cuda", 0), torch.device("cuda", 1)
    asked: tuple[Precision, ...] = ("bf16", "tf32")
    for precision in asked:
        with pytest.raises(DeviceError, match=r"not in cuda:0 model 0.*use fp16"):
            choose_precision(precision, old)
        assert choose_precision(precision, new) == precision
    assert choose_precision("auto", old) == "fp16"


def test_a_gpu_that_does_not_answer_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(_: object) -> None:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")

    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lost)
    with pytest.raises(DeviceError, match="cuda:1: CUDA error: uncorrectable"):
        choose_precision("auto", torch.device("cuda", 1))
