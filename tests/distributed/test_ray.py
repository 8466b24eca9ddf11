"""``--ray``: what is refused, and by ``pytest -m ray`` real nodes in a network of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from c3d_extract.cli.extract import command as extract
from c3d_extract.distributed.ray import Share

CASES = Path(__file__).with_name("ray_cases.py")


@pytest.mark.ray
@pytest.mark.timeout(900)  # each case in it has a limit of its own
def test_on_real_nodes(tmp_path: Path) -> None:
    # Ray listens on all interfaces, and its ports run code for whoever reaches them.
    isolated = 'ip link set lo up && exec "$0" -m pytest -m ray -n 0 -p no:cacheprovider --timeout 120 "$@"'
    arguments = [sys.executable, str(CASES), "--basetemp", str(tmp_path / "cases"), "--durations=0"]
    done = subprocess.run(
        ["unshare", "--map-root-user", "--net", "sh", "-c", isolated, *arguments],
        cwd=CASES.parents[2],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(CASES.parents[1]), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "unshare:" not in done.stderr, f"needs user and network namespaces: {done.stderr}"
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-4000:]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--ray", "."], "--ray .: is a path, not the address of a cluster; put the inputs first"),
        (["--ray=ray://head:10001"], "addresses of Ray Client are not supported"),
        (["--ray=10.0.0.1:6379", "--device", "cuda:1"], "--ray: does not go with --device cuda:1"),
        (["--ray", "--shard", "0/2"], "--ray: does not go with --shard"),
        (["--ray", "--dry-run"], "--dry-run: does not go with --ray"),
        (["--ray", "--pca", "3"], "--pca: is applied when the parts are merged"),
    ],
    ids=str,
)
def test_what_does_not_go_with_ray_is_refused_in_one_line(
    arguments: list[str], named: str, videos: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(extract, [str(videos), "-o", str(tmp_path / "RUN"), *arguments])
    assert result.exit_code == 2
    assert named in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "RUN").exists()


def test_without_ray_the_command_that_installs_it_is_named(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = CliRunner().invoke(extract, [str(videos), "-o", str(tmp_path / "RUN"), "--ray"])
    assert result.exit_code == 2
    assert "Ray is not installed; pip install ray here" in result.stderr


def test_an_address_where_nothing_listens_is_named_at_once(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    for given in (f"--ray={address}", "--ray"):
        result = CliRunner().invoke(extract, [str(videos), "-o", str(tmp_path / "RUN"), given])
        assert result.exit_code == 1
        assert "no cluster can be reached (" in result.stderr
        assert "Connection refused" in result.stderr


@pytest.mark.parametrize(
    ("share", "node", "n_tasks"),
    [
        (Share(4, 0), (9, 0), 2),
        (Share(4, 0), (3, 0), 0),
        (Share(4, 1), (32, 2), 2),
        (Share(4, 1), (6, 2), 1),
        (Share(4, 1), (64, 0), 0),
    ],
)
def test_a_node_has_as_many_slots_as_tasks_fit_into_it(
    share: Share, node: tuple[float, float], n_tasks: int
) -> None:
    assert share.of(*node) == n_tasks
