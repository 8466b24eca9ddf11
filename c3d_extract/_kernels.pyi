from numpy import int16, int32, uint8
from numpy.typing import NDArray
from typing_extensions import Buffer

def sample(
    frame: NDArray[uint8], rows: NDArray[int32], columns: NDArray[int32], out: NDArray[uint8], /
) -> None: ...
def sample_planes(
    planes: tuple[Buffer, Buffer, Buffer],
    line_sizes: tuple[int, int, int],
    rows: NDArray[int32],
    pairs: NDArray[int32],
    windows: NDArray[int32],
    inside: NDArray[uint8],
    weights: NDArray[int16],
    factors: NDArray[int16],
    out: NDArray[uint8],
    /,
) -> None: ...
