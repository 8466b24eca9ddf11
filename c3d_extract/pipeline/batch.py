"""The inputs of one call, as what streams read, and the features of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from c3d_extract.errors import VideoError
from c3d_extract.pipeline.results import features_of, outcome_of
from c3d_extract.pipeline.stream import ClipFeatures
from c3d_extract.sources.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from c3d_extract.decode import InMemoryVideo
    from c3d_extract.output import ClipRows, VideoRow
    from c3d_extract.pipeline.results import Features
    from c3d_extract.pipeline.stream import Stream

__all__ = ["InputBatch", "batches_of"]


@dataclass(frozen=True)
class InputBatch:
    """Inputs that one stream reads.

    Attributes
    ----------
    numbers
        The number of each among all inputs.
    given
        How each was given, as results name it.
    sources
        What the stream is given; their names are unique.
    in_memory
        What is read instead of the sources' paths; empty where these are read.
    """

    numbers: list[int]
    given: list[Source]
    sources: list[Source]
    in_memory: list[InMemoryVideo]

    def results(self, stream: Stream, n_crops: int) -> Iterator[tuple[int, Features | Exception]]:
        """Yield the number of each input and its features, or why there are none, as they are finished."""
        clips: dict[str, list[ClipRows]] = {}
        places = {source.name: place for place, source in enumerate(self.sources)}
        for item in stream:
            if isinstance(item, ClipFeatures):
                for name, rows in item.by_video(self.sources):
                    clips.setdefault(name, []).append(rows)
                continue
            for video in item:
                place = places[video.source.name]
                found = clips.pop(video.source.name, [])
                yield self.numbers[place], self._result(place, video.row, found, n_crops)

    def _result(self, place: int, row: VideoRow, clips: list[ClipRows], n_crops: int) -> Features | Exception:
        given = self.given[place]
        error = self.in_memory[place].error if self.in_memory else None
        if error is not None:
            return error
        if row.status == "failed":
            return VideoError(row.error or "failed", subject=given.location)
        outcome = outcome_of(given, row)
        # A video in memory has no path.
        outcome = replace(outcome, path=given.name) if self.in_memory else outcome
        return features_of(clips, outcome, n_crops)


def batches_of(inputs: Sequence[InMemoryVideo | Source]) -> Iterator[InputBatch]:
    """Yield the inputs in batches of one kind: those that any process can read, and those in memory."""
    paths = {number: each for number, each in enumerate(inputs) if isinstance(each, Source)}
    in_memory = {number: each for number, each in enumerate(inputs) if not isinstance(each, Source)}
    named = {number: Source(str(each), str(each), 0, 0) for number, each in in_memory.items()}
    for given, read in ((paths, []), (named, list(in_memory.values()))):
        if given:
            # A name's end decides what a staged file is called.
            unique = [replace(each, name=f"{number}/{each.name}") for number, each in given.items()]
            yield InputBatch(list(given), list(given.values()), unique, read)
