"""The float64 yardsticks are what they say: plain loops over one channel at a time give the same numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from oracle import d2
from stimulus import to_columns

from lightnorm_golden.reference import (
    batch_norm_two_pass,
    range_batch_norm,
    range_batch_norm_backward,
    signal_to_noise_db,
)


def test_range_batch_norm() -> None:
    """13 elements in blocks of 2 and 3 chunks: chunks of 3 blocks, the last with one element; d2 of 6 elements."""
    rng = np.random.default_rng(0)
    x, weight, bias = rng.normal(3, 2, (1, 2, 13)), np.array([1.5, -0.5]), np.array([0.25, 4.0])
    got = range_batch_norm(x, weight, bias, block_size=2, chunks=3, eps=0.125)
    for channel, column in enumerate(x[0]):
        ranges = [max(part) - min(part) for part in (column[0:6], column[6:12], column[12:13])]
        sigma = sum(ranges) / 3 / d2(6)
        mean = math.fsum(column) / 13
        for value, y in zip(column, got[0, channel], strict=True):
            assert y == pytest.approx((value - mean) / (sigma + 0.125) * weight[channel] + bias[channel], rel=1e-12)


def test_range_batch_norm_backward() -> None:
    """Central differences of the forward function, away from ties."""
    rng = np.random.default_rng(2)
    x, grad = rng.normal(1, 2, (2, 2, 3, 4)), rng.normal(size=(2, 2, 3, 4))
    weight, bias = np.array([1.5, -0.5]), np.array([0.25, 4.0])
    got = range_batch_norm_backward(x, grad, weight, block_size=2, chunks=3, eps=0.125)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = 1e-6
        above, below = (
            range_batch_norm(moved, weight, bias, block_size=2, chunks=3, eps=0.125) for moved in (x + step, x - step)
        )
        assert got[index] == pytest.approx((grad * (above - below)).sum() / 2e-6, abs=1e-7)


def test_range_batch_norm_of_a_constant_is_the_bias() -> None:
    y = range_batch_norm(
        np.full((4, 1, 2, 2), 7.25), np.array([2.0]), np.array([-1.5]), block_size=4, chunks=2, eps=0.0
    )
    assert (y == -1.5).all()


def test_batch_norm_two_pass() -> None:
    rng = np.random.default_rng(0)
    x, weight, bias = rng.normal(3, 2, (4, 3, 5, 2)), rng.normal(size=3), rng.normal(size=3)
    columns = to_columns(x)
    want = (columns - columns.mean(1, keepdims=True)) / np.sqrt(columns.var(1, keepdims=True) + 1e-5)
    want = want * weight[:, None] + bias[:, None]
    assert to_columns(batch_norm_two_pass(x, weight, bias)) == pytest.approx(want, rel=1e-12)
    single = batch_norm_two_pass(x.astype(np.float32), weight.astype(np.float32), bias.astype(np.float32))
    assert single.dtype == np.float32
    assert to_columns(single) == pytest.approx(want, abs=1e-5)


def test_signal_to_noise() -> None:
    assert signal_to_noise_db(np.array([3.0, 4.0]), np.array([3.0, 4.5])) == pytest.approx(20.0)
