"""What ``c3d-extract`` says at the end of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from c3d_extract.cli.progress import clock

if TYPE_CHECKING:
    from c3d_extract.pipeline import Extraction, Extractor, Outcome, Progress

__all__ = ["as_json", "sentence", "stage_times"]


def sentence(extraction: Extraction) -> str:
    """Say in one sentence what was done, skipped and failed, and where the features are."""
    counts, summary = extraction.progress, extraction.summary
    parts = [f"{counts.n_finished - counts.n_failed_now} done"]
    parts += [f"{counts.n_partial_now} of them only in part"] if counts.n_partial_now else []
    parts += [f"{counts.n_changed} of them again, as their files changed"] if counts.n_changed else []
    parts += [f"{counts.n_skipped} skipped as finished before"] if counts.n_skipped else []
    parts += [f"{counts.n_failed} failed (see {extraction.report})"] if counts.n_failed else []
    ignored = len(extraction.found.ignored)
    parts += [f"{ignored} other files ignored"] if ignored else []
    rows = summary.n_rows if summary else 0
    speed = f" in {clock(counts.seconds)}" if counts.n_finished else ""
    return f"{counts.n_videos} videos: {', '.join(parts)}{speed} → {extraction.output} ({rows} rows)"


def stage_times(counts: Progress, workers: int) -> str:
    """Say each stage's seconds and its share of the run: what is near 100 % is what the run waited for."""
    seconds = max(counts.seconds, 1e-9)
    decoders = min(max(workers, 1), max(counts.n_finished, 1))

    def share(part: float, of: float = seconds) -> str:
        return f"{part:.1f} s ({part / of:.0%})"

    rate = counts.n_frames / seconds
    decoding = share(counts.decode_seconds, seconds * decoders)
    lines = (
        f"Time: {seconds:.1f} s for {counts.n_clips} clips, {counts.n_frames} frames: {rate:.0f} frames/s",
        f"  network    {share(counts.network_seconds)}, waited for decoders {share(counts.waiting_seconds)}",
        f"  decoders   {decoding} of {decoders}, with their waiting for the network",
        f"  hand-over  {share(counts.handover_seconds)}, in parallel to the network",
        f"  storing    {share(counts.store_seconds)}; first batch after {counts.startup_seconds:.1f} s",
    )
    return "\n".join(lines)


def as_json(extractor: Extractor, extraction: Extraction, failures: list[Outcome]) -> dict[str, Any]:
    """Return what `c3d-extract --json` writes."""
    counts, summary = extraction.progress, extraction.summary
    seconds = max(counts.seconds, 1e-9)
    return {
        "output": str(extraction.output),
        "written": [str(path) for path in summary.written] if summary else [],
        "n_rows": summary.n_rows if summary else 0,
        "n_videos": counts.n_videos,
        "n_done": counts.n_finished - counts.n_failed_now,
        "n_partial": counts.n_partial,
        "n_changed": counts.n_changed,
        "n_skipped": counts.n_skipped,
        "n_failed": counts.n_failed,
        "n_passed_over": len(extraction.found.ignored),
        "failed": [{"video": outcome.video, "error": outcome.error} for outcome in failures],
        "n_clips": counts.n_clips,
        "n_frames": counts.n_frames,
        "seconds": round(seconds, 3),
        "startup_seconds": round(counts.startup_seconds, 3),
        "network_seconds": round(counts.network_seconds, 3),
        "waiting_seconds": round(counts.waiting_seconds, 3),
        "handover_seconds": round(counts.handover_seconds, 3),
        "decode_seconds": round(counts.decode_seconds, 3),
        "store_seconds": round(counts.store_seconds, 3),
        "device": ",".join(map(str, extractor.devices)),
        "precision": extractor.precision,
        "weights": extractor.checkpoint.identity(),
        "warnings": [*extractor.checkpoint.notes, *extraction.warnings, *extractor.warnings],
    }
