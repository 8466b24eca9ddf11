"""The Python side: features of one video, runs over many, batches and workers that change nothing."""

from __future__ import annotations

import dataclasses
import inspect
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conftest import LENGTHS, MEAN

from c3d_extract import Extractor, FeatureFile
from c3d_extract.compute.network import Network
from c3d_extract.errors import DecoderError, LockedError, PcaError, UsageError, VideoError
from c3d_extract.pipeline.extractor import ExtractorOptions
from c3d_extract.preprocess.clips import clip_spans
from c3d_extract.settings import ExtractSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray


def make(weights: Path, settings: ExtractSettings | None = None, **run: Any) -> Extractor:
    return Extractor.from_weights(str(weights), settings, mean=MEAN, device="cpu", precision="fp32", **run)


@pytest.fixture(scope="module")
def extractor(narrow_weights: Path) -> Iterator[Extractor]:
    with make(narrow_weights) as made:
        yield made


@pytest.fixture(scope="module")
def reference(extractor: Extractor, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feature file of all six videos."""
    output = tmp_path_factory.mktemp("reference") / "feats.h5"
    assert {o.status for o in extractor.extract_files([videos], output)} == {"ok"}
    return output


def table(path: Path) -> dict[str, NDArray[np.float32]]:
    with FeatureFile(path) as file:
        return dict(zip(file.videos, file["fc6"], strict=True))


def test_one_video_gives_one_row_a_clip_with_its_times(extractor: Extractor, videos: Path) -> None:
    features = extractor.extract(videos / "long.mp4")
    assert features.clips.shape == (6, 256)
    assert features.clips.dtype == np.float32
    np.testing.assert_array_equal(features.start_frames, np.arange(6) * 16)
    np.testing.assert_allclose(features.start_seconds, np.arange(6) * 16 / 25, atol=1e-6)
    np.testing.assert_allclose(features.mean(), features["fc6"].mean(axis=0), rtol=1e-5)
    assert features.outcome.status == "ok"


def test_a_file_holds_the_same_averages_sorted_by_name(
    extractor: Extractor, videos: Path, reference: Path
) -> None:
    rows = table(reference)
    assert list(rows) == sorted(LENGTHS)
    for name in ("a/two.mp4", "b/short.mp4"):
        np.testing.assert_array_equal(rows[name], extractor.extract(videos / name).mean())
    with FeatureFile(reference) as file:
        counts = dict(zip(file.videos, file.column("n_clips"), strict=True))
        padded = dict(zip(file.videos, file.column("n_padded_frames"), strict=True))
    for name, n_frames in LENGTHS.items():
        spans = clip_spans(n_frames, 16, stride=16, tail="drop", short="pad")
        assert counts[name] == len(spans), name
        assert padded[name] == sum(span.n_padded_frames for span in spans), name


@pytest.mark.parametrize("run", [{"batch_size": 1}, {"batch_size": 16}, {"workers": 4}])
def test_batch_size_and_workers_change_rounding_only(
    narrow_weights: Path, videos: Path, reference: Path, tmp_path: Path, run: dict[str, Any]
) -> None:
    with make(narrow_weights, **run) as other:
        list(other.extract_files([videos], tmp_path / "other.h5"))
    got, expected = table(tmp_path / "other.h5"), table(reference)
    for name, row in expected.items():
        assert np.linalg.norm(got[name] - row) <= 1e-5 * np.linalg.norm(row), name  # the bar, fp32


def test_tail_and_short_policies_reach_the_network(narrow_weights: Path, videos: Path) -> None:
    padded = make(narrow_weights, ExtractSettings(tail="pad"))
    back = make(narrow_weights, ExtractSettings(tail="back"))
    looped = make(narrow_weights, ExtractSettings(short="loop"))
    with padded, back, looped:
        a, b = padded.extract(videos / "a/two.mp4"), back.extract(videos / "a/two.mp4")
        np.testing.assert_array_equal(a.start_frames, [0, 16, 32])
        np.testing.assert_array_equal(b.start_frames, [0, 16, 24])
        assert not np.array_equal(a.clips[2], b.clips[2])
        short, loop = padded.extract(videos / "b/short.mp4"), looped.extract(videos / "b/short.mp4")
        assert short.end_frames.tolist() == [5]
        assert not np.array_equal(short.clips, loop.clips)


def test_several_layers_come_from_one_pass(narrow_weights: Path, videos: Path) -> None:
    layers = ("conv5b", "pool5", "fc6", "fc7", "fc8", "prob")
    with make(narrow_weights, ExtractSettings(layers=layers)) as all_layers:
        features = all_layers.extract(videos / "a/one.mp4")
    assert list(features.layers) == list(layers)
    np.testing.assert_allclose(features["prob"].sum(), 1, rtol=1e-5)
    assert (features["fc7"] >= 0).all()


def test_a_video_that_fails_raises_with_its_path(extractor: Extractor, tmp_path: Path) -> None:
    bad = tmp_path / "text.mp4"
    bad.write_text("not a video")
    with pytest.raises(VideoError, match=r"text\.mp4.*not a readable video"):
        extractor.extract(bad)


def test_short_videos_fail_where_that_is_asked_for(narrow_weights: Path, videos: Path) -> None:
    with (
        make(narrow_weights, ExtractSettings(short="fail")) as strict,
        pytest.raises(VideoError, match="only 5 frames"),
    ):
        strict.extract(videos / "b/short.mp4")


def test_leaving_the_loop_early_keeps_what_was_finished_and_the_rest_follows(
    extractor: Extractor, videos: Path, reference: Path, tmp_path: Path
) -> None:
    output = tmp_path / "feats.h5"
    for n, _ in enumerate(extractor.extract_files([videos], output), start=1):
        if n == 2:
            break
    n_finished = len(table(output))  # what ended with the same batch is stored together
    assert n_finished >= 2
    outcomes = list(extractor.extract_files([videos], output))
    assert sorted(o.status for o in outcomes) == ["ok"] * (6 - n_finished) + ["skipped"] * n_finished
    for name, row in table(reference).items():
        np.testing.assert_array_equal(table(output)[name], row)


def test_on_error_fail_ends_the_run_at_the_first_failure(extractor: Extractor, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("no")
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        list(extractor.extract_files([tmp_path], tmp_path / "out" / "feats.h5", on_error="fail"))


def test_a_second_run_on_the_same_output_is_refused(
    extractor: Extractor, videos: Path, tmp_path: Path
) -> None:
    first = iter(extractor.extract_files([videos], tmp_path / "feats.h5"))
    next(first)
    with pytest.raises(LockedError):
        extractor.extract_files([videos], tmp_path / "feats.h5")
    first.close()


def test_the_tensors_are_not_held_twice_and_a_closed_extractor_says_so(
    narrow_weights: Path, videos: Path
) -> None:
    with make(narrow_weights) as extractor:
        assert extractor.checkpoint.state
        extractor.extract(next(iter(sorted(videos.rglob("*.mp4")))))
        assert not extractor.checkpoint.state
    with pytest.raises(UsageError, match="closed"):
        extractor.extract(next(iter(videos.rglob("*.mp4"))))


def test_pca_is_refused_before_any_work(narrow_weights: Path, videos: Path, tmp_path: Path) -> None:
    for k, why in ((7, "there are 6"), (257, "only 256 dimensions")):
        with make(narrow_weights, ExtractSettings(pca=k)) as extractor, pytest.raises(PcaError, match=why):
            extractor.extract_files([videos], tmp_path / "feats.h5")
    assert not list(tmp_path.iterdir())


def test_pca_equals_scikit_learn_and_its_basis_gives_the_same_rows_again(
    narrow_weights: Path, videos: Path, reference: Path, tmp_path: Path
) -> None:
    from sklearn.decomposition import PCA

    from c3d_extract.output import load_basis

    with make(narrow_weights, ExtractSettings(pca=3)) as extractor:
        list(extractor.extract_files([videos], tmp_path / "train.h5"))
    got = np.stack(list(table(tmp_path / "train.h5").values()))
    expected = PCA(3, svd_solver="full").fit_transform(
        np.stack(list(table(reference).values())).astype(np.float64)
    )
    signs = np.sign((got * expected).sum(axis=0))
    assert np.abs(got - expected * signs).max() <= 1e-4 * np.abs(expected).max()
    with make(narrow_weights) as again:
        list(again.extract_files([videos], tmp_path / "test.h5", basis=load_basis(tmp_path / "train.pca.h5")))
    np.testing.assert_array_equal(np.stack(list(table(tmp_path / "test.h5").values())), got)


def test_a_file_extended_later_keeps_its_basis(narrow_weights: Path, videos: Path, tmp_path: Path) -> None:
    output, folder = tmp_path / "feats.h5", tmp_path / "growing"
    shutil.copytree(videos / "a", folder / "a")
    with make(narrow_weights, ExtractSettings(pca=2)) as extractor:
        list(extractor.extract_files([folder], output))
        before, basis = table(output), (tmp_path / "feats.pca.h5").read_bytes()
        shutil.copytree(videos, folder, dirs_exist_ok=True)
        list(extractor.extract_files([folder], output))
    after = table(output)
    assert len(after) == 6
    assert (tmp_path / "feats.pca.h5").read_bytes() == basis
    for name, row in before.items():
        np.testing.assert_array_equal(after[name], row)


def test_clip_rows_average_to_the_video_row(extractor: Extractor, videos: Path, tmp_path: Path) -> None:
    list(extractor.extract_files([videos], tmp_path / "feats.h5", clips=tmp_path / "clips.h5"))
    with FeatureFile(tmp_path / "clips.h5") as clips:
        names, rows = np.array(clips.videos), clips["fc6"]
        starts, seconds = clips.column("start_frame"), clips.column("start_seconds")
    for name, mean in table(tmp_path / "feats.h5").items():
        mine = rows[names == name].astype(np.float64)
        np.testing.assert_array_equal((mine.sum(axis=0) / len(mine)).astype(np.float32), mean)
        np.testing.assert_allclose(seconds[names == name], starts[names == name] / 25, atol=1e-6)


def test_a_folder_of_numbered_images_is_a_video(
    shared_data: Path, extractor: Extractor, tmp_path: Path
) -> None:
    folder = shared_data / "samples" / "facebook_C3D" / "frm"
    outcomes = list(extractor.extract_files([folder], tmp_path / "feats.h5", frame_folders=True))
    assert [(o.video, o.n_frames) for o in sorted(outcomes, key=lambda o: o.video)] == [
        ("v_ApplyEyeMakeup_g01_c01", 165),
        ("v_BaseballPitch_g01_c01", 107),
    ]


def test_what_there_is_says_what_it_is(extractor: Extractor, videos: Path, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    run = extractor.extract_files([videos], tmp_path / "feats.h5")
    assert len(run) == len(LENGTHS)
    assert repr(run) == f"<Extraction to {tmp_path / 'feats.h5'}: 0 of 6 videos>"
    assert len(list(run)) == len(run)
    assert repr(run) == f"<Extraction to {tmp_path / 'feats.h5'}: 6 of 6 videos>"
    assert repr(extractor) == "<Extractor narrow.pickle: fc6, stride 16, cpu, fp32>"
    assert repr(extractor.checkpoint).startswith("<Checkpoint narrow.pickle: c3d, sha256 ")
    features = extractor.extract(videos / "long.mp4")
    assert len(features) == 6
    assert repr(features) == "<Features of long.mp4: 6 clips, fc6 (256)>"
    table = features.to_pandas()
    assert isinstance(table, pd.DataFrame)
    assert list(table) == ["start_frame", "end_frame", "start_seconds", "end_seconds", "fc6"]
    np.testing.assert_array_equal(np.stack(list(table["fc6"])), features.clips)
    np.testing.assert_allclose(table["end_seconds"], (np.arange(6) * 16 + 15) / 25, atol=1e-6)


def test_class_names_are_in_the_file_where_there_is_a_value_a_class(videos: Path, tmp_path: Path) -> None:
    video, clips = videos / "a/one.mp4", tmp_path / "clips.h5"
    for layers, is_named in ((("fc6", "prob"), True), (("fc8",), True), (("fc6",), False)):
        with Extractor.from_weights("motion-mini", layers=layers, device="cpu") as extractor:
            names = extractor.checkpoint.labels
            assert names
            list(extractor.extract_files([video], tmp_path / "feats.h5", clips=clips, overwrite=True))
        for path in (tmp_path / "feats.h5", clips):
            with FeatureFile(path) as file:
                assert file.classes == (names if is_named else None)
                if is_named:
                    assert file.size_of(layers[-1]) == len(names)


def test_wrong_values_are_named(narrow_weights: Path) -> None:
    for run in ({"batch_size": 0}, {"workers": -1}, {"timeout_seconds": 0.0}):
        with pytest.raises(UsageError, match=r"must be (above 0|0 or more)"):
            make(narrow_weights, **run)
    for bad in (
        {"stride": 0},
        {"layers": ()},
        {"fps": float("nan")},
        {"fps": 0.0},
        {"tail": "keep"},
        {"pca": 0},
    ):
        with pytest.raises(UsageError):
            ExtractSettings(**bad)


def test_settings_can_be_given_as_keywords(narrow_weights: Path) -> None:
    given = ExtractSettings(layers=("fc7",), stride=8, tail="pad")
    with make(narrow_weights, stride=4, layers=["fc7", "prob"], l2=True) as extractor:
        assert extractor.settings.layers == ("fc7", "prob")
        assert (extractor.settings.stride, extractor.settings.l2, extractor.settings.tail) == (
            4,
            True,
            "drop",
        )
    with make(narrow_weights, given, layers="fc8") as extractor:  # over settings that are given
        assert extractor.settings == ExtractSettings(("fc8",), 8, "pad").for_backbone(
            extractor.checkpoint.backbone
        )
    with pytest.raises(UsageError, match="--stride: must be at least 1"):
        make(narrow_weights, stride=0)
    with pytest.raises(TypeError, match="'strde'"):
        make(narrow_weights, strde=8)


def test_every_setting_and_every_keyword_of_the_class_is_one_of_from_weights() -> None:
    own = inspect.signature(Extractor).parameters
    run = {name for name, each in own.items() if each.kind is inspect.Parameter.KEYWORD_ONLY}
    settings = {field.name for field in dataclasses.fields(ExtractSettings)}
    assert set(ExtractorOptions.__annotations__) == settings | run


def test_no_decoder_that_starts_ends_the_run_with_one_error(
    narrow_weights: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("c3d_extract.decode.pool._Worker", refuse)
    with make(narrow_weights) as extractor, pytest.raises(DecoderError, match="cannot be started"):
        extractor.extract(videos / "a/one.mp4")


def test_two_devices_write_the_file_of_one(
    narrow_weights: Path, videos: Path, reference: Path, tmp_path: Path
) -> None:
    # Six videos of up to six clips in batches of two: every longer video's clips are spread over both.
    for device, name in (("cpu", "one"), ("cpu,cpu", "two")):
        with Extractor.from_weights(
            str(narrow_weights), mean=MEAN, device=device, precision="fp32", batch_size=2, workers=2
        ) as extractor:
            assert len(extractor.networks) == len(device.split(","))
            list(extractor.extract_files([videos], tmp_path / f"{name}.h5"))
    one, two = table(tmp_path / "one.h5"), table(tmp_path / "two.h5")
    assert one.keys() == two.keys() == table(reference).keys()
    for name, row in one.items():
        np.testing.assert_array_equal(two[name], row)


def test_results_come_in_order_when_a_device_is_slow(
    narrow_weights: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from c3d_extract.compute.network import Pending

    waited: list[Pending] = []
    submitted: list[Pending] = []
    submit, result = Network.submit, Pending.result

    def submitting(self: Network, *args: Any) -> Pending:
        submitted.append(submit(self, *args))
        return submitted[-1]

    def waiting(self: Pending) -> Any:
        waited.append(self)
        return result(self)

    monkeypatch.setattr(Network, "submit", submitting)
    monkeypatch.setattr(Pending, "result", waiting)
    with Extractor.from_weights(
        str(narrow_weights), mean=MEAN, device="cpu,cpu,cpu", precision="fp32", batch_size=1
    ) as extractor:
        found = extractor.extract(videos / "long.mp4")
    assert waited == submitted
    assert len(waited) == 6
    np.testing.assert_array_equal(found.start_frames, np.arange(6) * 16)


def test_progress_says_where_the_time_went(narrow_weights: Path, videos: Path, tmp_path: Path) -> None:
    with make(narrow_weights) as extractor:
        run = extractor.extract_files([videos], tmp_path / "feats.h5")
        list(run)
    spent = run.progress
    assert 0 < spent.startup_seconds < spent.seconds
    assert spent.network_seconds > 0
    assert 0 < spent.handover_seconds < spent.seconds
    assert spent.network_seconds + spent.waiting_seconds + spent.store_seconds <= spent.seconds
