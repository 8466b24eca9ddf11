"""How many rows of a batch round alike: a clip's features must not depend on its place in the batch.

cuDNN divides a convolution into tiles. Those that are left over after the last full round of all
multiprocessors are divided among several of them ("segment k" in the names of its kernels for compute
capability 9.0), which sum in another order: the last clips of a batch can differ in the last digit. Which
clips those are depends on the GPU, the precision and the number of rows alone, so it is found out by
trial, and rows of padding take these places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["n_agreeing_rows", "padded_size"]

_PRODUCTS = {
    "addmm",
    "baddbmm",
    "bmm",
    "conv2d",
    "conv3d",
    "einsum",
    "linear",
    "matmul",
    "scaled_dot_product_attention",
}
"""Functions whose sums a library may divide in ways that depend on the size of the batch."""


def padded_size(batch_size: int, n_agreeing: Callable[[int], int]) -> int | None:
    """Return the smallest number of rows of which the first ``batch_size`` agree, None if it is too large.

    Parameters
    ----------
    batch_size
        Clips in a batch.
    n_agreeing
        Returns `n_agreeing_rows` of a batch of so many rows.
    """
    sizes = range(batch_size, batch_size + max(4, batch_size // 8) + 1)
    return next((size for size in sizes if n_agreeing(size) >= batch_size), None)


def n_agreeing_rows(run: Callable[[], object], n_rows: int) -> int:
    """Return how many of the first rows are equal to the bit in every product that ``run`` computes.

    It computes a batch of equal clips, whose first axis is ``n_rows`` times that of one clip.
    """
    with _Products(n_rows) as products:
        run()
        n_agreeing: int = products.n_agreeing
    return n_agreeing


class _Products(TorchFunctionMode):
    """Compares the rows of the results of products, as long as it is entered."""

    def __init__(self, n_rows: int) -> None:
        super().__init__()
        self.n_agreeing = n_rows
        self._n_rows = n_rows

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "").strip("_") in _PRODUCTS and isinstance(result, torch.Tensor):
            self._compare(result)
        return result

    def _compare(self, result: torch.Tensor) -> None:
        if result.shape[0] % self._n_rows:  # a product of weights alone
            return
        rows = result.reshape(self._n_rows, -1)
        differing = (rows != rows[:1]).any(dim=1).nonzero()
        if len(differing):
            self.n_agreeing = min(self.n_agreeing, int(differing[0]))
