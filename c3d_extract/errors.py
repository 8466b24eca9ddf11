"""The exception tree: what failed, which thing, why, what to do.

::

    C3DError
    ├── UsageError            invalid arguments; the command line exits with 2
    ├── VideoError            one video cannot be read; the run continues
    ├── DecoderError          decoder processes cannot be started or kept
    ├── WeightsError          a checkpoint or a mean is missing, damaged or of another shape
    │   └── FetchError        a file could not be downloaded
    ├── DeviceError           the device or precision asked for is not available
    ├── StoreError            an output file cannot be read or written
    │   ├── LockedError       another process is writing this output
    │   └── MismatchError     the output was made with other settings or weights
    ├── RemoteError           an object store or a web server did not give, or take, a file
    └── PcaError              a basis cannot be fitted, read or applied
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "C3DError",
    "DecoderError",
    "DeviceError",
    "FetchError",
    "LockedError",
    "MismatchError",
    "PcaError",
    "RemoteError",
    "StoreError",
    "UsageError",
    "VideoError",
    "WeightsError",
    "printable",
]

LONGEST = 4200  # characters of a line that is shown; a path has at most 4,096 bytes


def printable(text: str) -> str:
    """Return a text as one line that is safe to print on a terminal, with everything else escaped.

    Escaped are line breaks, control and formatting characters (colours, the cursor, the direction of
    writing) and halves of surrogate pairs. The middle of a very long text is left out.
    """
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"


class C3DError(Exception):
    """Base of everything this package raises on purpose; its text is one line, whatever was put into it.

    Parameters
    ----------
    reason
        What failed and why, one line.
    subject
        The thing it happened to: a path, a layer, an option.
    hint
        What to do about it.
    """

    def __init__(self, reason: str, *, subject: object = None, hint: str | None = None) -> None:
        self.reason = reason
        self.subject = None if subject is None else str(subject)
        self.hint = hint
        super().__init__(reason)

    def __reduce__(self) -> tuple[Any, ...]:
        # By default an exception is built again from its positional arguments alone, which loses the others.
        return _restored, (type(self), self.args, vars(self))

    def __str__(self) -> str:
        text = self.reason if self.subject is None else f"{self.subject}: {self.reason}"
        return printable(text if self.hint is None else f"{text}; {self.hint}")


def _restored(kind: type[C3DError], args: tuple[object, ...], state: dict[str, object]) -> C3DError:
    """Build an error that another process sent."""
    error = kind.__new__(kind)
    error.args = args
    vars(error).update(state)
    return error


class UsageError(C3DError):
    """Invalid arguments; the command line exits with 2."""


class VideoError(C3DError):
    """One video cannot be read; the run continues without it."""


class DecoderError(C3DError):
    """Decoder processes cannot be started or kept alive."""


class WeightsError(C3DError):
    """A checkpoint or a mean is missing, damaged, or of another shape."""


class FetchError(WeightsError):
    """A file could not be downloaded from any of its mirrors.

    Parameters
    ----------
    reason
        Kept without the answers as ``summary``.
    answers
        What each address answered, one line each; empty where none was asked.
    """

    def __init__(
        self, reason: str, *, answers: Sequence[str] = (), subject: object = None, hint: str | None = None
    ) -> None:
        self.summary = reason
        self.answers = list(answers)
        said = f"{reason}: {'; '.join(answers)}" if answers else reason
        super().__init__(said, subject=subject, hint=hint)


class DeviceError(C3DError):
    """The device or the precision asked for is not available."""


class StoreError(C3DError):
    """An output file cannot be read or written."""


class LockedError(StoreError):
    """Another process is writing this output."""


class MismatchError(StoreError):
    """The output was made with other settings or weights; ``differences`` names them.

    Parameters
    ----------
    differences
        One ``name: was → is`` line per difference.
    """

    def __init__(
        self, reason: str, *, differences: list[str], subject: object = None, hint: str | None = None
    ) -> None:
        self.differences = differences
        super().__init__(f"{reason} ({'; '.join(differences)})", subject=subject, hint=hint)


class RemoteError(C3DError):
    """An object store or a web server did not give, or take, a file."""


class PcaError(C3DError):
    """A basis cannot be fitted, read or applied."""
