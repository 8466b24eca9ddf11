"""The map's page: what it says of each video, its pictures, and that names cannot become HTML."""

from __future__ import annotations

import io
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conftest import LENGTHS
from labelled_features import blobs, feature_file
from page_samples import HOSTILE, extracted, page_data, page_pictures
from PIL import Image
from sklearn.neighbors import NearestNeighbors

pytest.importorskip("plotly")
from c3d_extract import FeatureFile
from c3d_extract.decode import open_video
from c3d_extract.decode.thumbnails import Wanted
from c3d_extract.errors import C3DError, StoreError
from c3d_extract.pages import thumbnails
from c3d_extract.pages.map import MapOptions, write_map

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def features(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extracted(videos, tmp_path_factory.mktemp("map"))


def no_steps(_what: str, _total: int) -> Callable[[int], None]:
    return lambda _: None


def written(features: Path, page: Path, **options: Any) -> tuple[Any, list[str]]:
    notes = write_map(features, page, MapOptions(**options), no_steps)
    return page_data(page), notes


def test_a_map_says_what_is_known_of_each_video(features: Path, tmp_path: Path) -> None:
    data, notes = written(features, tmp_path / "map.html")
    assert notes == data["notes"] == []
    assert data["names"] == sorted([*LENGTHS, HOSTILE])
    assert (data["kind"], data["layer"], data["weights"], data["method"]) == (
        "features",
        "fc6",
        "motion-mini",
        "tsne",
    )
    expected = {**LENGTHS, HOSTILE: LENGTHS["mid.mp4"]}
    assert data["facts"]["n_frames"] == [expected[name] for name in data["names"]]
    assert data["facts"]["fps"] == [25] * 7
    assert data["facts"]["status"] == ["ok"] * 7
    assert len(data["x"]) == len(data["y"]) == 7
    with FeatureFile(features) as file:
        exact = NearestNeighbors(metric="cosine", algorithm="brute").fit(file["fc6"])
        distances, rows = exact.kneighbors(n_neighbors=6)
    twins = [data["names"].index(HOSTILE), data["names"].index("mid.mp4")]
    assert data["neighbours"][twins[0]][0] == twins[1]
    assert data["neighbours"][twins[1]][0] == twins[0]
    np.testing.assert_allclose(data["similarities"], 1 - distances, atol=1e-4)
    assert data["neighbours"][1] == rows[1].tolist()


def test_colours_are_folders_tables_and_clusters(features: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("video,who,where\na/one.mp4,Ann,out\nlong.mp4,Bob,\n")
    data, _ = written(features, tmp_path / "map.html", labels=labels, n_clusters=2)
    colourings = {c["name"]: [c["names"][i] for i in c["of"]] for c in data["colourings"]}
    assert list(colourings) == ["who", "where", "folder", "cluster"]
    by_video = dict(zip(data["names"], colourings["who"], strict=True))
    assert (by_video["a/one.mp4"], by_video["long.mp4"], by_video["mid.mp4"]) == ("Ann", "Bob", "(none)")
    assert colourings["folder"] == [Path(name).parent.name or "(none)" for name in data["names"]]
    assert set(colourings["where"]) == {"out", "(none)"}
    assert set(colourings["cluster"]) == {"cluster 1", "cluster 2"}


def test_pictures_are_the_videos_own(features: Path, tmp_path: Path) -> None:
    data, _ = written(features, tmp_path / "map.html")
    layout = data["thumbnails"]
    (sheet,) = page_pictures(tmp_path / "map.html")
    with Image.open(io.BytesIO(sheet)) as image:
        pixels = np.asarray(image).astype(int)
    row = data["names"].index("long.mp4")
    with open_video(features.parent / "videos" / "long.mp4") as reader:
        frames = [frame.bgr[:, :, ::-1].copy() for frame in reader.frames()]
    for i in range(layout["frames"]):
        top, left = divmod(layout["places"][row] + i, layout["columns"])
        width, height = layout["width"], layout["height"]
        found = pixels[top * height : (top + 1) * height, left * width : (left + 1) * width]
        size = (width, height)
        frame = Image.fromarray(frames[10 + 20 * i]).resize(size, Image.Resampling.BILINEAR)
        assert abs(found - np.asarray(frame)).mean() < 10


def test_videos_that_are_elsewhere_or_others_now_have_no_picture(features: Path, tmp_path: Path) -> None:
    data, notes = written(features, tmp_path / "map.html", root=tmp_path)
    assert set(data["thumbnails"]["places"]) == {None}
    assert notes == [f"7 videos are not below {tmp_path}, or are other files now; they have no thumbnail"]
    (tmp_path / "long.mp4").write_bytes(b"another video")
    assert written(features, tmp_path / "map.html", root=tmp_path)[1] == notes
    assert page_pictures(tmp_path / "map.html") == []


def test_a_video_that_cannot_be_read_any_more_is_told(features: Path, tmp_path: Path) -> None:
    size = (features.parent / "videos" / "long.mp4").stat().st_size
    (tmp_path / "long.mp4").write_bytes(bytes(size))
    _, notes = written(features, tmp_path / "map.html", root=tmp_path)
    assert any(note.startswith("1 thumbnails failed, the first of long.mp4: ") for note in notes)


def test_thumbnails_of_a_sample_are_said_to_be_one(features: Path, tmp_path: Path) -> None:
    data, notes = written(features, tmp_path / "map.html", max_thumbnails=3)
    assert notes == ["thumbnails are of a sample, 3 of 7 rows"]
    assert sum(place is not None for place in data["thumbnails"]["places"]) == 3


def test_clips_are_points_too(features: Path, tmp_path: Path) -> None:
    data, _ = written(features.with_name("clips.h5"), tmp_path / "map.html")
    with FeatureFile(features.with_name("clips.h5")) as file:
        assert data["names"] == file.videos
        assert data["facts"]["start_frame"] == file.column("start_frame").tolist()
    assert data["kind"] == "clips"
    assert None not in data["thumbnails"]["places"]


def test_names_never_become_html(features: Path, tmp_path: Path) -> None:
    page = tmp_path / "<img src=x onerror=alert(1)>.html"
    source = features.with_name("<img src=x>.h5")
    source.write_bytes(features.read_bytes())
    data, _ = written(source, page)
    assert HOSTILE in data["names"]
    text = page.read_text("utf-8")
    assert "onerror" not in text
    assert "<img" not in text
    assert text.count("</script>") == 4


def test_nothing_is_fetched_and_the_licence_is_there(features: Path, tmp_path: Path) -> None:
    written(features, tmp_path / "map.html")
    text = (tmp_path / "map.html").read_text("utf-8")
    assert "default-src 'none'" in text
    assert "Permission is hereby granted, free of charge" in text


def test_the_sheets_of_ten_thousand_videos_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    # The worst pictures are noise; a tenth of the videos, and of the bytes.
    monkeypatch.setattr(thumbnails, "_SIZES", ())
    monkeypatch.setattr(thumbnails, "MOST_BYTES", thumbnails.MOST_BYTES // 10)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (50, 6, 8, 3), np.uint8)
    pictures = [
        np.asarray(Image.fromarray(small).resize((64, 48), Image.Resampling.BICUBIC)) for small in coarse
    ]
    monkeypatch.setattr(
        "c3d_extract.decode.thumbnails.read_thumbnails", lambda path, *_, **__: [pictures[int(path) % 50]]
    )
    found = thumbnails.make_thumbnails([Wanted(i, (0, 1)) for i in range(1000)])  # type: ignore[arg-type]
    assert len(found.sheets) == 1
    assert sum(map(len, found.sheets)) <= thumbnails.MOST_BYTES


def test_what_cannot_be_mapped_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    X = blobs()[0].X.copy()
    X[3, 2] = np.nan
    broken = feature_file(tmp_path / "nan.h5", {"fc6": X}, blobs()[1])
    with pytest.raises(StoreError, match="features of 1 of 60 videos are not finite"):
        written(broken, tmp_path / "map.html")

    def no_plotly(_name: str) -> str:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "version", no_plotly)
    with pytest.raises(C3DError, match="plotly is not installed; pip install plotly"):
        written(broken, tmp_path / "map.html")
    assert not (tmp_path / "map.html").exists()
