"""``c3d-tools doctor``: versions, devices, codecs, caches, and what a run would use here."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import click

from c3d_extract.cli.common import EXIT_FATAL, guarded, put_json, show
from c3d_extract.cli.options import debug_option, json_option
from c3d_extract.cli.tables import show_facts

if TYPE_CHECKING:
    import torch

__all__ = ["command"]

_PACKAGES = ("c3d-extract", "torch", "torchvision", "av", "h5py", "numpy", "safetensors", "click", "rich")
_OPTIONAL = ("scikit-learn", "matplotlib", "fsspec", "s3fs", "pyarrow", "ray")
# cuDNN 9.8 to 9.14: 3-D convolutions in half precision are up to four times slower and can be silently
# wrong (pytorch#163539, #166122, #166643); repaired in 9.15. The bounds are those of torch's own guard,
# `ConvParams::use_cudnn` in aten/src/ATen/native/Convolution.cpp, which spares channels_last_3d.
_BAD_CUDNN = range(90800, 91500)


@click.command(name="doctor")
@json_option
@debug_option
@guarded
def command(*, as_json: bool, debug: bool) -> None:
    """Show versions, devices, codecs, caches and what would be used; exit 1 where something is wrong."""
    del debug
    problems: list[str] = []
    findings = {
        "packages": _packages(problems),
        "machine": _machine(),
        "devices": _devices(problems),
        "would use": _would_use(problems),
        "video": _video(problems),
        "weights": _weights(),
        "temporary": _temporary(problems),
    }
    if as_json:
        put_json({**findings, "problems": problems})
    else:
        _show(findings, problems)
    sys.exit(EXIT_FATAL if problems else 0)


def _packages(problems: list[str]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in (*_PACKAGES, *_OPTIONAL):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed (optional)" if name in _OPTIONAL else "missing"
            if name in _PACKAGES:
                problems.append(f"{name} is not installed: pip install {name}")
    if found["av"] != "missing" and int(found["av"].partition(".")[0]) < 17:
        problems.append(f"av {found['av']} converts 10-bit videos to other pixels: pip install -U 'av>=17'")
    return found


def _machine() -> dict[str, str]:
    from c3d_extract.compute.devices import usable_cores

    return {"system": platform.platform(), "cores": f"{usable_cores()} usable of {os.cpu_count()}"}


def _devices(problems: list[str]) -> dict[str, str]:
    import torch

    found = {"cpu": f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"}
    if torch.backends.mps.is_available():
        found["mps"] = "Metal"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found[f"cuda:{index}"] = _gpu(torch.device("cuda", index), problems)
        found["cuDNN"] = _cudnn(problems)
    return found


def _gpu(device: torch.device, problems: list[str]) -> str:
    """Return what a GPU is, and try the kind of work that it would get."""
    import torch

    from c3d_extract.compute.devices import device_errors
    from c3d_extract.errors import DeviceError

    try:
        with device_errors(device):
            facts = torch.cuda.get_device_properties(device)
    except DeviceError as error:
        problems.append(f"{device} cannot be used: {error.reason}")
        return "cannot be used"
    try:
        with device_errors(device):
            clip = torch.ones(1, 3, 4, 8, 8, dtype=torch.float16, device=device)
            torch.nn.functional.conv3d(clip, clip[..., :3, :3, :3]).sum().item()
    except DeviceError as error:
        problems.append(f"{device} cannot convolve: {error.reason}")
    memory = f"{facts.total_memory / 2**30:.0f} GiB"
    return f"{facts.name}, {memory}, compute capability {facts.major}.{facts.minor}"


def _cudnn(problems: list[str]) -> str:
    import torch

    try:
        version: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    except RuntimeError as error:  # another release than torch was built with, or none for GPUs this old
        problems.append(str(error).partition("\n")[0])
        return "cannot be used"
    if version in _BAD_CUDNN:
        problems.append(
            f"cuDNN {version} can be wrong in half-precision 3-D convolutions: "
            "use torch 2.10 or newer, or --precision fp32"
        )
    built = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    return f"{version or 'none'}, {built}"


def _would_use(problems: list[str]) -> dict[str, str]:
    from c3d_extract.compute.devices import choose_device
    from c3d_extract.compute.precision import choose_precision
    from c3d_extract.errors import DeviceError
    from c3d_extract.pipeline import suitable_workers

    device = choose_device("auto")
    try:
        precision: str = choose_precision("auto", device)
    except DeviceError as error:
        problems.append(str(error))
        precision = "unknown"
    return {
        "device": str(device),
        "precision": precision,
        "decoders": str(suitable_workers(device.type)),
    }


def _video(problems: list[str]) -> dict[str, str]:
    from c3d_extract.decode.self_check import HINT, why_unusable

    unusable = why_unusable()
    if unusable is not None:
        problems.append(f"{unusable}; {HINT}")
        return {"decoders": "cannot be used"}
    from c3d_extract.decode import codec_report
    from c3d_extract.preprocess.resize import FrameSampler

    report = codec_report()
    missing = [name for name, there in report.items() if not there]
    if "h264" in missing:
        problems.append("this build of av has no H.264 decoder: pip install --force-reinstall av")
    here = [name for name in report if name not in missing]
    slow = "NumPy: slower, the same pixels; with a C compiler, install c3d-extract again"
    return {
        "decoders": ", ".join(here),
        "not in this build": ", ".join(missing) or "-",
        "loops over pixels": "compiled" if FrameSampler.compiled else slow,
    }


def _weights() -> dict[str, str]:
    from c3d_extract.weights import cache_folder, local_path
    from c3d_extract.weights.registry import listed_entries

    here = [name for name, record in listed_entries().items() if local_path(record) is not None]
    return {
        "cache": str(cache_folder()),
        "on this machine": ", ".join(here) or "none; see c3d-tools weights list",
    }


def _temporary(problems: list[str]) -> dict[str, str]:
    """Return what is free where processes can share memory; only systems without memfd need it for that."""
    found = {}
    for folder in ("/dev/shm", "/tmp"):  # noqa: S108 - looked at, not written to
        if os.path.isdir(folder):  # noqa: PTH112
            free = shutil.disk_usage(folder).free / 2**20
            found[folder] = f"{free:,.0f} MiB free"
            if free < 64 and not hasattr(os, "memfd_create"):
                problems.append(f"{folder} has only {free:.0f} MiB free; decoders share memory through it")
    return found


def _show(findings: dict[str, dict[str, str]], problems: list[str]) -> None:
    show_facts(findings)
    for problem in problems:
        show(f"problem: {problem}")
    if not problems:
        show("No problems found.")
