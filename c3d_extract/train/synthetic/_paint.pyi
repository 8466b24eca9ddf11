from numpy import bool_, float32, intp, uint8
from numpy.typing import NDArray

def cover(
    rods: NDArray[float32],
    box: NDArray[intp],
    y: NDArray[intp],
    left: NDArray[intp],
    length: NDArray[intp],
    cover: NDArray[float32],
    share: NDArray[float32],
    slant: NDArray[float32],
    /,
) -> None: ...
def turn(
    things: NDArray[float32],
    box: NDArray[intp],
    y: NDArray[intp],
    left: NDArray[intp],
    length: NDArray[intp],
    u: NDArray[float32],
    v: NDArray[float32],
    radius: NDArray[float32],
    /,
) -> None: ...
def lay(
    levels: NDArray[float32],
    first: NDArray[intp],
    length: NDArray[intp],
    rows: NDArray[intp],
    pixels: NDArray[intp],
    cover: NDArray[float32],
    second: NDArray[bool_],
    looks: NDArray[float32],
    /,
) -> None: ...
def expose(
    scene: NDArray[float32],
    light: NDArray[float32],
    grain: NDArray[float32],
    starts: NDArray[intp],
    out: NDArray[uint8],
    /,
) -> None: ...
def view(
    ground: NDArray[float32],
    rows: NDArray[intp],
    row_shares: NDArray[float32],
    columns: NDArray[intp],
    column_shares: NDArray[float32],
    out: NDArray[float32],
    /,
) -> None: ...
def compress(levels: NDArray[float32], cosines: NDArray[float32], steps: NDArray[float32], /) -> None: ...
def blur(pixels: NDArray[float32], shares: NDArray[float32], out: NDArray[float32], /) -> None: ...
