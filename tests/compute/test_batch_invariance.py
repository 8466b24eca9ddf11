"""Rows of a batch that round otherwise than the first are found, and padded sizes avoid them."""

from __future__ import annotations

import torch

from c3d_extract.compute.batch_invariance import n_agreeing_rows, padded_size


def batch(n_rows: int, first_other: int | None = None) -> torch.Tensor:
    """Return equal rows, from the given one on others in the last digit."""
    rows = torch.randn(1, 5).repeat(n_rows, 1)
    if first_other is not None:
        rows[first_other:] *= 1 + 2**-22
    return rows


def test_rows_agree_up_to_the_first_that_differs_in_any_product() -> None:
    weights = torch.randn(3, 5)
    assert n_agreeing_rows(lambda: torch.nn.functional.linear(batch(6), weights), 6) == 6
    assert n_agreeing_rows(lambda: torch.nn.functional.linear(batch(6, 4), weights), 6) == 4
    assert n_agreeing_rows(lambda: batch(6, 5) @ weights.T, 6) == 5

    def two_products() -> None:
        torch.matmul(batch(6, 2), weights.T)
        torch.matmul(batch(6, 4), weights.T)

    assert n_agreeing_rows(two_products, 6) == 2


def test_products_of_weights_and_what_is_no_product_do_not_count() -> None:
    assert n_agreeing_rows(lambda: torch.randn(4, 5) @ torch.randn(5, 3), 6) == 6
    assert n_agreeing_rows(lambda: torch.randn(6, 5).relu(), 6) == 6


def test_convolutions_inside_modules_are_compared() -> None:
    convolution = torch.nn.Conv3d(3, 2, 3)
    clips = torch.randn(1, 3, 4, 5, 5).repeat(4, 1, 1, 1, 1)
    clips[3] += 1
    assert n_agreeing_rows(lambda: convolution(clips), 4) == 3


def test_the_smallest_size_with_enough_rows_that_agree_is_taken_if_there_is_one_near() -> None:
    assert padded_size(64, lambda _: 64) == 64
    assert padded_size(64, lambda n: n - 2) == 66
    assert padded_size(4, lambda n: 4 if n == 8 else 2) == 8
    assert padded_size(64, lambda n: n // 2) is None
