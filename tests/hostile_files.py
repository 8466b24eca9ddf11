"""HDF5 files that a stranger might hand us: copies of real ones, each with one thing wrong.

``python hostile_files.py FOLDER SEED N`` flips bits of the three kinds of file and reads each copy with
every command that reads one; what is neither success nor one line of ours is printed.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from click.testing import CliRunner
from store_samples import identity, open_store, record, video_row

from c3d_extract.cli import classify, info, pca
from c3d_extract.errors import C3DError
from c3d_extract.output import FeatureFile, fit_basis, load_basis

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = [f"{folder}/v{i}.avi" for folder in ("hug", "kick") for i in range(6)]


def write_originals(folder: Path) -> None:
    """Write ``feats.h5``, ``clips.h5`` (with ``with_clips.h5``) and ``basis.h5``, as our commands do."""
    for name, clips in (("feats", None), ("with_clips", folder / "clips.h5")):
        with open_store(folder / f"{name}.h5", identity(), clips=clips) as store:
            for video in NAMES:
                record(store, video_row(video))
            store.finish(complete=True)
    fit_basis(folder / "feats.h5", 3, folder / "basis.h5")


def _replaced(name: str, data: Any = None, **how: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        shape = file[name].shape
        del file[name]
        if data is None and "shape" not in how:
            how["shape"] = shape
        file.create_dataset(name, data=data, **how)

    return change


def _typed(name: str, dtype: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        values = np.zeros(file[name].shape, dtype)
        del file[name]
        file.create_dataset(name, data=values, dtype=dtype)

    return change


def _attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file.attrs[name] = value

    return change


def _json(name: str, **changes: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file.attrs[name] = json.dumps(json.loads(file.attrs[name]) | changes)

    return change


def _without(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file.attrs:
            del file.attrs[name]
        else:
            del file[name]

    return change


def _link(name: str, link: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = link

    return change


def _names(names: list[Any]) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        for i, name in enumerate(names):
            file["video"][i] = name

    return change


def _resized(name: str, *shape: int) -> Callable[[h5py.File], None]:
    return lambda file: file[name].resize(shape)


def _external_storage(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        size = int(np.prod(shape)) * dtype.itemsize
        file.create_dataset(name, shape, dtype, external=[("/etc/passwd", 0, size)])

    return change


def _virtual(name: str, source: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        layout = h5py.VirtualLayout(shape, dtype, maxshape=(None, *shape[1:]))
        # Without end: to say its shape, HDF5 would open the source.
        unlimited = h5py.h5s.UNLIMITED
        layout[0:unlimited] = h5py.VirtualSource(source, "x", shape, maxshape=(None, *shape[1:]))[0:unlimited]
        file.create_virtual_dataset(name, layout)

    return change


def _plugin_filter(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        shape = file[name].shape
        del file[name]
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_chunk((1, *shape[1:]))
        how.set_filter(32013, h5py.h5z.FLAG_OPTIONAL, (1,))  # zfp, which h5py does not bring
        space = h5py.h5s.create_simple(shape)
        h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F32LE, space, how)

    return change


def _deflated_bomb(file: h5py.File) -> None:
    del file["fc6"]
    file.create_dataset("fc6", (10**9, 12), "f4", chunks=(10**5, 12), compression="gzip")[0:10] = 0


def _object(kind: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file["fc6"]
        if kind == "group":
            file.create_group("fc6")["fc6"] = file["/"]
        elif kind == "type":
            file["fc6"] = np.dtype("f4")
        elif kind == "reference":
            file.create_dataset("fc6", (12, 12), h5py.ref_dtype)
        elif kind == "scalar":
            file["fc6"] = np.float32(1)
        else:
            file["fc6"] = h5py.Empty("f4")

    return change


def _strange_names(file: h5py.File) -> None:
    """Put names in the place of ``video`` that are not UTF-8, or would fool a terminal."""
    del file["video"]
    for name in (b"\xff\xfe", b"\x1b[31m\n", "\u202ecod.exe".encode()):
        h5py.h5g.create(file.id, name)


def _raw_names(names: list[bytes]) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file["video"]
        dtype = h5py.string_dtype("ascii")
        file.create_dataset("video", (len(names),), dtype, chunks=(1024,), maxshape=(None,))[:] = names

    return change


def _time_attribute(file: h5py.File) -> None:
    del file.attrs["settings"]
    h5py.h5a.create(file.id, b"settings", h5py.h5t.UNIX_D32LE, h5py.h5s.create(h5py.h5s.SCALAR))


def _in_layer(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file["fc6"].attrs:
            file["fc6"].attrs[name] = value
        elif value is None:
            del file["fc6"][name]
        else:
            file["fc6"][name][...] = value

    return change


DEEP = "[" * 100_000 + "]" * 100_000
TABLES: dict[str, Callable[[h5py.File], Any]] = {
    # Names of other files.
    "external link": _link("fc6", h5py.ExternalLink("feats.h5", "/fc6")),
    "external link to a fifo": _link("fc6", h5py.ExternalLink("fifo", "/fc6")),
    "external link beside": _link("more", h5py.ExternalLink("/etc/passwd", "/")),
    "external link for video": _link("video", h5py.ExternalLink("fifo", "/video")),
    "soft link": _link("fc6", h5py.SoftLink("/fc7")),
    "dangling soft link": _link("n_clips", h5py.SoftLink("/none")),
    "soft link to itself": _link("fc6", h5py.SoftLink("/fc6")),
    "external storage": _external_storage("fc6"),
    "external storage of video": _external_storage("n_clips"),
    "virtual dataset": _virtual("fc6", "feats.h5"),
    "virtual dataset of a fifo": _virtual("fc6", "fifo"),
    "virtual column of a fifo": _virtual("fps", "fifo"),
    "plug-in filter": _plugin_filter("fc6"),
    # Sizes that are lies.
    "a million million rows": lambda file: [file[name].resize(10**12, axis=0) for name in file],
    "more rows than stored": _resized("fc6", 10**9, 12),
    "a wide layer that is not there": lambda file: (
        _replaced("fc6", None, shape=(12, 1 << 28), dtype="f4", chunks=(1, 1 << 20))(file),
        _json("layers", fc6=1 << 28)(file),
    ),
    "a bomb": _deflated_bomb,
    "one video less": _resized("video", 11),
    "one value less": _resized("mtime_ns", 11),
    "no rows in one layer": _resized("fc7", 0, 5),
    "layers larger than the dataset": _json("layers", fc6=13),
    "layers smaller than the dataset": _json("layers", fc6=11),
    # Datasets of another kind.
    "group for a layer": _object("group"),
    "type for a layer": _object("type"),
    "references for a layer": _object("reference"),
    "scalar for a layer": _object("scalar"),
    "empty for a layer": _object("empty"),
    "group for video": lambda file: (_without("video")(file), file.create_group("video")),
    "float64 layer": _typed("fc6", "f8"),
    "half layer": _typed("fc6", "f2"),
    "integers for a layer": _typed("fc6", "i4"),
    "complex layer": _typed("fc6", "c8"),
    "truth values for a layer": _typed("fc6", "?"),
    "structures for a layer": _typed("fc6", [("a", "f4"), ("b", "f4")]),
    "opaque layer": _typed("fc6", "V4"),
    "text for a layer": _typed("fc6", "S4"),
    "enumeration for a column": _replaced("width", dtype=h5py.enum_dtype({"a": 1, "b": 2}, "i4")),
    "lists for a column": _replaced("n_clips", dtype=h5py.vlen_dtype("i8")),
    "text for a column": _replaced("n_clips", dtype=h5py.string_dtype()),
    "big-endian layer": _typed("fc6", ">f4"),
    "layer of one axis": _replaced("fc6", np.zeros(12, "f4")),
    "layer of three axes": _replaced("fc6", np.zeros((12, 12, 1), "f4")),
    "column of two axes": _replaced("fps", np.zeros((12, 1))),
    "scalar column": _replaced("fps", np.float64(1)),
    "numbers for video": _replaced("video", np.arange(12)),
    "bytes for video": _replaced("video", np.array([n.encode() for n in NAMES], "S20")),
    "video of two axes": _replaced("video", shape=(12, 1), dtype=h5py.string_dtype()),
    "compressed video": _replaced("video", NAMES, dtype=h5py.string_dtype(), compression="gzip"),
    # Rows.
    "duplicate video": _names([NAMES[1]]),
    "unsorted video": _names(["zzz"]),
    "video that is not UTF-8": _raw_names([b"a/\xff\xfe.avi", *[n.encode() for n in NAMES[1:]]]),
    "video of megabytes": _raw_names([n.encode() for n in NAMES[:-1]] + [b"z" * (1 << 20)]),
    # What is not there, and what is too much.
    "no video": _without("video"),
    "strange names instead of video": _strange_names,
    "no layer": _without("fc6"),
    "no column": _without("mtime_ns"),
    "no columns at all": lambda file: [file.pop(name) for name in list(file)],
    "two thousand things": lambda file: [file.create_group(f"g{i}") for i in range(2000)],
    "layer that is not there": _json("layers", fc8=4),
    "column named as a layer": _json("layers", n_clips=1),
    "video named as a layer": _json("layers", video=1),
    "layer with a path": _json("layers", **{"../fc6": 12}),
    "layer with a NUL": _json("layers", **{"fc6\0": 12}),
    "a thousand layers": _json("layers", **{f"l{i}": 1 for i in range(1000)}),
    # Attributes.
    "no format": _without("format"),
    "no layers": _without("layers"),
    "empty layers": _attribute("layers", "{}"),
    "a list of layers": _attribute("layers", '["fc6", "fc7"]'),
    "a number for layers": _attribute("layers", 4),
    "layers of text": _json("layers", fc6="twelve"),
    "layers below zero": _json("layers", fc6=-12),
    "layers without end": _attribute("layers", '{"fc6": 1e999}'),
    "deep layers": _attribute("layers", DEEP[:65_000]),
    "settings that are not JSON": _attribute("settings", '{"stride": 16'),
    "number for settings": _attribute("settings", 1.5),
    "list for settings": _attribute("settings", "[1, 2]"),
    "array for settings": _attribute("settings", np.arange(4)),
    "time for settings": _time_attribute,
    "reference for settings": lambda file: file.attrs.create("settings", file.ref, dtype=h5py.ref_dtype),
    "empty settings": _attribute("settings", h5py.Empty("f4")),
    "settings that are not UTF-8": _attribute("settings", np.bytes_(b'{"\xff": 1}')),
    "settings that are not finite": _attribute("settings", '{"fps": NaN}'),
    "text for weights": _attribute("weights", "sports1m"),
    "weights that are nested": _attribute("weights", '{"weights_sha256": {"a": [[[[1]]]]}}'),
    "number for the run": _attribute("run_id", 7),
    "text for complete": _attribute("complete", "yes"),
    "version of the future": _attribute("format_version", 99),
    "version that is no number": _attribute("format_version", "1"),
    "version that is not finite": _attribute("format_version", float("nan")),
    "kind of another": _attribute("kind", "pca"),
    "kind that is unknown": _attribute("kind", "x\x1b[31m\ny"),
    "number for kind": _attribute("kind", 3),
    "number for the basis": _attribute("pca_sha256", 3),
    "sizes of nothing": _attribute("layer_sizes", '{"fc6": null}'),
}
"""What is wrong → how a feature or clip file is made so. Each must be refused by name or do no harm."""

BASES: dict[str, Callable[[h5py.File], Any]] = {
    "external link": _link("fc6", h5py.ExternalLink("fifo", "/fc6")),
    "external link inside": lambda file: (
        file["fc6"].pop("mean"),
        file["fc6"].__setitem__("mean", h5py.ExternalLink("fifo", "/x")),
    ),
    "external storage": lambda file: _external_storage("mean")(file["fc6"]),
    "virtual dataset": lambda file: _virtual("mean", "fifo")(file["fc6"]),
    "NaN in the mean": _in_layer("mean", np.nan),
    "infinity in the components": _in_layer("components", np.inf),
    "huge components": _in_layer("components", 1e300),
    "no mean": _in_layer("mean", None),
    "no layers": lambda file: [file.pop(name) for name in list(file)],
    "layer that is an array": lambda file: (file.pop("fc6"), file.__setitem__("fc6", np.zeros(3))),
    "layer that is the file": lambda file: (file.pop("fc6"), file.__setitem__("fc6", file["/"])),
    "text for the mean": lambda file: (file["fc6"].pop("mean"), file["fc6"].__setitem__("mean", "text")),
    "mean of another length": lambda file: (
        file["fc6"].pop("mean"),
        file["fc6"].__setitem__("mean", np.zeros(5)),
    ),
    "no components": lambda file: (
        file["fc6"].pop("components"),
        file["fc6"].__setitem__("components", np.zeros((0, 12))),
    ),
    "huge components that are not there": lambda file: (
        file["fc6"].pop("components"),
        file["fc6"].create_dataset("components", (1 << 20, 1 << 20), "f8", chunks=(1024, 1024)),
    ),
    "text for n_samples": _in_layer("n_samples", "many"),
    "array for n_samples": _in_layer("n_samples", np.arange(3)),
    "NaN for the variance": _in_layer("total_variance", np.nan),
    "number for the sum": _attribute("sha256", 3),
    "another sum": _attribute("sha256", "00" * 32),
    "settings that are a list": _attribute("settings", "[]"),
    "weights that are text": _attribute("weights", "x"),
    "deep settings": _attribute("settings", DEEP[:65_000]),
}


def make(folder: Path, kind: str, change: Callable[[h5py.File], Any]) -> Path:
    """Copy the file of that kind into ``folder`` and change it."""
    path = folder / "hostile.h5"
    path.write_bytes((folder / f"{kind}.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def _run(command: Any, *words: object) -> None:
    """Call a command as a user does; AssertionError unless it succeeds, or fails in one line."""
    result = CliRunner().invoke(command, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code:
        assert result.stderr.startswith("Error: "), result.output
        assert result.stderr.count("\n") == 1, result.stderr
        assert result.stderr[:-1].isprintable(), result.stderr
        raise C3DError(result.stderr)
    assert "\x1b" not in result.output


def _resume(path: Path) -> None:
    with open_store(path, identity()) as store:
        record(store, video_row("m/new.avi"))
        store.finish(complete=True)
    with FeatureFile(path) as file:
        assert "m/new.avi" in file.videos


def _resume_clips(path: Path) -> None:
    """Go on with a healthy feature file and this clip file."""
    features = path.with_name("resumed.h5")
    features.write_bytes(path.with_name("with_clips.h5").read_bytes())
    with open_store(features, identity(), clips=path) as store:
        record(store, video_row("m/new.avi"))
        store.finish(complete=True)


def _project_with(path: Path) -> None:
    basis = load_basis(path)
    with open_store(path.with_name("projected.h5"), identity(), basis=basis, overwrite=True) as store:
        record(store, video_row("m/new.avi"))
        store.finish(complete=True)


def _read(path: Path) -> None:
    with FeatureFile(path) as file:
        list(file.rows())
        list(file.scalars())


READERS: dict[str, Callable[[Path], None]] = {
    "info": lambda path: _run(info.command, path),
    "info --json": lambda path: _run(info.command, path, "--json"),
    "classify": lambda path: _run(classify.command, path),
    "pca fit": lambda path: _run(
        pca.command, "fit", path, "-k", 2, "-o", path.with_name("b.h5"), "--overwrite"
    ),
    "pca apply": lambda path: _run(
        pca.command,
        "apply",
        path,
        "--basis",
        path.with_name("basis.h5"),
        "-o",
        path.with_name("o.h5"),
        "--overwrite",
    ),
    "pca apply --basis": lambda path: _run(
        pca.command,
        "apply",
        path.with_name("feats.h5"),
        "--basis",
        path,
        "-o",
        path.with_name("o.h5"),
        "--overwrite",
    ),
    "FeatureFile": _read,
    "--pca-from": _project_with,
    "resume --clips": _resume_clips,
    "resume": _resume,  # last, as it replaces the file
}
"""Every way a file is read; each raises C3DError or nothing."""


def outcome(reader: str, path: Path) -> str | None:
    """Return the one line that a reader refuses a file with, None where it takes it."""
    try:
        READERS[reader](path)
    except C3DError as error:
        return str(error)
    finally:
        for beside in path.parent.glob("*.partial*"):
            beside.unlink()
    return None


def _flip(original: bytes, rng: random.Random) -> bytes:
    data = bytearray(original)
    for _ in range(rng.choice((1, 1, 2, 8))):
        # Half of them where HDF5 keeps its own notes, which lie mostly at the front.
        at = rng.randrange(min(len(data), 8192) if rng.random() < 0.5 else len(data))
        data[at] ^= 1 << rng.randrange(8)
    return bytes(data[: rng.randrange(len(data))] if rng.random() < 0.05 else data)


def main(folder: Path, seed: int, n: int) -> None:
    """Read ``n`` damaged copies; each one's number goes to stdout first, in case it takes us with it."""
    warnings.simplefilter("error")
    write_originals(folder)
    rng = random.Random(seed)
    originals = [(folder / f"{kind}.h5").read_bytes() for kind in ("feats", "clips", "basis")]
    for i in range(n):
        content = _flip(originals[i % 3], rng)
        (folder / f"flipped-{i}.h5").write_bytes(content)
        print(i, flush=True)  # noqa: T201 - what the caller reads
        faulthandler.dump_traceback_later(20, exit=True)  # HDF5 itself may go round for ever
        for reader in READERS:
            path = folder / "hostile.h5"
            path.write_bytes(content)
            try:
                outcome(reader, path)
            except BaseException:  # noqa: BLE001 - what this program looks for
                print(i, reader, traceback.format_exc(), file=sys.stderr, flush=True)  # noqa: T201
        (folder / f"flipped-{i}.h5").unlink()
    os._exit(0)  # h5py may fail to close what was damaged


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
