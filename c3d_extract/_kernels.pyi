from numpy import int32, uint8
from numpy.typing import NDArray

def sample(
    frame: NDArray[uint8], rows: NDArray[int32], columns: NDArray[int32], out: NDArray[uint8], /
) -> None: ...
def gather(
    plane: NDArray[uint8],
    rows: NDArray[int32],
    columns: NDArray[int32],
    out: NDArray[uint8],
    width: int,
    /,
) -> None: ...
