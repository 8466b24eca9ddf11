"""Runs in parts against a run on one machine: every dataset must be equal, to the bit.

    python benchmarks/equality.py ../shared/data/actions

Three shards, inputs and parts on an S3 server on 127.0.0.1, and Ray on two local nodes; with the embedded network and with a
random C3D a sixteenth as wide; averages and clips. Ray listens on all interfaces, so this starts itself again in a network of
its own (`unshare`, Linux).
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from survival import make_weights

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

EXCEPT_FOR_OBJECTS = {"mtime_ns"}  # the store's own


def call(*arguments: object) -> float:
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "c3d_extract", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode in {0, 3}, ended.stderr
    return time.monotonic() - started


def compare(one: Path, other: Path, but: set[str]) -> int:
    from c3d_extract import FeatureFile

    n = 0
    with FeatureFile(one) as a, FeatureFile(other) as b:
        assert a.videos == b.videos
        assert len(a) > 0
        for name in {*a.layers, *a._columns} - but:  # noqa: SLF001 - every dataset
            assert np.array_equal(a[name], b[name], equal_nan=a[name].dtype.kind == "f"), (other, name)
            n += 1
    return n


def merged(run: str | Path, folder: Path, name: str) -> tuple[Path, Path]:
    out = folder / f"{name}.h5", folder / f"{name}.clips.h5"
    call("merge", run, "-o", out[0], "--clips", out[1], "--scratch", folder)
    return out


def check(network: list[object], videos: Path, folder: Path, address: str) -> None:
    from s3_server import s3_server

    # As many cores for the one run as for a shard: threads share the work, and change no bit.
    common = [*network, "--device", "cpu", "--clips", folder / "one.clips.h5"]
    seconds = {"one machine": call("extract", videos, *common, "-o", folder / "one.h5")}
    one = folder / "one.h5", folder / "one.clips.h5"
    parts = [*common, "--part-size", 7, "--scratch", folder]
    seconds["shards"] = sum(
        call("extract", videos, *parts, "-o", folder / "RUN", "--shard", f"{i}/3") for i in range(3)
    )
    found = {"shards": (merged(folder / "RUN", folder, "shards"), set[str]())}
    with s3_server() as s3:
        for path in sorted(path for path in videos.rglob("*") if path.is_file()):
            s3.put(f"videos/{path.relative_to(videos)}", path.read_bytes())
        inputs, run = f"{s3.address}/videos", f"{s3.address}/{folder.name}"
        seconds["S3"] = call("extract", inputs, *parts, "-o", run, "--shard", "0/1")
        found["S3"] = merged(run, folder, "s3"), EXCEPT_FOR_OBJECTS
    seconds["Ray"] = call("extract", videos, *parts, "-o", folder / "RAY", f"--ray={address}")
    found["Ray"] = merged(folder / "RAY", folder, "ray"), set()
    for name, (files, but) in found.items():
        n = sum(compare(a, b, but) for a, b in zip(one, files, strict=True))
        print(
            f"  {name}: {n} datasets equal, {seconds[name]:.0f} s (one machine {seconds['one machine']:.0f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", type=Path)
    words = parser.parse_args()
    if os.environ.get("C3D_OWN_NETWORK") != "1":
        inside = 'ip link set lo up && exec "$@"'
        environment = {**os.environ, "C3D_OWN_NETWORK": "1"}
        command = ["unshare", "-rn", "sh", "-c", inside, "sh", sys.executable, *sys.argv]
        sys.exit(subprocess.run(command, env=environment, check=False).returncode)
    from ray.cluster_utils import Cluster

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # the S3 server's log
    cluster = Cluster()
    for _ in range(2):
        cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1", include_dashboard=False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "narrow.pickle"
            make_weights(weights)
            networks: dict[str, list[object]] = {
                "motion-mini": ["--weights", "motion-mini"],
                "narrow C3D": ["--weights", weights, "--mean", "101,108,108"],
            }
            for name, network in networks.items():
                print(name)
                own = Path(folder) / name.replace(" ", "-")
                own.mkdir()
                check(network, words.videos.absolute(), own, cluster.address)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
