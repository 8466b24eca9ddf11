"""The public face: an Extractor owns a checkpoint, devices and decoders, and builds streams and runs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import platform
import threading
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, cast, overload

import torch

from c3d_extract.compute.batch_size import batch_size_for
from c3d_extract.compute.devices import choose_devices, device_name, usable_cores
from c3d_extract.compute.network import Network
from c3d_extract.compute.precision import common_precision
from c3d_extract.decode import DecodeOptions
from c3d_extract.decode.process import may_start_processes
from c3d_extract.errors import UsageError
from c3d_extract.models.base import CLASS_LAYERS
from c3d_extract.output import OutputPaths, RunIdentity, RunStore, StoreOptions, check_n_components
from c3d_extract.pipeline.batch import batches_of
from c3d_extract.pipeline.decoders import Decoders, InMemoryDecoders
from c3d_extract.pipeline.inputs import read_inputs
from c3d_extract.pipeline.results import Progress
from c3d_extract.pipeline.run import Extraction
from c3d_extract.pipeline.stream import Stream, StreamParts
from c3d_extract.preprocess.resize import sampler_for
from c3d_extract.settings import ExtractSettings, Precision
from c3d_extract.sources.find import Found, find_videos
from c3d_extract.weights import load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from typing import Unpack

    from c3d_extract.models.c3d import Pool5
    from c3d_extract.output import JSON
    from c3d_extract.pipeline.batch import InputBatch
    from c3d_extract.pipeline.inputs import VideoInput
    from c3d_extract.pipeline.results import Features
    from c3d_extract.pipeline.run import RunOptions
    from c3d_extract.preprocess.spec import Colour
    from c3d_extract.settings import Crops, Precision, Short, Tail
    from c3d_extract.sources.source import Source
    from c3d_extract.weights import Checkpoint

__all__ = ["Extractor", "ExtractorOptions", "library_versions", "suitable_workers"]

_log = logging.getLogger(__name__)


class ExtractorOptions(TypedDict, total=False):
    """Keywords of `Extractor.from_weights`: those of `ExtractSettings` and of `Extractor`."""

    layers: str | Sequence[str] | None
    stride: int | None
    tail: Tail
    short: Short
    crops: Crops
    fps: float | Literal["source"] | None
    l2: bool
    pca: int | None
    strict: bool
    max_pixels: int
    device: str
    precision: Precision | Literal["auto"]
    batch_size: int | None
    workers: int | Literal["auto"] | None
    timeout_seconds: float


class Extractor:
    """Turns videos into C3D descriptors.

    One Extractor may have several runs at a time, in one thread (two loops that take turns, `extract` in the
    loop over `extract_files`) or in several: each run has decoders to itself, all share the networks, and
    every run's features are those that it would have alone, to the bit. Closing it ends the runs in
    progress, with a UsageError in each. It belongs to the process that made it: a fork of that process must
    make its own.

    Parameters
    ----------
    checkpoint
        From `c3d_extract.weights.load_checkpoint`; holds the tensors that ``settings.layers`` need. The
        attribute ``checkpoint`` is without them from when the networks are built.
    settings
        What changes the numbers.
    device
        Where to compute: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; or several, ``cuda:0,cuda:1``, or ``all``
        CUDA devices: each holds the network, and batches go to them in turn. ``auto`` chooses by the machine.
    precision
        ``auto`` is the fastest on this device within 1 % of fp32.
    batch_size
        Clips a batch; None chooses by the device.
    workers
        Decoder processes of each run; where None or ``auto`` chooses, their number grows while the network
        waits for them. 0 decodes in this process: a video that crashes the decoder then ends this process,
        and ``timeout_seconds`` ends nothing. That is chosen by itself in a daemonic process, such as the
        workers of a multiprocessing Pool and of a DataLoader.
    timeout_seconds
        A video fails after so long without a decoded frame.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: ExtractSettings | None = None,
        *,
        device: str = "auto",
        precision: Precision | Literal["auto"] = "auto",
        batch_size: int | None = None,
        workers: int | Literal["auto"] | None = None,
        timeout_seconds: float = 60.0,
    ) -> None:
        self.checkpoint = checkpoint
        backbone = checkpoint.backbone
        self.settings = (settings or ExtractSettings()).for_backbone(backbone)
        backbone.check_layers(self.settings.layers)
        for option, value in (("--batch-size", batch_size), ("--timeout", timeout_seconds)):
            if value is not None and not value > 0:
                raise UsageError(f"must be above 0, not {value}", subject=option)
        if workers not in {None, "auto"} and not int(workers) >= 0:
            raise UsageError(f"must be 0 or more, not {workers}", subject="--workers")
        self.devices = choose_devices(device)
        self.device = self.devices[0]
        self.precision = common_precision(precision, self.devices)
        self._batch_size = batch_size
        # On a CPU decoders and network share the cores: what remains for decoders shows while they run.
        self._first_workers = suitable_workers(self.device.type) if workers in {None, "auto"} else None
        self.workers = _most_workers(self.device.type) if workers is None or workers == "auto" else workers
        self._timeout_seconds = timeout_seconds
        self._is_auto = workers in {None, "auto"}
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        """Set up what belongs to this process."""
        if self._is_auto and self.workers == 0:
            _log.info("videos are decoded in this process, which may not start others")
        self._logged: set[str] = set()
        self._networks: list[Network] = []
        self._crops = self.checkpoint.preprocessing.several_crops(self.settings.crops)
        options = self._decode_options = DecodeOptions(
            sampler_for(self.checkpoint.preprocessing, self._crops),
            self.checkpoint.backbone.clip[0],
            self.settings.max_pixels,
            self.settings.fps,
            self.settings.frame_step,
        )
        self._decoders = Decoders(
            options, self.workers, timeout_seconds=self._timeout_seconds, n_first=self._first_workers
        )
        self._streams: list[Stream] = []  # of runs in progress
        # Networks are built once, and a stream is started only while the Extractor is not closed. The lock is
        # held for that alone, never while a stream runs.
        self._lock = threading.RLock()
        self._process = os.getpid()
        _one_thread_after_fork()

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to build the same Extractor; only before the first use."""
        if self._networks:
            raise UsageError(
                "was used, so it cannot be sent to another process",
                subject="Extractor",
                hint="make one in each process",
            )
        own = {
            "_crops", "_logged", "_networks", "_decode_options", "_decoders", "_streams", "_lock", "_process",
        }  # fmt: skip
        return {name: value for name, value in vars(self).items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if not may_start_processes():
            self.workers = 0
        self._begin()

    @classmethod
    def from_weights(
        cls,
        weights: str | os.PathLike[str] = "sports1m",
        settings: ExtractSettings | None = None,
        *,
        mean: str | os.PathLike[str] | None = None,
        pool5: Pool5 | None = None,
        colour: Colour | None = None,
        offline: bool = False,
        fetch_progress: Callable[[str, int, int | None], None] | None = None,
        **options: Unpack[ExtractorOptions],
    ) -> Self:
        """Load a checkpoint by registry name or file, fetching it where it is not here.

        Parameters
        ----------
        weights
            A registered name (``c3d-tools weights list``) or a file.
        settings
            What changes the numbers; ``options`` take precedence.
        mean
            A file, three numbers ``B,G,R`` or a registered mean, instead of the checkpoint's.
        pool5
            How pool5 rounds, instead of the checkpoint's way.
        colour
            Order of the channels that the network takes, instead of the checkpoint's.
        offline
            Fetch nothing.
        fetch_progress
            Called with a file's name, the bytes so far and the bytes of all, if known.
        options
            The attributes of `ExtractSettings`, such as ``layers`` (one name or several) and ``stride``, and
            the class's own keywords: ``device``, ``precision``, ``batch_size``, ``workers`` and
            ``timeout_seconds``.

        Raises
        ------
        WeightsError, UsageError, DeviceError
            One line each: what is missing, unknown or not available.
        """
        settings, run = _told_apart(settings or ExtractSettings(), options)
        checkpoint = load_checkpoint(
            weights if isinstance(weights, str) else Path(weights),
            layers=settings.layers or (),  # empty: the default descriptor
            mean=None if mean is None else str(mean),
            pool5=pool5,
            colour=colour,
            offline=offline,
            progress=fetch_progress,
        )
        return cls(checkpoint, settings, **run)

    def __repr__(self) -> str:
        settings, devices = self.settings, ", ".join(map(str, self.devices))
        described = f"{', '.join(settings.layers)}, stride {settings.stride}, {devices}, {self.precision}"
        return f"<Extractor {self.checkpoint.name}: {described}{', closed' if self._closed else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End runs and decoder processes and release the networks; the Extractor cannot be used again."""
        if self._process != os.getpid():  # the decoders are another process's
            return
        with self._lock:
            self._closed = True
            streams, self._streams = self._streams, []
        for stream in streams:
            stream.stop(UsageError("was closed while a run was in progress", subject="Extractor"))
        self._decoders.close()
        self._networks = []

    def _check_usable(self) -> None:
        if self._closed:
            raise UsageError("is closed", subject="Extractor", hint="make another")
        if self._process != os.getpid():
            raise UsageError(
                f"belongs to process {self._process}, of which this is a fork",
                subject="Extractor",
                hint="make one in each process",
            )

    @property
    def warnings(self) -> list[str]:
        """What affects the numbers: GPUs of several models, clips done again in fp32, batches halved."""
        unlike = _unlike(self.devices)
        of_networks = [warning for network in self._networks for warning in network.warnings]
        return unlike + of_networks + self._decoders.warnings

    def _log_warnings(self) -> None:
        for warning in self.warnings:
            if warning not in self._logged:
                self._logged.add(warning)
                _log.warning("%s", warning)

    @property
    def networks(self) -> list[Network]:
        """A network for each device, built when they are first needed."""
        self._check_usable()  # before the lock, which a fork may have copied while it was held
        with self._lock:
            for device in self.devices[len(self._networks) :]:
                self._networks.append(
                    Network(
                        self.checkpoint,
                        self.settings.layers,
                        device=device,
                        precision=self.precision,
                        batch_size=self._batch_size,
                        crops=self._crops,
                    )
                )
            if self.checkpoint.state:  # 245 MB of C3D; each network keeps what it may need again
                self.checkpoint = dataclasses.replace(self.checkpoint, state={})
            return self._networks

    @property
    def network(self) -> Network:
        """The first device's network."""
        return self.networks[0]

    def extract(
        self, video: VideoInput, *, colour: Colour | None = None, fps: float | None = None
    ) -> Features:
        """Return the features of one video, every clip of it.

        Parameters
        ----------
        video
            A path or an address. Or an encoded video as bytes or as a file object open to read bytes, which
            is read from its beginning; nothing in it makes another file be opened. Or frames: uint8
            (T, H, W, 3) as an array or a tensor, or anything that yields frames (H, W, 3), which are asked
            for as they are needed, in another thread. All but paths and addresses are decoded in this
            process, whatever ``workers`` says.
        colour
            Order of the channels of frames; required with frames.
        fps
            Frames per second; required with frames.

        Raises
        ------
        VideoError
            Where it cannot be read; with ``settings.strict`` also where it can only in part.
        UsageError
            Where it is no video, or an archive or a prefix with another number of videos than one.
        Exception
            What a file object or an iterator of frames raised.
        """
        return self.extract_batch([video], colour=colour, fps=fps)[0]

    @overload
    def extract_batch(
        self,
        videos: Iterable[VideoInput],
        *,
        colour: Colour | None = None,
        fps: float | None = None,
        return_exceptions: Literal[False] = False,
    ) -> list[Features]: ...

    @overload
    def extract_batch(
        self,
        videos: Iterable[VideoInput],
        *,
        colour: Colour | None = None,
        fps: float | None = None,
        return_exceptions: bool,
    ) -> list[Features | Exception]: ...

    def extract_batch(
        self,
        videos: Iterable[VideoInput],
        *,
        colour: Colour | None = None,
        fps: float | None = None,
        return_exceptions: bool = False,
    ) -> list[Features] | list[Features | Exception]:
        """Return the features of several videos, in their order; clips of several share batches.

        Parameters
        ----------
        videos
            Each as `extract` takes one; of several kinds if need be.
        colour
            Order of the channels of those that are frames.
        fps
            Frames per second of those that are frames.
        return_exceptions
            Whether a video that fails has its exception in its place, instead of ending the call.
        """
        inputs = read_inputs(videos, colour=colour, fps=fps)
        found: dict[int, Features | Exception] = {}
        for batch in batches_of(inputs):
            with contextlib.closing(self._results(batch)) as results:
                for number, result in results:
                    if isinstance(result, Exception) and not return_exceptions:
                        raise result
                    found[number] = result
        return [found[number] for number in range(len(inputs))]

    def _results(self, batch: InputBatch) -> Generator[tuple[int, Features | Exception]]:
        decoders: Decoders | InMemoryDecoders = self._decoders
        if batch.in_memory:
            decoders = InMemoryDecoders(self._decode_options, batch.in_memory)
        try:
            with self._stream_from(decoders, batch.sources, Progress()) as stream:
                yield from batch.results(stream, self.settings.n_crops)
        finally:
            for video in batch.in_memory:
                video.forget()

    def extract_files(
        self,
        paths: Iterable[str | os.PathLike[str]],
        output: str | os.PathLike[str],
        *,
        listed: Iterable[str | os.PathLike[str]] = (),
        frame_folders: bool = False,
        follow_links: bool = False,
        **options: Unpack[RunOptions],
    ) -> Extraction:
        """Extract files, folders and globs into a feature file; iterate over the result to run it.

        Videos that an earlier run finished are skipped. Each finished video is safe on disk before its
        outcome is yielded. Leaving the loop early, or Ctrl-C, leaves a file with what was finished.

        Parameters
        ----------
        listed
            Further paths, which may not exist: those fail as videos do.
        frame_folders
            Whether a folder of numbered images is a video.
        follow_links
            Whether links to folders outside those that are searched are followed, too.
        options
            ``clips``, ``basis``, ``overwrite``, ``retry_failed``, ``on_error``, ``progress``, ``scratch``:
            see `c3d_extract.pipeline.run.RunOptions`.

        Raises
        ------
        UsageError, StoreError, PcaError
            At once, before any work.
        """
        ours = OutputPaths(Path(output), _path(options.get("clips"))).every
        found = find_videos(
            paths, listed=listed, exclude=ours, frame_folders=frame_folders, follow_links=follow_links
        )
        return self.extract_found(found, output, **options)

    def extract_found(
        self, found: Found, output: str | os.PathLike[str], **options: Unpack[RunOptions]
    ) -> Extraction:
        """Extract videos that were found already; the rest as in `extract_files`."""
        self._check_usable()
        found.check_any()
        identity, settings = self.identity(), self.settings
        check_n_components(
            settings.pca, identity.layer_sizes, n_videos=len(found.videos), extends=Path(output).exists()
        )
        stored = StoreOptions(
            Path(output),
            clips=_path(options.get("clips")),
            overwrite=options.get("overwrite", False),
            retry_failed=options.get("retry_failed", False),
            pca=settings.pca,
            basis=options.get("basis"),
            l2=settings.l2,
            durable=options.get("durable", True),
        )
        scratch = _path(options.get("scratch"))

        def new_stream(todo: Sequence[Source], progress: Progress) -> AbstractContextManager[Stream]:
            return self._stream(todo, progress, scratch)

        return Extraction(found, RunStore.open(stored, identity), new_stream, options)

    def identity(self) -> RunIdentity:
        """Return what two runs must share to write one file."""
        settings: dict[str, JSON] = self.settings.to_json()
        settings["precision"] = self.precision
        backbone = self.checkpoint.backbone
        sizes = {layer: backbone.layer_size(layer) for layer in self.settings.layers}
        identity = self.checkpoint.identity(self.settings.layers, with_crops=self._crops is not None)
        record = {k: v for k, v in self.checkpoint.record_json().items() if v != identity.get(k)}
        if self.checkpoint.labels and CLASS_LAYERS & set(self.settings.layers):
            record["classes"] = self.checkpoint.labels
        weights = {**identity, "record": record}
        versions = library_versions() | {
            "device": ", ".join(map(device_name, self.devices)),
            "batch_size": ", ".join(map(str, self._batch_sizes())),
        }
        return RunIdentity(settings, weights, sizes, versions)

    def _batch_sizes(self) -> list[int]:
        backbone, asked = self.checkpoint.backbone, self._batch_size
        return [batch_size_for(backbone, device, self.precision, asked) for device in self.devices]

    def _stream(
        self, sources: Sequence[Source], progress: Progress, scratch: Path | None = None
    ) -> AbstractContextManager[Stream]:
        """Start a stream of ``sources``, with decoders of its own."""
        return self._stream_from(self._decoders, sources, progress, scratch)

    @contextlib.contextmanager
    def _stream_from(
        self,
        decoders: Decoders | InMemoryDecoders,
        sources: Sequence[Source],
        progress: Progress,
        scratch: Path | None = None,
    ) -> Iterator[Stream]:
        parts = StreamParts(self.networks, decoders, self.settings)
        with Stream(parts, sources, progress, scratch) as stream:
            with self._lock:
                self._check_usable()
                self._streams.append(stream)
                stream.start()
            try:
                yield stream
            finally:
                stream.close()
                self._log_warnings()
                with self._lock, contextlib.suppress(ValueError):  # the Extractor was closed
                    self._streams.remove(stream)


def _told_apart(
    settings: ExtractSettings, options: ExtractorOptions
) -> tuple[ExtractSettings, dict[str, Any]]:
    """Return settings with what ``options`` say of them, and the other options."""
    names = {field.name for field in dataclasses.fields(settings)}
    changed = {name: value for name, value in options.items() if name in names}
    layers = changed.get("layers")
    if layers is not None:
        changed["layers"] = (layers,) if isinstance(layers, str) else tuple(cast("Sequence[str]", layers))
    run = {name: value for name, value in options.items() if name not in names}
    return dataclasses.replace(settings, **cast("Any", changed)), run


def _path(path: str | os.PathLike[str] | None) -> Path | None:
    return Path(path) if path else None


def _unlike(devices: Sequence[torch.device]) -> list[str]:
    names = [device_name(device) for device in devices]
    if len({name.partition(" ")[2] for name in names}) == 1:
        return []
    chance = "which device runs which clips varies: another run's features differ in the last digits"
    return [f"{', '.join(names)} round differently, and {chance}"]


@functools.cache  # once a process; its forks inherit it
def _one_thread_after_fork() -> None:
    """Keep torch to one thread in forks of this process, as a DataLoader does in its workers.

    The threads of an OpenMP runtime do not survive a fork, and GNU's runtime then waits for them forever.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=functools.partial(torch.set_num_threads, 1))


def suitable_workers(device_type: str, cores: int | None = None) -> int:
    """Return how many decoder processes a device wants at first; 0 where this process may not have any.

    ``cores`` are those that the device and they may use, where these are not this process's share.
    """
    # On a CPU the network needs every core: one decoder (thousands of frames per second) feeds it many
    # times over. A GPU waits for decoders: all cores but one, which copies and launches.
    if not may_start_processes():
        return 0
    cores = _own_cores() if cores is None else cores
    return max(1, cores // 8) if device_type == "cpu" else max(1, cores - 1)


def _most_workers(device_type: str) -> int:
    """Return how many decoder processes there may be, where there are more as they are needed."""
    n_first = suitable_workers(device_type)
    return max(n_first, _own_cores()) if n_first and device_type == "cpu" else n_first


def _own_cores() -> int:
    # torchrun says how many processes it started on this machine; they share the cores.
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE") or 1))


def library_versions() -> dict[str, str]:
    """Return the versions that can bear on the numbers, as they are written into every file."""
    names = ("c3d-extract", "torch", "av", "numpy", "h5py")
    return {name: version(name) for name in names} | {"python": platform.python_version()}
