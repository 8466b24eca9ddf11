"""Runs with other settings or weights are refused, and the differences named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from store_samples import identity, open_store, video_row, write

from c3d_extract.errors import MismatchError


@pytest.mark.parametrize("complete", [True, False])
def test_other_settings_are_refused_and_named(output: Path, complete: bool) -> None:
    write(output, [video_row("a")], complete=complete)
    others = identity(stride=8, tail="pad", extra=1)
    other = replace(others, weights=others.weights | {"weights_sha256": "11"})
    with pytest.raises(MismatchError, match="--overwrite") as caught:
        open_store(output, other)
    assert caught.value.differences == [
        "stride: 16 → 8",
        "tail: drop → pad",
        "extra: none → 1",
        "weights weights_sha256: 00ff → 11",
    ]
    open_store(output, replace(identity(), versions={"c3d-extract": "9"})).close()  # only informs


def test_a_run_that_moved_to_a_machine_of_another_precision_is_told_how_to_go_on(output: Path) -> None:
    write(output, [video_row("a")], complete=False, identity=identity(precision="bf16"))
    with pytest.raises(MismatchError, match=r"precision: bf16 → fp32.*continue with --precision bf16"):
        open_store(output, identity(precision="fp32"))


@pytest.mark.parametrize("option", [{"l2": True}, {"pca": 1}, {"clips": Path("clips.h5")}])
def test_what_the_store_itself_makes_different_is_compared_too(output: Path, option: dict[str, Any]) -> None:
    write(output, [video_row("a")])
    if "clips" in option:
        option = {"clips": output.with_name("clips.h5")}
    with pytest.raises(MismatchError, match=next(iter(option))):
        open_store(output, identity(), **option)
    assert not output.with_name("feats.h5.partial").exists()


def test_layers_of_other_sizes_are_a_difference() -> None:
    other = replace(identity(), layer_sizes={"fc6": 12, "fc7": 6})
    assert identity().differences(other) == ["size of fc7: 5 → 6"]
    assert identity().differences(identity()) == []


FROM_CAFFE = {
    "weights": "sports1m",
    "weights_file": "conv3d",
    "weights_sha256": "00",
    "tensors_sha256": {"fc6": "aa"},
    "record": {"preprocessing": {"std": (1, 1, 1)}},
}


@pytest.mark.parametrize(
    ("change", "differences"),
    [
        ({}, []),
        ({"weights": "mine", "weights_file": "c3d.pickle", "weights_sha256": "11"}, []),
        ({"record": {"preprocessing": {"std": [1, 1, 1]}, "notes": ["fetched"]}}, []),
        ({"tensors_sha256": {"fc6": "bb"}}, ['tensors_sha256: {"fc6": "aa"} → {"fc6": "bb"}']),
        ({"weights_sha256": "11", "tensors_sha256": {}}, ["weights_sha256: 00 → 11"]),
        ({"tensors_sha256": "nonsense"}, []),
        (
            {"weights_sha256": "11", "record": {"preprocessing": {"std": [2, 1, 1]}}},
            ["weights_sha256: 00 → 11"],
        ),
        ({"colour": "rgb"}, ["colour: none → rgb"]),
    ],
)
def test_the_tensors_decide_where_both_say_their_hash_and_the_file_where_not(
    output: Path, change: dict[str, Any], differences: list[str]
) -> None:
    was = replace(identity(), weights=FROM_CAFFE)
    now = replace(identity(), weights=FROM_CAFFE | change)
    write(output, [video_row("a")], identity=was)
    expected = [f"weights {one}" for one in differences]
    assert was.differences(now) == expected
    if not differences:
        open_store(output, now).close()
        return
    with pytest.raises(MismatchError) as caught:
        open_store(output, now)
    assert caught.value.differences == expected
