"""The paper's search for the temporal depth of kernels (Section 3.1), on synthetic motion and real videos.

    python benchmarks/depth_study.py OUTPUT [--videos ../shared/data/actions/ut_interaction]

The six nets of Section 3.1 at a small width, each with the same clips, the same budget and the same seeds.
What comes out: OUTPUT/results.json, OUTPUT/depth_homogeneous.png and OUTPUT/depth_varying.png in the manner
of the paper's Figure 2 (accuracy over epochs), and a table on stdout. Runs that are there already are not
done again, so it can be stopped and gone on with.

On synthetic data the classes are the 15 motions. `reversal` is the accuracy on clips of the six pairs of
motions that are each other's reverse, each clip shown forwards and backwards, with only the two classes of
the pair to choose from: a net that cannot see the direction of time is right exactly half of the time.
With --videos, the same nets learn from these from nothing as well; and `linear` is what the paper judges features
by: a linear SVM on fc6 of the nets that saw synthetic motion only, one sequence of videos left out at a time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from embedded import extract, score

from c3d_extract.errors import VideoError
from c3d_extract.models.c3d import ARCHITECTURES
from c3d_extract.preprocess.spec import Preprocessing
from c3d_extract.train import Intervals, Recipe, Trainer, TrainingSetup, VideoClipSet, VideoList, read_videos
from c3d_extract.train.recipes import RECIPES
from c3d_extract.train.synthetic import REVERSALS, SyntheticClips


def _swaps(*pairs: tuple[str, str]) -> dict[str, str]:
    return {a: b for pair in pairs for a, b in (pair, pair[::-1])}


NETS = ("depth-1", "depth-3", "depth-5", "depth-7", "increasing", "decreasing")


# The class that each motion becomes in a mirror, upside down, and run backwards.
MIRRORED = _swaps(REVERSALS[0], REVERSALS[2], REVERSALS[4])
UPSIDE_DOWN = _swaps(REVERSALS[1], REVERSALS[2])
BACKWARDS = _swaps(*REVERSALS)


class KeptClips:
    """Clips made once and shared by all nets: a `ClipSet`.

    Parameters
    ----------
    clips
        uint8 (N, T, H, W, 3).
    classes
        The classes of each.
    views
        Whether a clip of motion is shown to the net mirrored, upside down, backwards and in other colours,
        by chance, each with the label that it then has. What is tested on is never changed.
    """

    def __init__(
        self,
        clips: np.ndarray,
        classes: list[tuple[int, ...]],
        labels: tuple[str, ...],
        *,
        views: bool = False,
    ) -> None:
        self.clips, self.classes, self.labels, self.views = clips, classes, labels, views
        self.n_items: int | None = len(clips)

    def clip(self, item: int, rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, ...]]:
        clip, classes = self.clips[item], self.classes[item]
        return self._view(clip, classes, rng) if self.views else (clip, classes)

    def _view(
        self, clip: np.ndarray, classes: tuple[int, ...], rng: np.random.Generator
    ) -> tuple[np.ndarray, tuple[int, ...]]:
        name = self.labels[classes[0]].removeprefix("motion ")
        for axis, swaps in ((2, MIRRORED), (1, UPSIDE_DOWN), (0, BACKWARDS)):
            if rng.random() < 0.5:
                clip, name = np.flip(clip, axis), swaps.get(name, name)
        clip = clip[..., rng.permutation(3)]
        clip = 255 - clip if rng.random() < 0.5 else clip
        return np.ascontiguousarray(clip), (self.labels.index(f"motion {name}"),)

    def test_clips(self, item: int) -> list[tuple[np.ndarray, tuple[int, ...]]]:
        return [(self.clips[item], self.classes[item])]


def kept(kind: str, seed: int, n: int, size: int, folder: Path, *, views: bool = False) -> KeptClips:
    """Render ``n`` clips, or take those rendered before."""
    made = SyntheticClips(kind, seed, (16, size, size))
    clips, classes = (folder / f"{kind}-{seed}-{n}-{size}-{what}.npy" for what in ("clips", "classes"))
    if not classes.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.lib.format.open_memmap(clips, "w+", np.uint8, (n, 16, size, size, 3))
        found = []
        with ProcessPoolExecutor(mp_context=get_context("forkserver")) as pool:
            for index, (clip, label) in enumerate(pool.map(made.clip, range(n), chunksize=50)):
                pixels[index] = clip
                found.append(label)
        pixels.flush()
        np.save(classes, np.array(found))
    known = [tuple(map(int, row)) for row in np.load(classes)]
    return KeptClips(np.load(clips, mmap_mode="r"), known, made.labels, views=views)


@torch.no_grad()
def reversal_accuracy(trainer: Trainer, clips: KeptClips) -> float:
    """Accuracy on clips forwards and backwards, between the two classes of each pair."""
    labels = trainer.setup.labels
    partner = {f"motion {a}": f"motion {b}" for pair in REVERSALS for a, b in (pair, pair[::-1])}
    trainer.net.eval()
    right = []
    for clip, (label,) in zip(clips.clips, clips.classes, strict=True):
        true, other = (labels.index(n) for n in (clips.labels[label], partner[clips.labels[label]]))
        both = torch.from_numpy(np.stack([clip, clip[::-1]]))
        scores = trainer.net(trainer.input(both)).double()
        margin = scores[:, true] - scores[:, other]
        # A net that gives both the same score, up to rounding, has said the same of both.
        if bool((margin[0] - margin[1]).abs() < 1e-4 * (1 + margin.abs().max())):
            right.append(0.5)
        else:
            right.append(float(((margin[0] > 0).float() + (margin[1] < 0).float()) / 2))
    return float(np.mean(right))


def setup_for(
    net: str, labels: tuple[str, ...], recipe: Recipe, arguments: argparse.Namespace, *, seed: int, data: str
) -> TrainingSetup:
    size = arguments.size
    architecture = dataclasses.replace(
        ARCHITECTURES[net].scaled(arguments.width), clip=(16, size, size), n_classes=len(labels)
    )
    preprocessing = Preprocessing(resize=(size * 8 // 7, size * 171 // 112), crop=(size, size))
    mean = np.full((3, 1, 1, 1), 110, np.float32)
    return TrainingSetup(architecture, preprocessing, mean, recipe, labels, {"data": data}, seed=seed)


def train(
    folder: Path, setup: TrainingSetup, source: object, test: object, *, n_tests: int
) -> tuple[Trainer, list[float]]:
    """Train one net, or go on; return it and the test accuracies on the way."""
    every = -(-setup.recipe.iterations // n_tests)
    trainer = Trainer(folder, setup, source, test, intervals=Intervals(every, every, every))  # type: ignore[arg-type]
    for entry in trainer.run():
        print(f"  {folder.name}: {entry.iteration} loss {entry.loss:.3f} test {entry.test_clips}", flush=True)
    rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()]
    column = rows[0].index("test_clips" if not isinstance(test, VideoClipSet) else "test_videos")
    return trainer, [float(row[column]) for row in rows[1:] if row[column]]


def synthetic_study(arguments: argparse.Namespace) -> dict[str, dict[str, list]]:
    learn = kept("motion", 100, arguments.clips, arguments.size, arguments.output / "clips", views=True)
    test = kept("motion", 101, 1000, arguments.size, arguments.output / "clips")
    pairs = kept("reversal", 102, 200, arguments.size, arguments.output / "clips")
    recipe = RECIPES["synthetic"].with_changes(
        {"batch_size": 30, "epochs": arguments.epochs, "iterations": None, "augment": False}
    )
    recipe = dataclasses.replace(recipe, epochs=arguments.epochs).fixed(len(learn.clips))
    found: dict[str, dict[str, list]] = {
        net: {"curves": [], "reversal": [], "linear": []} for net in arguments.nets
    }
    videos = sorted(arguments.videos.glob("*/*")) if arguments.videos else []
    for seed in range(arguments.seeds):
        for net in arguments.nets:
            setup = setup_for(net, learn.labels, recipe, arguments, seed=seed, data="synthetic motion")
            run = arguments.output / f"motion-{net}-{seed}"
            trainer, curve = train(run, setup, learn, test, n_tests=arguments.tests)
            found[net]["curves"].append(curve)
            found[net]["reversal"].append(reversal_accuracy(trainer, pairs))
            if videos:
                features = extract(run / "model.safetensors", videos, stride=16)["fc6"]
                found[net]["linear"].append(float(score(features, videos)[0]))
    return found


def decoded(source: VideoClipSet, n: int, seed: int) -> KeptClips:
    """``n`` training clips of videos, cut once."""
    rng, clips, classes = np.random.default_rng(seed), [], []
    for k in range(n):
        try:
            clip, labels = source.clip(k % (source.n_items or 1), rng)
        except VideoError as error:
            print(f"left out: {error}")
            continue
        clips.append(clip)
        classes.append(labels)
    return KeptClips(np.stack(clips), classes, source.labels)


def video_study(arguments: argparse.Namespace) -> dict[str, dict[str, list]]:
    """Two folds: sequences (third field of the name) of odd number, and of even number."""
    every = read_videos(arguments.videos)
    recipe = RECIPES["synthetic"].with_changes({"batch_size": 30, "mirror": 0.5, "augment": False})
    recipe = dataclasses.replace(recipe, epochs=arguments.video_epochs)
    found: dict[str, dict[str, list]] = {net: {"curves": []} for net in arguments.nets}
    for fold in (0, 1):
        parts = [
            VideoList(
                tuple(v for v in every.videos if (int(v.path.stem.split("_")[2]) + fold) % 2 == k),
                every.labels,
            )
            for k in (0, 1)
        ]
        shape = setup_for("depth-3", every.labels, recipe, arguments, seed=0, data="").preprocessing
        learn = decoded(VideoClipSet(parts[0], shape, recipe, seed=0), arguments.video_clips, seed=fold)
        test = VideoClipSet(parts[1], shape, recipe, seed=0)
        fixed = recipe.fixed(len(learn.clips))
        for seed in range(arguments.seeds):
            for net in arguments.nets:
                setup = setup_for(net, every.labels, fixed, arguments, seed=seed, data=f"videos, fold {fold}")
                run = arguments.output / f"videos{fold}-{net}-{seed}"
                found[net]["curves"].append(train(run, setup, learn, test, n_tests=1)[1])
    return found


def draw(found: dict[str, dict[str, list]], output: Path, title: str, *, n_seen: int) -> None:
    """Accuracy while learning: constant depths in one picture, varying ones in the other, as Figure 2.

    The median of the seeds, and each seed as a thin line.
    """
    from matplotlib.figure import Figure

    pictures = {"homogeneous": NETS[:4], "varying": ("depth-3", "increasing", "decreasing")}
    for name, nets in pictures.items():
        figure = Figure(figsize=(5, 4), layout="constrained")
        axes = figure.subplots()
        for net in (n for n in nets if n in found):
            curves = np.array(found[net]["curves"])
            seen = np.arange(1, curves.shape[1] + 1) / curves.shape[1] * n_seen / 1000
            (line,) = axes.plot(seen, np.median(curves, axis=0), marker=".", label=net)
            axes.plot(seen, curves.T, linewidth=0.6, alpha=0.6, color=line.get_color())
        axes.set(xlabel="clips seen (thousands)", ylabel="clip accuracy", title=title)
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
        figure.savefig(output / f"depth_{name}.png", dpi=110)


def table(studies: dict[str, dict[str, dict[str, list]]]) -> str:
    lines = [
        "| net | data | mean ± deviation | each run | time-reversed pairs | linear, videos |",
        "|---|---|---|---|---|---|",
    ]
    for data, found in studies.items():
        for net, results in found.items():
            last = [curve[-1] for curve in results["curves"]]
            each = " ".join(f"{x:.3f}" for x in last)
            others = " | ".join(_told(results.get(name, [])) for name in ("reversal", "linear"))
            lines.append(f"| {net} | {data} | {_told(last)} | {each} | {others} |")
    return "\n".join(lines)


def _told(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}" if values else ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=NETS)
    parser.add_argument("--width", type=float, default=1 / 16)
    parser.add_argument("--size", type=int, default=40)
    parser.add_argument("--clips", type=int, default=3000, help="synthetic clips to learn from")
    parser.add_argument("--video-clips", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--video-epochs", type=int, default=8)
    parser.add_argument("--tests", type=int, default=8, help="tests on the way, for the curves")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    studies = {"synthetic motion": synthetic_study(arguments)}
    if arguments.videos:
        studies["videos"] = video_study(arguments)
    told = {
        name: getattr(arguments, name)
        for name in ("width", "size", "clips", "epochs", "video_clips", "video_epochs", "seeds")
    }
    (arguments.output / "results.json").write_text(
        json.dumps({"settings": told, "results": studies}, indent=1)
    )
    title = f"Synthetic motion, width {arguments.width:g}"
    draw(studies["synthetic motion"], arguments.output, title, n_seen=arguments.clips * arguments.epochs)
    print(table(studies))


if __name__ == "__main__":
    main()
