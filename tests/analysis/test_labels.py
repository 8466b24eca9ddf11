"""Labels: of names, of a CSV, of UCF101's lists; a wrong line is named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from c3d_extract.analysis.labels import (
    folder_labels,
    likely_groups,
    match_labels,
    pattern_values,
    read_label_columns,
    read_label_csv,
    read_ucf101_split,
    video_keys,
)
from c3d_extract.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


def test_labels_and_groups_come_from_names() -> None:
    names = ["a/kick/set1_26_5_2.avi", "a/hug/set1_2_11_1.avi"]
    assert folder_labels(names) == ["kick", "hug"]
    assert pattern_values(names, r"set1_\d+_(\d+)_") == ["5", "11"]
    assert pattern_values(names, r"set\d") == ["set1", "set1"]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: folder_labels(["lonely.avi"]), "lonely.avi: in no folder"),
    (lambda: pattern_values(["x.avi"], r"_(\d+)_", what="group"), "x.avi: the group pattern"),
    (lambda: pattern_values(["x.avi"], r"("), "not a regular expression"),
])  # fmt: skip
def test_names_that_give_no_label_are_named(call: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_label_file_is_read_with_or_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text('video,label\n"a, b.avi",hug\n\nc.avi , kick\n', encoding="utf-8-sig")
    assert read_label_csv(path) == {"a, b.avi": "hug", "c.avi": "kick"}
    path.write_text("c.avi,kick\n")
    assert read_label_csv(path) == {"c.avi": "kick"}


@pytest.mark.parametrize(("text", "message"), [
    ("video,label\na.avi,hug\nb.avi\n", "line 3: expected video,label"),
    ("a.avi,hug,kick\n", "line 1: expected video,label"),
    ("a.avi,hug\na.avi,kick\n", "line 2: a.avi was labelled hug before and is kick here"),
    ("video,label\n", "holds no lines"),
    (b"\xff\xfe\x00", "not a text file"),
])  # fmt: skip
def test_a_broken_label_file_names_its_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=r"labels\.csv") as caught:
        read_label_csv(path)
    assert message in str(caught.value)


def test_labels_must_fit_the_videos_unless_skipping_is_wanted() -> None:
    with pytest.raises(UsageError, match=r"no label for 1 of 2 videos, the first is b"):
        match_labels(["a", "b"], {"a": "x"}, source="L")
    with pytest.raises(UsageError, match=r"no video for 1 of 2 labels, the first is of c"):
        match_labels(["a"], {"a": "x", "c": "y"}, source="L")
    matched = match_labels(["a", "b", "d"], {"a": "x", "c": "y"}, skip=True, source="L")
    assert matched.labels == ["x", None, None]
    assert matched.ignored == {"videos without label": 2, "labels without video": 1}


def write_lists(folder: Path, **changed: str) -> None:
    """Write one official split of four videos, with some files changed."""
    lists = {
        "classInd": "1 hug\r\n2 kick\r\n3 push\r\n",
        "trainlist01": "kick/w_g01.avi 2\nhug/late_g02.avi 1\npush/x_g02.avi 3\n",
        "testlist01": "hug/v_g01.avi\n",
        **changed,
    }
    for name, text in lists.items():
        (folder / f"{name}.txt").write_text(text)


def test_ucf101_lists_are_read_by_stem_and_without_regard_to_case(tmp_path: Path) -> None:
    write_lists(
        tmp_path,
        classInd="1 HandstandPushups\n2 Surfing\n",
        trainlist01="Surfing/v_Surfing_g02_c01.avi 2\n",
        testlist01="HandstandPushups/v_HandStandPushups_g01_c01.avi\n",
    )
    split = read_ucf101_split(tmp_path, 1)
    assert split.test == {"v_handstandpushups_g01_c01": "HandstandPushups"}
    assert split.train == {"v_surfing_g02_c01": "Surfing"}


@pytest.mark.parametrize(("file", "text", "message"), [
    ("classInd", "1 hug\nkick\n", "classInd.txt, line 2: expected an index and a new class name"),
    ("trainlist01", "hug/a.avi 1\nkick/b.avi 1\n", "trainlist01.txt, line 2: kick is class 2 and not 1"),
    ("trainlist01", "hug/a.avi 1\n\nb.avi 1\n", "trainlist01.txt, line 3: expected Class/video.avi"),
    ("testlist01", "hug/v_g1.avi\nkick/v_g1.avi\n", "line 2: kick/v_g1.avi was listed before, as hug"),
    ("testlist01", "hug/late_g02.avi\n", "is in the training and in the test list"),
])  # fmt: skip
def test_a_broken_ucf101_list_names_its_line(tmp_path: Path, file: str, text: str, message: str) -> None:
    write_lists(tmp_path, **{file: text})
    with pytest.raises(UsageError) as caught:
        read_ucf101_split(tmp_path, 1)
    assert message in str(caught.value)


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"classInd.txt: cannot be read: No such file"):
        read_ucf101_split(tmp_path, 1)


def test_videos_that_the_lists_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(UsageError, match="1 names belong to more than one video, the first is v_g01"):
        video_keys(["hug/v_g01.avi", "copy/V_g01.mp4", "v_g02.avi"])


def test_the_real_videos_are_of_six_classes_and_ten_sequences(shared_data: Path) -> None:
    root = shared_data / "actions" / "ut_interaction"
    names = sorted(path.relative_to(root).as_posix() for path in root.glob("*/*.avi"))
    labels, sequences = folder_labels(names), pattern_values(names, r"set1_\d+_(\d+)_")
    assert sorted(map(labels.count, set(labels))) == [10] * 6
    assert set(sequences) == {str(i) for i in range(1, 11)}
    pattern = likely_groups(names, labels)
    assert pattern is not None
    assert pattern_values(names, pattern) == sequences


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (
            [f"{c}/v_{c}_g{g:02}_c{i:02}.avi" for c in ("hug", "kick") for g in (1, 2) for i in (1, 2)],
            ["01", "01", "02", "02"] * 2,
        ),
        (
            [
                f"{c}/set1_{10 * n + s}_{s}_{n}.mp4"
                for n, c in enumerate(("hug", "kick", "hit"))
                for s in (1, 2)
            ],
            ["1", "2"] * 3,
        ),
        ([f"{c}/{c}_{i}.avi" for c in ("hug", "kick") for i in (1, 2, 3)], None),
        ([f"{c}/2013-01-02_{i}.avi" for c in ("hug", "kick") for i in (1, 2, 3)], None),
        ([f"{c}/{c}.avi" for c in ("hug", "kick")], None),
        ([f"hug/{i}" for i in range(4)], None),
        ([], None),
    ],
    ids=["UCF101", "UT-Interaction", "numbered", "dated", "plain", "no suffix", "none"],
)
def test_a_number_that_several_videos_share_may_be_their_recordings(
    names: list[str], groups: list[str] | None
) -> None:
    pattern = likely_groups(names, folder_labels(names))
    assert (None if pattern is None else pattern_values(names, pattern)) == groups


def test_a_table_may_have_several_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("video,who,where\na.avi, Ann ,in\n\nb.avi,,out\n")
    assert read_label_columns(path) == {
        "who": {"a.avi": "Ann", "b.avi": ""},
        "where": {"a.avi": "in", "b.avi": "out"},
    }
    path.write_text("a.avi,kick\n")
    assert read_label_columns(path) == {"label": {"a.avi": "kick"}}
    for text, message in (
        ("video,a,a\n", "t.csv, line 1: columns need names of their own"),
        ("video,a,b\nx,1\n", "t.csv, line 2: expected 3 fields and found 2"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            read_label_columns(path)
