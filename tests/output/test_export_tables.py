"""Exports of one row a clip or a video, read by pandas, pyarrow, Hugging Face datasets and plain readers."""

from __future__ import annotations

import csv
import json
import re
from typing import TYPE_CHECKING, Any

import datasets
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from export_samples import LENGTHS, D, export, features, write_clips, write_videos
from PIL import Image
from video_samples import write

from c3d_extract.errors import StoreError, UsageError
from c3d_extract.output.export import tables

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

VIDEOS = [video for video, n in LENGTHS.items() for _ in range(n)]
NUMBERS = [i for n in LENGTHS.values() for i in range(n)]
X = np.concatenate([features(video, n) for video, n in LENGTHS.items()])


@pytest.fixture(params=[7, 2048])
def clips(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clip file that is read in small blocks, or in one."""
    monkeypatch.setattr(tables, "_ROWS_AT_ONCE", request.param)
    return write_clips(tmp_path / "clips.h5")


def test_parquet_has_a_vector_of_fixed_size_for_each_clip(tmp_path: Path, clips: Path) -> None:
    export("parquet", clips, tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet")
    assert table.column_names == ["video", "clip_index", "start_seconds", "end_seconds", "embedding"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), D)
    assert table["video"].to_pylist() == VIDEOS
    assert table["clip_index"].to_pylist() == NUMBERS
    np.testing.assert_allclose(table["start_seconds"], np.array(NUMBERS) * 0.64)
    np.testing.assert_allclose(table["end_seconds"], np.array(NUMBERS) * 0.64 + 0.6)
    np.testing.assert_array_equal(np.stack(table["embedding"].to_pylist()).astype(np.float32), X)
    about = json.loads(table.schema.metadata[b"c3d_extract"])
    assert (about["settings"]["stride"], about["layer"]) == (16, "fc6")


def test_parquet_opens_in_pandas_and_hugging_face_datasets(tmp_path: Path, clips: Path) -> None:
    export("parquet", clips, tmp_path / "t.parquet")
    frame = pd.read_parquet(tmp_path / "t.parquet")
    np.testing.assert_array_equal(np.stack(frame["embedding"].to_list()), X)
    rows = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "t.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    ).with_format("numpy")
    np.testing.assert_array_equal(rows["embedding"][:], X)
    assert rows.features["embedding"].length == D


def test_duckdb_compares_the_vectors_of_a_parquet_file(tmp_path: Path, clips: Path) -> None:
    export("parquet", clips, tmp_path / "t.parquet")
    query = f"""
        SELECT clip.video, clip.clip_index,
               array_cosine_similarity(clip.embedding::FLOAT[{D}], first.embedding::FLOAT[{D}])
        FROM '{tmp_path / "t.parquet"}' AS clip, (FROM '{tmp_path / "t.parquet"}' LIMIT 1) AS first"""  # noqa: S608
    names, numbers, found = zip(*duckdb.connect().execute(query).fetchall(), strict=True)
    assert [list(names), list(numbers)] == [VIDEOS, NUMBERS]
    x = X.astype(np.float64)
    right = x @ x[0] / np.linalg.norm(x, axis=1) / np.linalg.norm(x[0])
    np.testing.assert_allclose(found, right, rtol=1e-5)  # DuckDB sums in float32


def test_csv_has_a_column_a_value_and_loses_no_bit(tmp_path: Path, clips: Path) -> None:
    export("csv", clips, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header[:5] == ["video", "clip_index", "start_seconds", "end_seconds", "fc6_0"]
    assert [row[0] for row in rows] == VIDEOS
    np.testing.assert_array_equal(np.array([row[4:] for row in rows], np.float32), X)
    frame = pd.read_csv(tmp_path / "t.csv")
    assert frame["clip_index"].tolist() == NUMBERS


def projector_rows(path: Path) -> list[list[str]]:
    """Rows as the projector splits them: at line feeds, then at tabs; a last empty line is left out."""
    return [line.split("\t") for line in path.read_text("utf-8").split("\n") if line]


def test_tensorboard_has_vectors_their_names_and_a_configuration(tmp_path: Path, clips: Path) -> None:
    export("tensorboard", clips, tmp_path / "log")
    text = (tmp_path / "log" / "projector_config.pbtxt").read_text()
    (body,) = re.findall(r"embeddings \{(.*)\}", text, flags=re.DOTALL)
    paths: dict[str, Any] = dict(re.findall(r'(\w+): "([^"]*)"', body))
    vectors = projector_rows(tmp_path / "log" / paths["tensor_path"])
    np.testing.assert_array_equal(np.array(vectors, np.float32), X)
    header, *names = projector_rows(tmp_path / "log" / paths["metadata_path"])
    assert header[:2] == ["video", "clip_index"]
    assert [row[0] for row in names] == VIDEOS
    assert paths["tensor_name"] == "fc6"


def test_the_projector_gets_a_picture_of_each_clip_and_a_grey_one_of_a_video_that_is_not_there(
    tmp_path: Path,
) -> None:
    colours = {"a/1.mp4": (40, 200, 120), "b 2.avi": (180, 60, 90), "gone.mp4": (128, 128, 128)}
    clips = write_clips(tmp_path / "clips.h5", {"a/1.mp4": 2, "b 2.avi": 1, "gone.mp4": 2})
    (tmp_path / "videos/a").mkdir(parents=True)
    for video in ("a/1.mp4", "b 2.avi"):
        write(tmp_path / "videos" / video, np.full((40, 48, 64, 3), colours[video], np.uint8))
    (warning,) = export("tensorboard", clips, tmp_path / "log", root=tmp_path / "videos")
    assert warning.startswith("2 of 5 rows have a grey picture")
    config = (tmp_path / "log" / "projector_config.pbtxt").read_text()
    assert config.count("single_image_dim: 64") == 2
    assert 'image_path: "sprite.png"' in config
    with Image.open(tmp_path / "log" / "sprite.png") as image:
        assert image.size == (3 * 64, 2 * 64)
        sheet = np.asarray(image).astype(int)
    for row, video in enumerate(["a/1.mp4", "a/1.mp4", "b 2.avi", "gone.mp4", "gone.mp4"]):
        y, x = (64 * place + 32 for place in divmod(row, 3))
        assert abs(sheet[y, x] - colours[video]).max() <= 4, video  # MPEG-4 keeps a colour to a few levels


def test_pictures_are_refused_where_they_have_no_place_and_where_there_are_none(
    tmp_path: Path, clips: Path
) -> None:
    with pytest.raises(UsageError, match="tensorboard has alone"):
        export("csv", clips, tmp_path / "t.csv", root=tmp_path)
    with pytest.raises(StoreError, match="none of the videos"):
        export("tensorboard", clips, tmp_path / "log", root=tmp_path)


def test_the_projector_gets_no_header_where_names_are_all_there_is(tmp_path: Path) -> None:
    export("tensorboard", write_videos(tmp_path / "feats.h5"), tmp_path / "log")
    assert projector_rows(tmp_path / "log" / "metadata.tsv") == [[video] for video in LENGTHS]


def test_names_with_tabs_and_line_breaks_stay_one_cell(tmp_path: Path) -> None:
    odd = 'a\t"b"\n,c\r.mp4'
    clips = write_clips(tmp_path / "clips.h5", {odd: 2})
    export("tensorboard", clips, tmp_path / "log")
    _, *rows = projector_rows(tmp_path / "log" / "metadata.tsv")
    assert [row[0] for row in rows] == ['a "b" ,c .mp4'] * 2
    export("csv", clips, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        assert [row[0] for row in csv.reader(file)][1:] == [odd] * 2


@pytest.mark.parametrize("preset", ["parquet", "csv"])
def test_a_feature_file_becomes_a_row_a_video(tmp_path: Path, preset: str) -> None:
    export(preset, write_videos(tmp_path / "feats.h5", l2=True), tmp_path / "t")
    frame = pd.read_parquet(tmp_path / "t") if preset == "parquet" else pd.read_csv(tmp_path / "t")
    assert frame["video"].tolist() == list(LENGTHS)
    assert "clip_index" not in frame


@pytest.mark.parametrize("preset", ["parquet", "csv"])
def test_crops_have_a_row_each_and_share_their_clip(tmp_path: Path, preset: str) -> None:
    clips = write_clips(tmp_path / "clips.h5", {"a.mp4": 2, "b.mp4": 1}, n_crops=5)
    export(preset, clips, tmp_path / "t")
    frame = pd.read_parquet(tmp_path / "t") if preset == "parquet" else pd.read_csv(tmp_path / "t")
    assert frame["crop"].tolist() == [0, 1, 2, 3, 4] * 3
    assert frame["clip_index"].tolist() == [0] * 5 + [1] * 5 + [0] * 5


def matrix(path: Path) -> NDArray[np.float32]:
    return np.stack(pd.read_parquet(path)["embedding"].to_list())


def test_a_layer_can_be_chosen(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips.h5", layers=("fc6", "fc7"))
    export("parquet", clips, tmp_path / "t", layer="fc7")
    np.testing.assert_array_equal(matrix(tmp_path / "t")[:33], features("Abuse/Abuse001_x264.mp4", 33, "fc7"))
