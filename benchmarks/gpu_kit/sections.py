"""The table of all sections, in the order of their importance, and the process that works through them."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
import traceback
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gpu_kit.report import NotPossible, Section, one_line, save_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpu_kit.kit import Kit

DEVICE_LOST, CANNOT_BEGIN = 3, 4  # exit codes: the device answers no more in this process, or nothing can run
PACKAGES = (
    "c3d-extract",
    "torch",
    "torchvision",
    "triton",
    "av",
    "h5py",
    "numpy",
    "click",
    "rich",
    "safetensors",
)


class Entry(NamedTuple):
    """A section: its title, most seconds that it may take, and least that must be left to begin."""

    title: str
    limit: float
    needs: float


SECTIONS = {
    "machine": Entry("The machine", 60, 0),
    "precisions": Entry("fc6 in every precision", 90, 5),
    "overflow": Entry("Overflow in fp16", 40, 5),
    "batches": Entry("Batch sizes", 60, 5),
    "memory": Entry("Too little memory", 40, 5),
    "resume": Entry("Interrupted and resumed", 60, 10),
    "network": Entry("The network's rate", 75, 10),
    "videos": Entry("End to end over videos", 100, 15),
    "gaps": Entry("Idle time of the device", 40, 10),
    "training": Entry("Training", 50, 10),
    "layouts": Entry("Layouts and CUDA graphs", 60, 10),
    "compile": Entry("torch.compile", 100, 25),
}
"""Numbers first, then rates. In small a section needs no time to begin."""


def _functions() -> dict[str, Callable[[Kit, Section], None]]:
    from gpu_kit import checks, speed, videos

    return {
        "machine": machine,
        "precisions": checks.precisions,
        "overflow": checks.overflow,
        "batches": checks.batch_sizes,
        "memory": checks.little_memory,
        "resume": videos.resumed,
        "network": speed.network_rates,
        "videos": videos.end_to_end,
        "gaps": videos.idle_gaps,
        "training": speed.training,
        "layouts": speed.layouts_and_graphs,
        "compile": speed.compiled,
    }


def machine(kit: Kit, section: Section) -> None:
    """Say what this is, and ask the package's doctor about the device."""
    for name, value in _facts(kit).items():
        section.row("machine", what=name, value=value)
    kit.need_videos()  # the doctor imports PyAV
    from click.testing import CliRunner

    from c3d_extract.cli.doctor import command

    result = CliRunner().invoke(command, ["--json"])
    problems = (
        json.loads(result.stdout)["problems"] if result.stdout.startswith("{") else [str(result.exception)]
    )
    for problem in problems:
        section.row("what doctor says", problem=problem)
    about_device = [text for text in problems if str(kit.device) in text or "cuDNN" in text]
    section.check(
        "c3d-tools doctor has nothing against the device", not about_device, "; ".join(about_device)
    )


def _facts(kit: Kit) -> dict[str, Any]:
    import torch

    from c3d_extract.compute.devices import device_name, usable_cores

    found: dict[str, Any] = {
        "device": device_name(kit.device),
        "precisions": f"{', '.join(kit.precisions)}; auto: {kit.auto}",
        "system": platform.platform(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "compiled loops": find_spec("c3d_extract._kernels") is not None,
    }
    if kit.is_cuda:
        facts = torch.cuda.get_device_properties(kit.device)
        found |= {
            "memory": f"{facts.total_memory / 2**30:.1f} GiB",
            "compute capability": f"{facts.major}.{facts.minor}",
            "multiprocessors": facts.multi_processor_count,
            "CUDA": torch.version.cuda or torch.version.hip,
            "cuDNN": torch.backends.cudnn.version(),
            "driver": _driver(),
        }
    return found | {name: _version(name) for name in PACKAGES}


def _driver() -> str:
    """Return the driver's version, and the limits that bear on rates, of each GPU."""
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    query = "--query-gpu=driver_version,power.limit,clocks.max.sm"
    words = ["nvidia-smi", query, "--format=csv,noheader"]
    found = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20)
    return found.stdout.strip().replace("\n", "; ") or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def work_through(folder: Path) -> int:
    """Run the sections that ``todo.json`` in the folder names; return the exit code of this process."""
    try:
        from c3d_extract.decode.process import end_with_parent
        from c3d_extract.errors import DeviceError
        from gpu_kit.kit import DeviceLost, Kit
    except ImportError as error:
        print(f"Error: {error}; install c3d-extract for {sys.executable}", file=sys.stderr)
        return CANNOT_BEGIN
    end_with_parent(os.getppid())
    words = json.loads((folder / "todo.json").read_text("utf-8"))
    real = Path(words["videos"]) if words["videos"] else None
    try:
        kit = Kit(words["device"], small=words["small"], folder=folder, real_videos=real)
    except DeviceError as error:
        print(f"Error: {error}", file=sys.stderr)
        return CANNOT_BEGIN
    functions = _functions()
    for name in words["sections"]:
        try:
            _run_one(kit, name, functions[name], words["ends"], folder)
        except DeviceLost:
            return DEVICE_LOST
    return 0


def _run_one(
    kit: Kit, name: str, function: Callable[[Kit, Section], None], ends: float, folder: Path
) -> None:
    from gpu_kit.kit import DeviceLost

    entry, now = SECTIONS[name], time.monotonic()
    section = Section(name, entry.title, began=now, save=save_in(folder))
    if not kit.small and ends - now < entry.needs:
        section.end("skipped", "no time left")
        return
    section.save(section)
    kit.section_ends = min(now + entry.limit, ends)
    try:
        function(kit, section)
    except NotPossible as error:
        section.end("skipped", str(error))
    except DeviceLost as error:
        section.end("failed", str(error))
        raise
    except Exception as error:  # noqa: BLE001 - one failure must not stop the rest
        traceback.print_exc()
        section.end("failed", one_line(error))
        kit.check_alive(error)
        kit.free()
    else:
        section.end()
