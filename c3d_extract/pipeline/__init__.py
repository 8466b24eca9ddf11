"""Extractor: decode → batch → network → mean → store.

A feeder thread runs the decode pool, cuts frames into clips and clips into batches that span videos;
the calling thread feeds the network, sums each video's clips in float64 and commits finished videos.
The queue between them is bounded, so memory does not grow with the length of a video.
"""

from c3d_extract.pipeline.extractor import Extractor, library_versions, suitable_workers
from c3d_extract.pipeline.results import Features, Outcome, Progress
from c3d_extract.pipeline.run import Extraction

__all__ = [
    "Extraction",
    "Extractor",
    "Features",
    "Outcome",
    "Progress",
    "library_versions",
    "suitable_workers",
]
