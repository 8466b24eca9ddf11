"""Loads damaged copies of a checkpoint in a process of its own: ``checkpoint_fuzz.py FOLDER N WRITER...``.

Prints JSON, by writer: how many loaded, how many ended in a WeightsError, every other exception, and by
how much the memory grew. The address space is limited, so that an allocation that a
wrong header asks for fails and counts.
"""

from __future__ import annotations

import json
import random
import resource
import struct
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from checkpoint_writers import WRITERS, caffe_model, python2_pickle, random_state, res3d_layers, vmz_blobs

from c3d_extract.errors import WeightsError
from c3d_extract.models.c3d import ARCHITECTURES
from c3d_extract.preprocess.spec import Preprocessing
from c3d_extract.weights import load_checkpoint, save_checkpoint

TINY = replace(ARCHITECTURES["c3d"].scaled(1 / 512), n_classes=5)  # 4 filters and 8 outputs a layer
FLOOR = replace(TINY, pool5="floor")
HEADROOM = 1 << 30  # bytes of address space beyond what is used before the first load
LARGE = {"Res3D-18"}
"""Files of 130 MB, as their network has one size only: four are tried unless 1,000 are asked for."""


def write_native(path: Path) -> None:
    state = {name: torch.from_numpy(array) for name, array in random_state(TINY.state_shapes()).items()}
    save_checkpoint(path, state, TINY, Preprocessing(), np.array([1.0, 2.0, 3.0]), name="tiny")


def written(path: Path, writer: str) -> tuple[str | None, list[np.ndarray]]:
    """Write a whole checkpoint; return the order of fc6 to ask for, and the arrays that are in it."""
    arrays = list(random_state(TINY.state_shapes()).values())
    if writer == "native":
        write_native(path)
    elif writer == "VMZ":
        blobs = vmz_blobs(random_state(FLOOR.state_shapes()))
        path.write_bytes(python2_pickle(blobs))
        arrays = list(blobs.values())
    elif writer == "Res3D-18":
        layers = res3d_layers()
        path.write_bytes(caffe_model(layers))
        arrays = [blob for blobs in layers.values() for blob in blobs]
    else:
        _, order, write = WRITERS[writer]
        write(path, random_state(TINY.state_shapes()))
        return order, arrays
    return None, arrays


def structure(original: bytes, arrays: list[np.ndarray]) -> list[int]:
    """Positions outside the long runs of weights, which say nothing."""
    outside = np.ones(len(original), bool)
    for content in (array.tobytes() for array in arrays if array.nbytes > 16):
        start = original.find(content)
        while start >= 0:
            outside[start : start + len(content)] = False
            start = original.find(content, start + len(content))
    return [int(position) for position in np.flatnonzero(outside)]


def damaged(original: bytes, positions: list[int], rng: random.Random) -> bytes | bytearray:
    if rng.random() < 0.15:
        return original[: rng.randrange(len(original))]
    data = bytearray(original)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = min(rng.choice(positions), len(data) - 32)
        match rng.randrange(6):
            case 0 | 1:
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                data[at : at + 4] = b"\xff" * 4
            case 3:
                data[at : at + 8] = struct.pack("<Q", rng.choice((0, 1 << 31, 1 << 33, 1 << 40, 1 << 63)))
            case 4:
                del data[at : at + rng.randrange(1, 20)]
            case _:
                data[at:at] = rng.randbytes(rng.randrange(1, 20))
    return data


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def limit_address_space() -> None:
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, resource.RLIM_INFINITY))


def fuzz(folder: Path, writer: str, n: int) -> dict[str, object]:
    path = folder / "checkpoint"
    order, arrays = written(path, writer)
    original, rng = path.read_bytes(), random.Random(writer)
    positions = structure(original, arrays)
    del arrays  # the address space is for the loader
    load_checkpoint(path, mean="1,2,3", fc6_order=order)  # type: ignore[arg-type]
    path.write_bytes(damaged(original, positions, random.Random(0)))  # as large as the others
    before = peak_mib()
    loaded, refused, others = 0, 0, []
    n = n if writer not in LARGE or n >= 1000 else 4
    for _ in range(n):
        path.write_bytes(damaged(original, positions, rng))
        try:
            load_checkpoint(path, mean="1,2,3", fc6_order=order)  # type: ignore[arg-type]
            loaded += 1
        except WeightsError as error:
            refused += 1
            text = str(error)
            if any(sign in text for sign in ("\n", "MemoryError", "not enough memory", "can't allocate")):
                others.append(text)
        except Exception as error:  # noqa: BLE001  # what the test is about
            others.append(f"{type(error).__name__}: {error}")
    return {"loaded": loaded, "refused": refused, "n": n, "others": others, "grew_mib": peak_mib() - before}


def main(folder: Path, n: int, writers: list[str]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    for name, (_, order, write) in WRITERS.items():  # everything that is imported late is imported now
        write(folder / "checkpoint", random_state(TINY.state_shapes()))
        assert load_checkpoint(folder / "checkpoint", mean="1,2,3", fc6_order=order).state, name  # type: ignore[arg-type]
    limit_address_space()
    print(json.dumps({writer: fuzz(folder, writer, n) for writer in writers}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
