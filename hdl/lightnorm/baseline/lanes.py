"""Numbers as they travel between stages, and the aligned sums that every stage uses."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data

from lightnorm_golden.baseline import FloatNormSpec
from lightnorm_golden.formats import FloatFormat

from ..arith.floating import float_layout

__all__ = ["MULTIPLIER_ROWS", "align", "largest_of", "lanes_layout", "mark_padding", "partial_products",
           "partial_products_by_digits", "to_common", "whole_product"]  # fmt: skip

MULTIPLIER_ROWS = 12
"""Longer multiplications take two cycles, half of the rows in each."""


def lanes_layout(fmt: FloatFormat, lanes: int) -> data.ArrayLayout:
    """A beat of words, lane 0 lowest. Inside, a negative zero marks padding, and every other zero is positive."""
    return data.ArrayLayout(float_layout(fmt), lanes)


def mark_padding(m: Module, fmt: FloatFormat, lanes: int, packed: Value, lane_valid: Value, *, name: str) -> Signal:
    """The beat with padding marked; subnormals are zeros already, their fractions are not looked at."""
    raw, marked = data.View(lanes_layout(fmt, lanes), packed), Signal(lanes_layout(fmt, lanes), name=name)
    for lane in range(lanes):
        word, valid = raw[lane], lane_valid[lane]
        m.d.comb += [
            marked[lane].fraction.eq(word.fraction),
            marked[lane].exponent.eq(word.exponent & valid.replicate(fmt.exp_bits)),
            marked[lane].sign.eq(~valid | (word.sign & word.exponent.any())),
        ]
    return marked


def to_common(m: Module, fmt: FloatFormat, spec: FloatNormSpec, word: Value, *, name: str) -> Signal:
    """A word in the format that holds activations and gradients; padding stays marked."""
    common, number = spec.common, Signal(float_layout(spec.common), name=name)
    offset = common.bias - fmt.bias
    m.d.comb += [
        number.fraction.eq(word.fraction << (common.man_bits - fmt.man_bits)),
        number.exponent.eq(Mux(word.exponent.any(), word.exponent + offset, 0) if offset else word.exponent),
        number.sign.eq(word.sign),
    ]
    return number


def partial_products(m: Module, a: Value, b: Value, *, name: str) -> list[Value]:
    """What the first cycle of a multiplication makes."""
    middle = len(b) // 2 if len(b) > MULTIPLIER_ROWS else len(b)
    parts = []
    for index, rows in enumerate((b[:middle], b[middle:])):
        if len(rows):
            part = Signal(len(a) + len(rows), name=f"{name}_part_{index}")
            m.d.comb += part.eq(a * rows)
            parts.append(part)
    return parts


def partial_products_by_digits(m: Module, a: Value, b: Value, triple: Value, *, name: str) -> list[Value]:
    """The same, two bits of a at a time: with 3 * b made once, half the rows. The first part has the low half of a."""
    middle = len(a) // 2 if len(a) > MULTIPLIER_ROWS else len(a)
    parts = []
    for index, digits in enumerate((a[:middle], a[middle:])):
        rows: list[Value] = []
        for place in range(0, len(digits) - 1, 2):
            low, high = digits[place], digits[place + 1]
            rows.append(Mux(high, Mux(low, triple, b << 1), Mux(low, b, 0)) << place)
        if len(digits) % 2:
            rows.append(Mux(digits[-1], b, 0) << (len(digits) - 1))
        if rows:
            part = Signal(len(b) + len(digits), name=f"{name}_part_{index}")
            m.d.comb += part.eq(sum(rows[1:], rows[0]))
            parts.append(part)
    return parts


def whole_product(m: Module, parts: list[Value], bits: int, *, name: str) -> Value:
    """What the second cycle makes of them; the first part has `bits` places below the second."""
    if len(parts) == 1:
        return parts[0]
    product = Signal(bits + len(parts[1]), name=name)
    m.d.comb += product.eq(Cat(parts[0][:bits], parts[1] + parts[0][bits:]))
    return product


def largest_of(m: Module, values: list[Value], *, name: str) -> Value:
    """Tree of comparisons."""
    level = 0
    while len(values) > 1:
        following = []
        for index in range(0, len(values) - 1, 2):
            a, b = values[index : index + 2]
            larger = Signal(max(len(a), len(b)), name=f"{name}_{level}_{index}")
            m.d.comb += larger.eq(Mux(b > a, b, a))
            following.append(larger)
        values, level = following + values[len(values) // 2 * 2 :], level + 1
    return values[0]


def align(
    m: Module, magnitude: Value, exponent: Value, largest: Value, *, fraction: int, kept: int, name: str
) -> Signal:
    """A magnitude of `fraction` bits behind the point, shifted right to the largest exponent, `kept` bits behind it."""
    excess = fraction - kept
    whole: Value = magnitude[excess:] if excess > 0 else Cat(Const(0, -excess), magnitude)
    places = Signal(len(largest), name=f"{name}_places")
    steps = len(whole).bit_length()
    shifted = Signal(len(whole), name=f"{name}_aligned")
    beyond = places[steps:].any() if len(places) > steps else Const(0, 1)
    current = whole
    for step in reversed(range(min(steps, len(places)))):
        moved = Signal(len(whole), name=f"{name}_by_{1 << step}")
        m.d.comb += moved.eq(Mux(places[step], current >> (1 << step), current))
        current = moved
    m.d.comb += [places.eq(largest - exponent), shifted.eq(current & (~beyond).replicate(len(whole)))]
    return shifted

