"""Whether the numbers are right: precisions, batch sizes, overflow, too little memory."""

from __future__ import annotations

import contextlib
import dataclasses
from math import prod
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
import torch

from c3d_extract.compute import network as network_module
from c3d_extract.compute.forward import ClipInput, input_weights
from c3d_extract.compute.precision import DTYPES
from c3d_extract.compute.reference import Fp32Reference
from gpu_kit.kit import LARGEST_ERROR, LAYERS, MEAN, cosine, relative
from gpu_kit.report import NotPossible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from c3d_extract.compute.network import Network
    from c3d_extract.settings import Precision
    from c3d_extract.weights import Checkpoint
    from gpu_kit.kit import Kit
    from gpu_kit.report import Section

CPU = torch.device("cpu")
LARGEST_HALF = 65504.0  # of fp16
LOUD = 60  # times as much contrast as a faint clip has


def fp32_on_cpu(checkpoint: Checkpoint, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return fc6 by plain fp32 convolutions on the CPU, float32 (N, D)."""
    to_input = ClipInput(checkpoint.mean[None], checkpoint.preprocessing.std, CPU)
    weights = input_weights(checkpoint, LAYERS)
    return Fp32Reference(checkpoint.backbone, LAYERS, weights, to_input, CPU)(clips)["fc6"]


def precisions(kit: Kit, section: Section) -> None:
    """Compare fc6 in every precision with fp32 on the CPU."""
    for name, checkpoint in (("c3d", kit.checkpoint), ("motion-mini", kit.motion_mini)):
        clips = kit.clips(checkpoint, kit.sizes.clips)
        right = fp32_on_cpu(checkpoint, clips)
        for precision in kit.within_time(section, kit.precisions, f"fc6 of {name}"):
            with kit.attempt(section, f"fc6 of {name} in {precision}"):
                found = kit.network(precision, checkpoint=checkpoint)(clips)["fc6"]
                _compare(section, name, precision, found, right)
            kit.free()
    for precision in LARGEST_ERROR:
        if precision not in kit.precisions:
            section.skip(f"fc6 in {precision}", f"not on {kit.device}")


def _compare(
    section: Section,
    name: str,
    precision: Precision,
    found: NDArray[np.float32],
    right: NDArray[np.float32],
) -> None:
    errors = relative(found, right)
    section.row(
        "fc6 against fp32 on the CPU, relative error of a clip",
        network=name,
        precision=precision,
        clips=len(found),
        median=float(np.median(errors)),
        largest=float(errors.max()),
        bound=LARGEST_ERROR[precision],
        one_minus_cosine=float(1 - cosine(found, right).min()),
    )
    within = bool(errors.max() <= LARGEST_ERROR[precision])
    section.check(f"fc6 of {name} in {precision} is within rounding", within, f"{errors.max():.2g}")


def batch_sizes(kit: Kit, section: Section) -> None:
    """Compare batches of several sizes, and one clip at several places of a batch."""
    clips = kit.clips(kit.checkpoint, max(kit.sizes.clips, 8))
    right = fp32_on_cpu(kit.checkpoint, clips)
    pairs = [(precision, size) for precision in kit.precisions for size in kit.sizes.batches]
    for precision, size in kit.within_time(section, pairs, "batches"):
        with kit.attempt(section, f"batches of {size} in {precision}"):
            _one_batch_size(section, kit.network(precision, size), clips, right)
        kit.free()


def _one_batch_size(
    section: Section, network: Network, clips: NDArray[np.uint8], right: NDArray[np.float32]
) -> None:
    found = network(clips)["fc6"]
    turned = np.roll(network(np.roll(clips, 3, axis=0))["fc6"], -3, axis=0)
    alone = np.concatenate([network(clips[i : i + 1])["fc6"] for i in (0, len(clips) - 1)])
    error = float(relative(found, right).max())
    same = np.array_equal(found, turned) and np.array_equal(alone, found[[0, -1]])
    name = f"{network.precision}, batch {network.batch_size}"
    section.row(
        "batch sizes",
        precision=network.precision,
        batch=network.batch_size,
        largest_error=error,
        same_bits_at_every_place=same,
    )
    section.check(
        f"{name}: fc6 is within rounding", error <= LARGEST_ERROR[network.precision], f"{error:.2g}"
    )
    section.check(f"{name}: a clip's bits do not depend on its place or its company", same)


def overflow(kit: Kit, section: Section) -> None:
    """Let some clips of a batch overflow in fp16: they must be done again in fp32, and no others.

    Not by way of `choose_precision`, which allows fp16 on GPUs alone: small networks run in it on a CPU too.
    """
    _need_fp16(kit)
    clips, loud = _faint_and_loud(kit)
    checkpoint = _loud_network(kit, clips)
    right = fp32_on_cpu(checkpoint, clips)
    network = kit.network("fp16", 4, checkpoint=checkpoint)
    found = network(clips)["fc6"]
    errors = relative(found, right)
    section.row(
        "fp16 with fc6 beyond 65504",
        clips=len(clips),
        loud=int(loud.sum()),
        done_again=network.n_overflowed,
        error_loud=float(errors[loud].max()),
        error_faint=float(errors[~loud].max()),
    )
    section.check("fp32 itself is beyond the range of fp16", bool(np.abs(right[loud]).max() > LARGEST_HALF))
    section.check("every feature is finite", bool(np.isfinite(found).all()))
    again = network.n_overflowed == loud.sum()
    section.check("the loud clips were done again, no others", bool(again), f"{network.n_overflowed} clips")
    exact = errors[loud].max() <= LARGEST_ERROR["fp32"] and errors[~loud].max() <= LARGEST_ERROR["fp16"]
    section.check("loud clips have fp32's features, the others fp16's", bool(exact))
    told = any("overflowed in fp16" in warning for warning in network.warnings)
    section.check("the network says so", told, "; ".join(network.warnings))


def _need_fp16(kit: Kit) -> None:
    if kit.is_cuda:
        return
    if not kit.small:
        raise NotPossible("fp16 of the full network is for GPUs")
    try:
        torch.conv3d(torch.ones(1, 3, 4, 8, 8).half(), torch.ones(1, 3, 3, 3, 3).half())
    except RuntimeError as error:
        raise NotPossible("this torch has no fp16 convolution on this CPU") from error


def _faint_and_loud(kit: Kit) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return clips uint8 (8, T, H, W, 3) around the mean, every other one loud, and which are."""
    shape = (8, kit.architecture.clip[0], *kit.checkpoint.preprocessing.crop, 3)
    noise = np.random.default_rng(1).integers(-1, 2, shape)
    loud = np.arange(len(noise)) % 2 == 1
    contrast = np.where(loud, LOUD, 1)[:, None, None, None, None]
    return (MEAN + contrast * noise).astype(np.uint8), loud


def _loud_network(kit: Kit, clips: NDArray[np.uint8]) -> Checkpoint:
    """Scale fc6 so that the loudest clip reaches 8 times fp16's range; a faint one stays far within it."""
    largest = float(np.abs(fp32_on_cpu(kit.checkpoint, clips)).max())
    state = dict(kit.checkpoint.state)
    state["fc6.weight"] = state["fc6.weight"] * (8 * LARGEST_HALF / largest)
    return dataclasses.replace(kit.checkpoint, state=state)


def little_memory(kit: Kit, section: Section) -> None:
    """Take away memory: batches must be halved, and features stay what they were."""
    if not (kit.is_cuda or kit.small):
        raise NotPossible("nothing limits memory on a CPU")
    for precision in kit.within_time(section, kit.main_precisions, "too little memory"):
        with kit.attempt(section, f"too little memory in {precision}"):
            _with_little_memory(kit, section, precision)
        kit.free()


def _with_little_memory(kit: Kit, section: Section, precision: Precision) -> None:
    size = max(kit.sizes.batches)
    clips = np.tile(kit.clips(kit.checkpoint, 4), (size // 4, 1, 1, 1, 1))
    kit.free()
    right = kit.network(precision, size)(clips)["fc6"]
    peak = kit.peak_gib()
    kit.free()
    network = kit.network(precision, size)
    with _less_memory(kit, precision, size):
        found = network(clips)["fc6"]
    error = float(relative(found, right).max())
    section.row(
        "too little memory" if _has_limit(kit) else "too little memory (the error is raised by this program)",
        precision=precision,
        batch_before=size,
        batch_after=network.batch_size,
        peak_gib=peak,
        largest_difference=error,
    )
    section.check(f"{precision}: batches are smaller", network.batch_size < size, f"{network.batch_size}")
    section.check(f"{precision}: features are equal within rounding", error <= LARGEST_ERROR[precision])
    told = any("out of memory" in warning for warning in network.warnings)
    section.check(f"{precision}: the network says so", told, "; ".join(network.warnings))


def _has_limit(kit: Kit) -> bool:
    """Whether torch can limit memory, and so that a batch notices: the maps of a small network fit anywhere."""
    return kit.is_cuda and not kit.small


@contextlib.contextmanager
def _less_memory(kit: Kit, precision: Precision, size: int) -> Iterator[None]:
    """Leave memory for six tenths of conv1a's output of a batch of ``size``, beside what is in use."""
    if not _has_limit(kit):
        with _no_batch_above(size // 2):
            yield
        return
    kit.free()
    maps = size * prod(kit.architecture.map_shapes()["conv1a"]) * DTYPES[precision].itemsize
    total = torch.cuda.get_device_properties(kit.device).total_memory
    allowed = torch.cuda.memory_reserved(kit.device) + 0.6 * maps
    torch.cuda.set_per_process_memory_fraction(allowed / total, kit.device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, kit.device)


def _no_batch_above(most: int) -> contextlib.AbstractContextManager[object]:
    whole = network_module.forward

    def limited(model: torch.nn.Module, x: torch.Tensor, layers: tuple[str, ...]) -> dict[str, torch.Tensor]:
        if len(x) > most:
            raise torch.OutOfMemoryError("out of memory")
        return whole(model, x, layers)

    return mock.patch.object(network_module, "forward", limited)
