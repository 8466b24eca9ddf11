"""Tables in memory for pandas, whose own import is left until one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from c3d_extract.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    DataFrame: TypeAlias = pd.DataFrame  # for the modules whose functions return one

__all__ = ["data_frame"]


def data_frame(columns: Mapping[str, Sequence[str] | NDArray[Any]], *, index: str | None = None) -> DataFrame:
    """Return a table: texts and numbers (N) as they are, of vectors (N, D) one array a row.

    Parameters
    ----------
    columns
        All of the same length.
    index
        The column that becomes the table's index, instead of numbers.

    Raises
    ------
    UsageError
        Where pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise UsageError("pandas is not installed", hint="pip install pandas") from error
    values = {
        name: list(column) if getattr(column, "ndim", 1) > 1 else column for name, column in columns.items()
    }
    frame = pd.DataFrame(values)
    return frame if index is None else frame.set_index(index)
