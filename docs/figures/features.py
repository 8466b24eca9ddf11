"""Draw the picture of README.md: the samples of ``c3d-tools demo`` on a plane, by their features alone.

c3d-tools demo samples --per-class 16
c3d-extract samples --weights motion-mini -o feats.h5
python docs/figures/features.py samples feats.h5

It writes docs/images/features.jpg and needs the extras classify and plot.
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from c3d_extract import FeatureFile
from c3d_extract.decode import open_video

OUTPUT = Path(__file__).resolve().parents[1] / "images" / "features.jpg"
FRAME = 36  # the one that stands for its video


def thumbnail(path: Path) -> np.ndarray:
    """Return one frame, uint8 (60, 80, 3), R, G, B."""
    with open_video(path) as reader:
        frame = next(islice(reader.frames(), FRAME, None))
    return np.asarray(Image.fromarray(frame.bgr[:, :, ::-1]).resize((80, 60)))


def main(folder: Path, features: Path) -> None:
    """Draw every video of ``features`` where t-SNE puts it."""
    with FeatureFile(features) as file:
        X, names = file["fc6"][:], file.videos
    plane = TSNE(perplexity=30, random_state=0, init="pca")
    places = make_pipeline(Normalizer(), PCA(20), plane).fit_transform(X)
    classes = [name.split("/")[0] for name in names]
    colours = dict(zip(sorted(set(classes)), plt.get_cmap("Set2").colors, strict=False))
    figure, axes = plt.subplots(figsize=(9, 5.2), layout="constrained")
    for name, place, label in zip(names, places, classes, strict=True):
        image = OffsetImage(thumbnail(folder / name), zoom=0.42)
        edge = {"edgecolor": colours[label], "linewidth": 2.5, "boxstyle": "square,pad=0.05"}
        axes.add_artist(AnnotationBbox(image, place, bboxprops=edge))
    for label, colour in colours.items():
        axes.plot([], [], "s", color=colour, markersize=10, label=label)
    axes.update_datalim(places)
    axes.autoscale_view()
    axes.margins(0.06)
    axes.axis("off")
    figure.legend(loc="outside upper center", ncols=len(colours), frameon=False)
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=120, pil_kwargs={"quality": 85})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
