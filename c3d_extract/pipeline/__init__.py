"""Videos to rows, rows to files.

extractor.py   the public face: a checkpoint, devices, decoders; builds streams and runs
run.py         one run over many files: takes a stream and a store
stream.py      decode → batch → network → rows; knows no files
feeder.py      a thread that cuts frames into clips and fills batches
scheduler.py   batches over devices in turn, results in order
aggregate.py   how the clips of a video become one descriptor
decoders.py    lends each stream a decoder of its own
results.py     features, outcomes, counts
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
