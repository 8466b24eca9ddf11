"""``c3d-tools train``: train a network on videos or on synthetic clips."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from c3d_extract.cli.common import EXIT_INTERRUPTED, guarded, note, put_json
from c3d_extract.cli.options import (
    debug_option,
    device_option,
    json_option,
    overwrite_option,
    precision_option,
    quiet_option,
    seed_option,
)
from c3d_extract.errors import StoreError, UsageError
from c3d_extract.train.recipes import RECIPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from c3d_extract.models.base import Backbone
    from c3d_extract.models.c3d import Architecture
    from c3d_extract.preprocess.spec import Preprocessing
    from c3d_extract.train.data import ClipSet
    from c3d_extract.train.lists import VideoList
    from c3d_extract.train.loop import Trainer
    from c3d_extract.train.recipes import Recipe
    from c3d_extract.train.report import LogEntry
    from c3d_extract.train.state import TrainingSetup
    from c3d_extract.weights import Checkpoint

    Options = dict[str, Any]
    Say = Callable[[str], object]

__all__ = ["command"]

RECIPE_OPTIONS: tuple[tuple[str, Any, str], ...] = (
    ("batch_size", int, "Clips an iteration, of all processes together."),
    ("iterations", int, "Iterations in all."),
    ("epochs", int, "Passes over the training clips, instead of --iterations."),
    ("optimizer", click.Choice(["sgd", "adamw"]), "How the weights follow the gradient."),
    ("rate", float, "Learning rate at the start."),
    ("momentum", float, "Momentum of SGD."),
    ("decay", float, "Weight decay."),
    ("schedule", click.Choice(["step", "cosine"]), "How the rate falls."),
    ("gamma", float, "Step schedule: what the rate is multiplied by."),
    ("every", int, "Step schedule: iterations (epochs, with --epochs) between falls."),
    ("dropout", float, "After fc6 and fc7; of other networks before the last layer."),
    ("initial", click.Choice(["gaussian", "he"]), "C3D's initial weights: the authors' or He's."),
    ("mirror", float, "Chance of mirroring a clip."),
    ("augment", bool, "Crop, mirror, recolour and partly erase clips at random."),
    ("summary", float, "Weight of predicting from fc6 where a clip is bright, changes and moves; 0: none."),
    ("max_gradient", float, "Gradients of a larger norm are scaled down to it."),
    ("clips_per_video", int, "Training clips a video in an epoch."),
    ("segment_seconds", float, "Length of the segment each clip is cut from; 0: the whole video."),
)


class _Network(NamedTuple):
    """A network to be trained, and what it takes."""

    backbone: Backbone
    preprocessing: Preprocessing
    mean: NDArray[np.float32]


def _recipe_options(function: Any) -> Any:
    """Add an option for each number of a recipe."""
    for name, kind, text in reversed(RECIPE_OPTIONS):
        option = click.option(
            f"--{name.replace('_', '-')}", type=kind, help=f"{text}  [default: the recipe's]"
        )
        function = option(function)
    return function


def _recipe_table() -> str:
    """Return the numbers of each recipe, a line for each option."""
    options = [name for name, _, _ in RECIPE_OPTIONS] + ["batch_norm"]
    names = ["", *(option.replace("_", "-") for option in options)]
    columns = [[f"{name:{max(map(len, names))}}" for name in names]]
    for name, recipe in RECIPES.items():
        values = [name, *(_short(getattr(recipe, option)) for option in options)]
        columns.append([f" {value:>{max(map(len, values))}}" for value in values])
    lines = map("".join, zip(*columns, strict=True))
    return "\n".join(["\b", "Recipes, and their defaults of the options above:", *lines])


def _short(value: object) -> str:
    words = {None: "-", True: "yes", False: "no"}
    if value is None or isinstance(value, bool):
        return words[value]
    return f"{value:,}" if isinstance(value, int) else str(value)


@click.command(
    epilog=_recipe_table(),
    help="""Train a network on DATA.

    DATA is a folder with a folder of videos for each class; a list of `path label` lines or a CSV; an
    official UCF101 or Sports-1M list; or `synthetic`, `synthetic:motion`, `synthetic:reversal`,
    `synthetic:shapes`, `synthetic:figures`. A folder of numbered images is a video, too. A run that was
    stopped continues where it was. Under torchrun it uses all processes.""",
)
@click.argument("data")
@click.option(
    "-o", "--output", "folder", required=True, type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the run: model.safetensors, state.pt, log.csv, curve.png.",
)  # fmt: skip
@click.option(
    "--test", "test_data", help="What to test on: as DATA. For synthetic data: clips of another seed."
)
@click.option(
    "--root", type=click.Path(path_type=Path), help="Where paths in lists start; default: the list's folder."
)
@click.option(
    "--recipe",
    "recipe_name",
    default=None,
    help=f"{', '.join(RECIPES)}.  [default: finetune with --from, last-layer with --freeze, synthetic for "
    "synthetic data, else ucf101]",
)
@click.option("--arch", default=None, help="Architecture, see `c3d-tools archs`.  [default: c3d]")
@click.option("--width", type=float, default=None, help="Multiplies the filters.  [default: 1]")
@click.option(
    "--spatial", type=click.Choice(["3", "5"]), default=None, help="Spatial kernel size.  [default: 3]"
)
@click.option(
    "--size", type=(int, int, int, int), default=None, metavar="R C r c",
    help="Resize frames to R x C and crop r x c.  [default: 128 171 112 112]",
)  # fmt: skip
@click.option(
    "--mean",
    default=None,
    help="Subtracted: B,G,R, or a binaryproto or npy file.  [default: 110,110,110]",
)
@click.option(
    "--from",
    "start",
    default=None,
    help="Start from a checkpoint, of C3D or another network: a registered name or a file.",
)
@click.option(
    "--freeze", is_flag=True, help="With --from: train the last layer alone, and keep the others as they are."
)
@click.option(
    "--batch-norm/--no-batch-norm", default=None, help="Batch norm while training, folded away afterwards."
)
@_recipe_options
@seed_option("Decides everything random.")
@click.option(
    "--n-test", type=click.IntRange(1), default=512, show_default=True, help="Synthetic clips to test on."
)
@device_option()
@precision_option("bf16: mixed precision on a GPU. auto: bf16 on a GPU, else fp32.", ("auto", "fp32", "bf16"))
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=None,
    help="Processes that make clips.  [default: by the cores]",
)
@click.option("--threads", type=click.IntRange(1), default=None, help="CPU threads of the network.")
@click.option(
    "--report-every",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Iterations between reports.",
)
@click.option(
    "--test-every", type=click.IntRange(1), default=500, show_default=True, help="Iterations between tests."
)
@click.option(
    "--save-every", type=click.IntRange(1), default=200, show_default=True, help="Iterations between saves."
)
@click.option("--half", is_flag=True, help="Store the finished model in half precision.")
@overwrite_option("Start over where the folder holds a run.")
@json_option
@quiet_option
@debug_option
@guarded
def command(data: str, folder: Path, **options: Any) -> None:
    """Train, and write the model."""
    # Several BLAS threads in each of several processes hinder one another.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import torch

    from c3d_extract.train.processes import Processes

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    device = _device(options["device"])
    with Processes(device):
        last = _train(data, folder, options, device)
    if last is not None and options["as_json"]:
        put_json({"model": str(folder / "model.safetensors"), **last})


def _train(data: str, folder: Path, options: Options, device: torch.device) -> dict[str, Any] | None:
    """Train, and return the last measurements in the first process, None in the others."""
    from torch import distributed

    from c3d_extract.train.loop import Intervals, Trainer

    setup, clips, test = _setup(data, options)
    first = not distributed.is_initialized() or distributed.get_rank() == 0
    say = note if first and not options["quiet"] else _say_nothing
    if first:
        _prepare_folder(folder, overwrite=options["overwrite"])
    if distributed.is_initialized():
        distributed.barrier()
    trainer = Trainer(
        folder,
        setup,
        clips,
        test,
        device=device,
        precision=_precision(options["precision"], device),
        n_workers=_workers(options["workers"]),
        intervals=Intervals(options["report_every"], options["test_every"], options["save_every"]),
    )
    say(_headline(setup, clips, trainer.iteration))
    if trainer.new_tensors:
        say(f"New, not from {setup.start_name}: {', '.join(trainer.new_tensors)}")
    entry = _run(trainer, say)
    return _finish(trainer, entry, say, half=options["half"]) if first else None


def _say_nothing(_: str) -> None:
    pass


def _run(trainer: Trainer, say: Say) -> LogEntry | None:
    """Train to the end, and return the last log entry, if there was one; exit where it was stopped."""
    entry = None
    with _stopping(trainer, loud=say is note):
        for entry in trainer.run():
            _print_entry(entry, trainer.setup.recipe, say)
    if not trainer.finished:
        say(f"Stopped after iteration {trainer.iteration}; the same command continues from there.")
        sys.exit(EXIT_INTERRUPTED)
    return entry


def _finish(trainer: Trainer, entry: LogEntry | None, say: Say, *, half: bool) -> dict[str, Any]:
    """Write the model and the curve, and return the last measurements."""
    trainer.write_model("fp16" if half else "fp32")
    say(f"Model: {trainer.folder / 'model.safetensors'}")
    _draw(trainer, entry, say)
    return {} if entry is None else {key: value for key, value in vars(entry).items() if key != "failures"}


def _prepare_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse what would wait forever, and a model that is not this run's; remove a run to overwrite."""
    if folder.exists() and not folder.is_dir():
        raise StoreError("is no folder", subject=folder)
    for name in ("state.pt", "model.safetensors", "log.csv", "curve.png"):
        if (folder / name).exists() and not (folder / name).is_file():
            raise StoreError("is no regular file", subject=folder / name)
    if (folder / "model.safetensors").exists() and not (folder / "state.pt").exists() and not overwrite:
        raise StoreError(
            "is there without the state.pt of a run to go on",
            subject=folder / "model.safetensors",
            hint="name another folder, or --overwrite",
        )
    if overwrite:
        for name in ("state.pt", "log.csv"):
            (folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _stopping(trainer: Trainer, *, loud: bool) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM (a scheduler's end of time) stop the training between two steps, once."""
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]

    def stop(*_: object) -> None:
        trainer.stop_asked = True
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        if loud:
            # Not through sys.stderr, in whose middle this may be.
            with contextlib.suppress(OSError):
                os.write(2, b"Stopping after this iteration; once more ends it at once, without saving.\n")

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _device(name: str) -> torch.device:
    """Choose a device; under torchrun each process takes a GPU of its own."""
    import torch

    from c3d_extract.compute.devices import choose_device

    rank = os.environ.get("LOCAL_RANK")
    if rank is not None and name.startswith("cuda:") and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "several processes cannot share a GPU", subject=f"--device {name}", hint="use --device cuda"
        )
    if rank is not None and name in {"auto", "cuda"} and torch.cuda.is_available():
        name = f"cuda:{rank}"
    device = choose_device(name)
    if name == "auto" and device.type == "mps":
        # Batch norm of 3-D maps has ended the process on Metal (pytorch#190645).
        return torch.device("cpu")
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _precision(asked: str, device: torch.device) -> str:
    from c3d_extract.compute.precision import choose_precision, has_bf16

    if asked == "auto":
        return "bf16" if device.type == "cuda" and has_bf16(device) else "fp32"
    if asked == "bf16" and device.type != "cuda":
        # Gradients of 3-D convolutions in bf16 came out wrong on CPUs in several releases of torch.
        raise UsageError(
            "mixed precision is for GPUs", subject="--precision bf16", hint="train in fp32 on a CPU"
        )
    return choose_precision("bf16" if asked == "bf16" else "fp32", device)


def _workers(asked: int | None) -> int:
    from c3d_extract.compute.devices import usable_cores

    return max(1, usable_cores() - 1) if asked is None else asked


def _setup(data: str, options: Options) -> tuple[TrainingSetup, ClipSet, ClipSet | None]:
    """Put together what is trained, the clips it learns from, and what it is tested on."""
    from c3d_extract.train.state import TrainingSetup

    start = _start(options)
    name, recipe = _recipe(data, options)
    network = (
        _new_network(options) if start is None else _Network(start.backbone, start.preprocessing, start.mean)
    )
    clips, test, description = _clip_sets(data, options, network, recipe)
    setup = TrainingSetup(
        architecture=network.backbone.with_classes(len(clips.labels)),
        preprocessing=network.preprocessing,
        mean=network.mean,
        recipe=recipe.fixed(clips.n_items),
        labels=clips.labels,
        data=description | {"recipe": name},
        seed=options["seed"],
        start={} if start is None else start.state,
        start_name=None if start is None else f"{start.name}, sha256 {start.sha256}",
        last_layer_only=options["freeze"],
    )
    return setup, clips, test


def _start(options: Options) -> Checkpoint | None:
    from c3d_extract.models.c3d import Architecture
    from c3d_extract.weights import load_checkpoint

    if options["start"] is None:
        if options["freeze"]:
            raise UsageError("keeps what a checkpoint has learned", subject="--freeze", hint="give --from")
        return None
    for other in ("arch", "width", "spatial", "size", "mean"):
        if options[other] is not None:
            raise UsageError("comes from the checkpoint", subject=f"--{other} with --from")
    if options["batch_norm"]:
        raise UsageError(
            "a finished network has its batch norm folded away", subject="--batch-norm with --from"
        )
    start = load_checkpoint(options["start"])
    if options["initial"] is not None and not isinstance(start.backbone, Architecture):
        reason = f"is for C3D and its family, and {start.name} is a {start.backbone.name}"
        raise UsageError(reason, subject="--initial")
    return start


def _recipe(data: str, options: Options) -> tuple[str, Recipe]:
    usual = "synthetic" if data.startswith("synthetic") else "ucf101"
    if options["start"]:
        usual = "last-layer" if options["freeze"] else "finetune"
    name = options["recipe_name"] or usual
    if name not in RECIPES:
        raise UsageError(f"unknown; known: {', '.join(RECIPES)}", subject=f"--recipe {name}")
    batch_norm = False if options["start"] else options["batch_norm"]
    return name, RECIPES[name].with_changes(
        {key: options[key] for key, _, _ in RECIPE_OPTIONS} | {"batch_norm": batch_norm}
    )


def _new_network(options: Options) -> _Network:
    """Describe a network that starts from initial weights."""
    preprocessing = _preprocessing(options)
    architecture = _architecture(options, preprocessing.crop)
    mean = _mean(options["mean"] or "110,110,110", preprocessing, architecture.clip[0])
    return _Network(architecture, preprocessing, mean)


def _preprocessing(options: Options) -> Preprocessing:
    from c3d_extract.errors import WeightsError
    from c3d_extract.preprocess.spec import Preprocessing

    rows, columns, *crop = options["size"] or (128, 171, 112, 112)
    try:
        return Preprocessing.from_json(
            {"resize": (rows, columns), "crop": crop, "colour": "bgr", "std": (1, 1, 1)}
        )
    except WeightsError as error:
        raise UsageError(error.reason, subject="--size") from error


def _mean(text: str, preprocessing: Preprocessing, n_frames: int) -> NDArray[np.float32]:
    import numpy as np

    from c3d_extract.preprocess.mean import fit_mean
    from c3d_extract.weights import read_mean

    parts = text.split(",")
    if len(parts) != 3:
        return fit_mean(read_mean(Path(text)).array, preprocessing, n_frames)
    try:
        return fit_mean(np.array([float(part) for part in parts]), preprocessing, n_frames)
    except ValueError as error:
        raise UsageError("not three numbers B,G,R", subject=f"--mean {text}") from error


def _architecture(options: Options, crop: tuple[int, int]) -> Architecture:
    import dataclasses

    from c3d_extract.models.c3d import ARCHITECTURES

    name = options["arch"] or "c3d"
    if name not in ARCHITECTURES:
        raise UsageError(f"unknown; known: {', '.join(ARCHITECTURES)}", subject=f"--arch {name}")
    width = 1.0 if options["width"] is None else options["width"]
    if not 0 < width <= 8:
        raise UsageError("must be above 0 and at most 8", subject=f"--width {width:g}")
    architecture = ARCHITECTURES[name].scaled(width)
    return dataclasses.replace(architecture, spatial=int(options["spatial"] or 3), clip=(16, *crop))


def _clip_sets(
    data: str, options: Options, network: _Network, recipe: Recipe
) -> tuple[ClipSet, ClipSet | None, dict[str, Any]]:
    """Return what to learn from, what to test on, and a description for the record."""
    if data == "synthetic" or data.startswith("synthetic:"):
        return _synthetic(data.partition(":")[2] or "all", options, network.backbone.clip, recipe)
    from c3d_extract.train.lists import read_videos

    train = read_videos(Path(data), root=options["root"])
    if train.n_missing and not options["quiet"]:
        note(f"{train.n_missing} videos of {data} are not there and are left out.")
    clips = _of_videos(train, network, recipe, options["seed"])
    n_videos, n_classes = len(train.videos), len(train.labels)
    description = {"list": Path(data).name, "videos": n_videos, "classes": n_classes}
    if options["test_data"] is None:
        return clips, None, description
    test = read_videos(Path(options["test_data"]), root=options["root"], labels=train.labels)
    each_once = recipe.with_changes({"clips_per_video": 1})
    return clips, _of_videos(test, network, each_once, 0), description


def _of_videos(videos: VideoList, network: _Network, recipe: Recipe, seed: int) -> ClipSet:
    from c3d_extract.train.data import VideoClipSet

    backbone = network.backbone
    return VideoClipSet(
        videos,
        network.preprocessing,
        recipe,
        seed=seed,
        n_frames=backbone.clip[0],
        fps=backbone.fps,
        frame_step=backbone.frame_step,
    )


def _synthetic(
    kind: str, options: Options, clip: tuple[int, int, int], recipe: Recipe
) -> tuple[ClipSet, ClipSet, dict[str, Any]]:
    from c3d_extract.train.augment import size_before
    from c3d_extract.train.data import SyntheticClipSet
    from c3d_extract.train.synthetic import SyntheticClips

    if options["test_data"] is not None:
        raise UsageError("synthetic data is tested on clips of another seed", subject="--test")
    seed, (n_frames, *crop) = options["seed"], clip
    size = size_before((crop[0], crop[1])) if recipe.augment else (crop[0], crop[1])
    train = SyntheticClipSet(SyntheticClips(kind, 2 * seed, (n_frames, *size)))
    test = SyntheticClipSet(SyntheticClips(kind, 2 * seed + 1, clip), n_items=options["n_test"])
    return train, test, {"synthetic": kind, "seed": 2 * seed, "test_seed": 2 * seed + 1, "rendered": size}


def _headline(setup: TrainingSetup, clips: ClipSet, done: int) -> str:
    arch, recipe = setup.architecture, setup.recipe
    cost = arch.operations() / 2e9
    size = "x".join(map(str, arch.clip))
    rate = "" if arch.fps is None else f" at {arch.fps:g} frames a second"
    n_clips = "endless clips" if clips.n_items is None else f"{clips.n_items} clips"
    begun = f", from iteration {done}" if done else ""
    return (
        f"{arch.name}, {arch.n_parameters():,} parameters, {cost:.2f} G multiply-adds a {size} clip{rate}; "
        f"{len(setup.labels)} classes, {n_clips}; "
        f"{recipe.iterations:,} iterations of {recipe.batch_size}{begun}"
    )


def _print_entry(entry: LogEntry, recipe: Recipe, say: Say) -> None:
    line = (
        f"{entry.iteration:>7}/{recipe.iterations}  loss {entry.loss:.3f}  accuracy {entry.accuracy:.3f}  "
        f"{entry.clips_per_second:.1f} clips/s"
    )
    if entry.test_clips is not None:
        line += f"  test: clips {entry.test_clips:.3f}, videos {entry.test_videos:.3f}"
    say(line)
    for failure in dict.fromkeys(entry.failures):
        say(f"  left out: {failure}")


def _draw(trainer: Trainer, entry: LogEntry | None, say: Say) -> None:
    from c3d_extract.train.evaluate import chance_accuracy
    from c3d_extract.train.report import draw_curve

    picture = trainer.folder / "curve.png"
    title, chance = _curve_title(trainer.setup, entry), chance_accuracy(trainer.setup.labels)
    try:
        draw_curve(trainer.folder / "log.csv", picture, title=title, chance=chance)
    except UsageError as error:
        say(f"No picture of the curve: {error}")
    else:
        say(f"Curve: {picture}")


def _curve_title(setup: TrainingSetup, entry: LogEntry | None) -> str:
    """Say the network, how it was trained, and its last accuracy."""
    recipe, n_classes = setup.recipe, len(setup.labels)
    how = f"recipe {setup.data['recipe']}, {recipe.iterations:,} iterations of {recipe.batch_size} clips"
    title = f"{setup.architecture.name}, {n_classes} classes; {how}"
    if entry is None or entry.test_videos is None:
        return title
    return f"{title}\ntest accuracy {entry.test_videos:.3f} (videos), {entry.test_clips:.3f} (clips)"
