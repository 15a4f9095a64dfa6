"""The comparison with the oracle has teeth: each of these plausible mistakes, made in the model, is found by it.

Every mutant runs on the seeds that the unchanged model passes in test_oracle.py, until the first difference. Not
listed, because no stimulus can show it: dropping the rounding to odd in `wide.add`. Sums of two K values of at most 24
bits are rounded correctly through float64 anyway (53 >= 2 * 24 + 2; S. A. Figueroa, "When is double rounding
innocuous?", 1995).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from comparison import expected, first_mismatch
from stimulus import case
from test_oracle import SEEDS

# the package's names `forward` and `backward` are its functions, so the modules have to be asked for
apply_, backward_, block, coefficients, forward_, statistics, wide = (
    importlib.import_module(f"lightnorm_golden.{name}")
    for name in ("apply", "backward", "block", "coefficients", "forward", "statistics", "wide")
)

Change = tuple[ModuleType | type, str, Any]  # owner, name, what the name becomes


def significant_bits(values: Any, bits: int) -> Any:
    """RNE to a number of significant bits, exponents unlimited."""
    fraction, exponent = np.frexp(values)
    return np.ldexp(np.rint(np.ldexp(fraction, bits)), exponent - bits)


def half_away(values: Any, out: Any = None) -> Any:
    return np.trunc(values + np.copysign(0.5, values), out=out)


def plain_sum(a: Any, b: Any) -> Any:
    return a + b


def plain_scale_and_add(signed: Any, shared_exp: Any, fmt: Any, scale: Any, term: Any, spec: Any) -> Any:
    return signed * (scale[:, None] * block.step(shared_exp, fmt)) + term[:, None]


def floating_log2(values: Any) -> Any:
    return np.floor(np.log2(np.where(values > 0, values, 0.5))).astype(np.int64)


def last_argmax(*axes: int) -> Callable[..., Any]:
    """The last instead of the first of equal values, along some of the axes: 0 within a block, 2 within a chunk."""

    def mutant(values: Any, axis: int) -> Any:
        if axis not in axes:
            return values.argmax(axis=axis)
        return values.shape[axis] - 1 - np.flip(values, axis).argmax(axis=axis)

    return mutant


def bumped_exponent(values: Any, fmt: Any, original: Callable[..., Any] = block.encode) -> Any:
    """A block whose maximum rounds up to a power of two takes the next exponent."""
    largest = significant_bits(np.abs(values).max(axis=0), fmt.significand_bits)
    signed, shared_exp = original(np.concatenate([values, largest[None]]), fmt)
    return signed[:-1], shared_exp


def rounded_to_coef_first(signed: Any, shared_exp: Any, fmt: Any, scale: Any, term: Any, spec: Any) -> Any:
    """The exact sum rounded to the bits of K, a few more than the format has, before it is rounded to the format."""
    exact = apply_.scale_and_add(signed, shared_exp, fmt, scale, term, spec)
    return significant_bits(exact, 1 + max(spec.coef_man_bits, fmt.man_bits + 4))


def changed_terms(change: Callable[[Any], dict[str, Any]]) -> Callable[..., Any]:
    def mutant(*args: Any) -> Any:
        terms = coefficients.grad_terms(*args)
        return replace(terms, **change(terms))

    return mutant


def unrounded_scale_in_shift(mean: Any, sigma: Any, weight: Any, bias: Any, eps: Any, spec: Any) -> Any:
    coef = coefficients.affine(mean, sigma, weight, bias, eps, spec)
    product = wide.multiply(weight * coef.invstd, mean, spec.coef)
    return replace(coef, shift=wide.add(bias, -product, spec.coef))


def eps_for_flat_channels(sigma: Any, eps: float, spec: Any) -> Any:
    """1 / eps instead of 0 where sigma = 0."""
    total = wide.add(sigma, np.asarray(eps), spec.coef)
    return np.where(total == 0, 0.0, wide.divide(1.0, np.where(total == 0, 1.0, total), spec.coef))


def no_padding(values: Any, elements: int, fill: float) -> None:
    """Padding stays what it is: zero in a statistic, the shift in an output."""


def positions_inside(signed: Any, shared_exp: Any, elements: int, chunk_blocks: int, fmt: Any) -> Any:
    """Keeps positions that point at padding inside the tensor, so that a mutant fails by its bits, not by a crash."""
    found = statistics.range_statistics(signed, shared_exp, elements, chunk_blocks, fmt)
    inside = {name: np.minimum(getattr(found, name), elements - 1) for name in ("max_position", "min_position")}
    return replace(found, **inside)


def single_element_as_max(
    exact: Any, signed: Any, shared_exp: Any, fmt: Any, scale: Any, terms: Any, top: Any, low: Any,
    original: Callable[..., Any] = backward_._set_extrema,
) -> None:  # fmt: skip
    """An element that is max and min at once gets the max's term."""
    original(exact, signed, shared_exp, fmt, scale, terms, top, low)
    channel, chunk = np.nonzero(top == low)
    number, lane = np.divmod(top[channel, chunk], fmt.block_size)
    product = scale[channel] * signed[lane, channel, number] * block.step(shared_exp, fmt)[channel, number]
    exact[lane, channel, number] = wide.sum_to_odd(product, terms.at_max[channel])


MUTATIONS: dict[str, tuple[Change, ...]] = {
    "truncation in the block format": ((block, "round_half_even", np.trunc),),
    "truncation in the wide format": ((wide, "round_half_even", np.trunc),),
    "ties away from zero in the block format": ((block, "round_half_even", half_away),),
    "ties away from zero in the wide format": ((wide, "round_half_even", half_away),),
    "sticky bit ignored in y": ((forward_, "scale_and_add", plain_scale_and_add),),
    "sticky bit ignored in dx": ((backward_, "scale_and_add", plain_scale_and_add),),
    "sticky bit ignored in dx of an extremum": ((backward_, "sum_to_odd", plain_sum),),
    "sticky bit ignored in exact sums": ((wide, "drop_to_odd", lambda value, count: value >> count),),
    "exponent from a floating log2": ((block, "floor_log2", floating_log2),),
    "round-up bumps the exponent": tuple((owner, "encode", bumped_exponent) for owner in (block, forward_, backward_)),
    "last element of a block on ties": ((statistics, "first_argmax", last_argmax(0)),),
    "last block of a chunk on ties": ((statistics, "first_argmax", last_argmax(2)),),
    "extremum at the last index": ((statistics, "first_argmax", last_argmax(0, 2)),),
    "padding included in the extrema": (
        (statistics, "fill_padding", no_padding),
        (forward_, "range_statistics", positions_inside),
    ),
    "padding included in the output's exponent": ((forward_, "fill_padding", no_padding),),
    "y rounded to K first": ((forward_, "scale_and_add", rounded_to_coef_first),),
    "dx rounded to K first": ((backward_, "scale_and_add", rounded_to_coef_first),),
    "extremum sign swapped": (
        (backward_, "grad_terms", changed_terms(lambda t: {"at_max": t.at_min, "at_min": t.at_max})),
    ),
    "extremum terms dropped": (
        (backward_, "grad_terms", changed_terms(lambda t: {"at_max": t.ordinary, "at_min": t.ordinary})),
    ),
    "center missing": ((backward_, "grad_terms", changed_terms(lambda t: {"ordinary": 0 * t.ordinary})),),
    "center missing at extrema": (
        (
            backward_,
            "grad_terms",
            changed_terms(lambda t: {"at_max": t.at_max - t.ordinary, "at_min": t.at_min - t.ordinary}),
        ),
    ),
    "single element of a chunk taken for its max": ((backward_, "_set_extrema", single_element_as_max),),
    "wanted number of chunks for the resulting one": (
        (statistics.Chunking, "chunks", property(lambda chunking: chunking.wanted)),
    ),
    "shift with the unrounded scale": ((forward_, "affine", unrounded_scale_in_shift),),
    "1 / eps for a channel without range": tuple(
        (owner, "inverse_std", eps_for_flat_channels) for owner in (coefficients, backward_)
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, attribute, mutant in MUTATIONS[name]:
        monkeypatch.setattr(owner, attribute, mutant)
    for seed in SEEDS:
        mismatch = first_mismatch(case(seed), expected(seed))
        if mismatch is not None:
            print(f"{name}: found by seed {seed} in {mismatch.field}")
            return
    pytest.fail(f"{name}: not found by {len(SEEDS)} seeds that the unchanged model passes")
