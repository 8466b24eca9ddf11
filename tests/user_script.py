"""What a user may write with every public name; mypy checks it as strictly as the package itself.

    python user_script.py VIDEOS OUTPUT
"""  # fmt: skip

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
from torch import nn
from torch.utils.data import DataLoader

import c3d_extract
from c3d_extract import (
    ARCHITECTURES,
    C3D,
    Architecture,
    C3DError,
    Checkpoint,
    ClipDataset,
    Extraction,
    Extractor,
    ExtractSettings,
    FeatureFile,
    Features,
    Outcome,
    PcaBasis,
    Progress,
    VideoFeatures,
    load_basis,
    load_checkpoint,
    read_report,
    save_checkpoint,
)

ON_CPU = "cpu"


def show(progress: Progress) -> None:
    logging.getLogger(__name__).info("%d of %d", progress.n_finished, progress.n_videos)


def extract_one(extractor: Extractor, video: Path) -> Features:
    features = extractor.extract(video)
    mean = features.mean()
    assert mean.dtype == np.float32
    frames = np.zeros((20, 48, 64, 3), np.uint8)
    of_bytes, of_frames = extractor.extract_batch([video.read_bytes(), video])
    with video.open("rb") as file:
        of_file = extractor.extract(file)
    assert (of_bytes.clips == of_frames.clips).all()
    assert (of_file.clips == features.clips).all()
    assert len(extractor.extract(frames, colour="rgb", fps=25)) == 1
    assert len(extractor.extract(iter(frames), colour="bgr", fps=25.0)) == 1
    for each in extractor.extract_batch([b"no video", video], return_exceptions=True):
        if isinstance(each, Exception):
            logging.getLogger(__name__).warning("%s", each)
        else:
            assert each.end_seconds[0] > each.start_seconds[0]
    assert list(features.to_pandas())[-1] == "fc7"
    return features


def extract_many(extractor: Extractor, videos: Path, output: Path) -> Extraction:
    extraction = extractor.extract_files(
        [videos], output, clips=output.with_name("clips.h5"), progress=show, on_error="skip"
    )
    outcomes: list[Outcome] = list(extraction)
    assert len(outcomes) == len(extraction)
    assert all(outcome.status in {"ok", "partial"} for outcome in outcomes)
    return extraction


def read(output: Path) -> None:
    with FeatureFile(output) as file:
        row = file.of(file.videos[0])
        assert (row["fc7"] == file["fc7"][0]).all()
        assert file.to_arrow().num_rows == len(file.to_pandas()) == len(file)
        assert file.classes is None
    basis: PcaBasis = load_basis(output.with_name(f"{output.stem}.pca.h5"))
    assert basis.n_components == 2
    assert {line["status"] for line in read_report(output.with_name(f"{output.stem}.report.jsonl"))} == {"ok"}


def fine_tune(checkpoint: Checkpoint, videos: Path) -> None:
    network = checkpoint.build(("fc6",))
    assert isinstance(network, C3D)
    architecture: Architecture = checkpoint.architecture
    assert architecture.layer_size("fc6") < ARCHITECTURES["c3d"].layer_size("fc6")
    dataset = ClipDataset([videos], checkpoint, shuffle=True, settings=ExtractSettings(stride=32))
    head = nn.Linear(architecture.layer_size("fc6"), len(dataset.classes))
    for batch in DataLoader(dataset, batch_size=2):
        loss = nn.functional.cross_entropy(head(network(batch.clip, ["fc6"])["fc6"]), batch.label)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        break


def main(videos: Path, output: Path) -> None:
    with Extractor.from_weights(
        "motion-mini", layers=["fc7"], stride=16, pca=2, device=ON_CPU, precision="fp32", offline=True
    ) as extractor:
        extract_one(extractor, videos / "a" / "two.mp4")
        extract_many(extractor, videos, output)
    read(output)
    checkpoint = load_checkpoint("motion-mini", layers=("prob",), offline=True)
    fine_tune(checkpoint, videos)
    save_checkpoint(
        output.with_name("copy.safetensors"),
        checkpoint.state,
        checkpoint.architecture,
        checkpoint.preprocessing,
        checkpoint.mean,
        name="copy",
    )
    transformer = VideoFeatures("motion-mini", layer="fc6", stride=64, device=ON_CPU)
    assert transformer.transform([videos / "a" / "one.mp4"]).shape[0] == 1
    try:
        Extractor.from_weights("no-such-model", device=ON_CPU)
    except C3DError as error:
        logging.getLogger(__name__).info("%s, with c3d-extract %s", error, c3d_extract.__version__)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
