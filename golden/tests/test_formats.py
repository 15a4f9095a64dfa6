"""Format descriptions: derived quantities, names, and refusals."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lightnorm_golden import BlockFormat, NormSpec, WideFormat


@pytest.mark.parametrize("exp_bits, bias", [(2, 1), (3, 3), (4, 7), (5, 15), (6, 31), (7, 63), (8, 127)])
def test_exponent_range(exp_bits: int, bias: int) -> None:
    fmt = BlockFormat(exp_bits, 3, 16)
    assert fmt.bias == bias
    assert fmt.max_shared_exp == 2 * bias + 1  # the top code is an ordinary number
    assert fmt.min_exponent == -bias - 3


@pytest.mark.parametrize("man_bits", range(1, 11))
def test_widths(man_bits: int) -> None:
    fmt = BlockFormat(5, man_bits, 8)
    assert fmt.significand_bits == man_bits + 1
    assert fmt.max_significand == 2 ** (man_bits + 1) - 1
    assert fmt.element_bits == 1 + fmt.significand_bits
    assert fmt.block_bits == 5 + 8 * (man_bits + 2)
    assert fmt.bits_per_element == fmt.block_bits / 8


@pytest.mark.parametrize(
    "fmt, name",
    [
        (BlockFormat(5, 4, 16), "bfp16_e5m4"),
        (BlockFormat(6, 3, 4), "bfp4_e6m3"),
        (BlockFormat(5, 4), "fp10_e5m4"),
        (BlockFormat(8, 7, 1), "fp16_e8m7"),
        (WideFormat(15), "wide_e8m15"),
    ],
)
def test_names(fmt: BlockFormat | WideFormat, name: str) -> None:
    assert str(fmt) == name


@pytest.mark.parametrize("man_bits, largest", [(7, 3.3895313892515355e38), (23, 3.4028234663852886e38)])
def test_wide_format_is_a_short_float32(man_bits: int, largest: float) -> None:
    """The largest values of bfloat16 and of binary32."""
    fmt = WideFormat(man_bits)
    assert fmt.max_value == largest
    assert (fmt.bias, fmt.min_exponent, fmt.max_exponent, fmt.significand_bits) == (127, -126, 127, man_bits + 1)


def test_defaults() -> None:
    spec = NormSpec(BlockFormat(5, 4, 16), BlockFormat(6, 3, 16))
    assert (spec.coef, spec.scale, spec.gain) == (WideFormat(15), WideFormat(7), "d2")
    assert BlockFormat(5, 4).block_size == 1


def test_formats_are_values() -> None:
    assert BlockFormat(5, 4, 16) == BlockFormat(exp_bits=5, man_bits=4, block_size=16)
    assert len({BlockFormat(5, 4, 16), BlockFormat(5, 4, 16), BlockFormat(5, 4, 8)}) == 2


ACTIVATION = BlockFormat(5, 4, 16)


@pytest.mark.parametrize(
    "make, arguments, message",
    [
        (BlockFormat, (1, 4, 16), "exp_bits must be an integer between 2 and 8, not 1"),
        (BlockFormat, (9, 4, 16), "exp_bits must be an integer between 2 and 8, not 9"),
        (BlockFormat, (5.0, 4, 16), "exp_bits must be an integer between 2 and 8, not 5.0"),
        (BlockFormat, (True, 4, 16), "exp_bits must be an integer between 2 and 8, not True"),
        (BlockFormat, (5, 0, 16), "man_bits must be an integer between 1 and 10, not 0"),
        (BlockFormat, (5, 11, 16), "man_bits must be an integer between 1 and 10, not 11"),
        (BlockFormat, (5, 4, 0), "block_size must be an integer between 1 and 64, not 0"),
        (BlockFormat, (5, 4, 65), "block_size must be an integer between 1 and 64, not 65"),
        (BlockFormat, (5, 4, "16"), "block_size must be an integer between 1 and 64, not '16'"),
        (WideFormat, (0,), "man_bits must be an integer between 1 and 23, not 0"),
        (WideFormat, (24,), "man_bits must be an integer between 1 and 23, not 24"),
        (NormSpec, ("e5m4", ACTIVATION), "activation must be a BlockFormat, not 'e5m4'"),
        (NormSpec, (ACTIVATION, None), "gradient must be a BlockFormat, not None"),
        (NormSpec, (ACTIVATION, ACTIVATION, 7), "coef_man_bits must be an integer between 8 and 23, not 7"),
        (NormSpec, (ACTIVATION, ACTIVATION, 24), "coef_man_bits must be an integer between 8 and 23, not 24"),
        (NormSpec, (ACTIVATION, ACTIVATION, 15, 0), "scale_man_bits must be an integer between 1 and 15, not 0"),
        (NormSpec, (ACTIVATION, ACTIVATION, 15, 16), "scale_man_bits must be an integer between 1 and 15, not 16"),
        (NormSpec, (ACTIVATION, ACTIVATION, 15, 7, "l2"), "gain must be one of d2, rangebn, lightnorm, not 'l2'"),
    ],
)
def test_refusals(make: Any, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make(*arguments)
