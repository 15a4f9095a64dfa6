"""The floating-point units against NumPy, ml_dtypes and exact rationals."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator
from numpy.typing import NDArray

from lightnorm.arith.floating import FloatAdd, FloatMultiply, FloatMultiplyAdd
from lightnorm_golden import FloatFormat
from lightnorm_golden.wide import add, multiply, multiply_add

Words = NDArray[np.int64]

TYPES: dict[str, tuple[FloatFormat, Any]] = {
    "float8_e4m3": (FloatFormat(4, 3), ml_dtypes.float8_e4m3),
    "float8_e5m2": (FloatFormat(5, 2), ml_dtypes.float8_e5m2),
    "float8_e3m4": (FloatFormat(3, 4), ml_dtypes.float8_e3m4),
    "bfloat16": (FloatFormat(8, 7), ml_dtypes.bfloat16),
    "float16": (FloatFormat(5, 10), np.float16),
    "float32": (FloatFormat(8, 23), np.float32),
}
UNITS = {"add": (FloatAdd, 2, 3), "multiply": (FloatMultiply, 2, 1), "multiply_add": (FloatMultiplyAdd, 3, 3)}
VECTORS = 400
GOLDEN = {"add": add, "multiply": multiply, "multiply_add": multiply_add}


def finite_words(fmt: FloatFormat) -> Words:
    """Every number of a short format: zeros, and subnormals, which count as zeros."""
    words = np.arange(1 << fmt.bits)
    return words[(words >> fmt.man_bits) % (1 << fmt.exp_bits) != (1 << fmt.exp_bits) - 1]


def boundary_words(rng: np.random.Generator, fmt: FloatFormat, size: int) -> Words:
    """Both ends of every field, neighbours of powers of two, exponents near each other."""
    largest, p = (1 << fmt.exp_bits) - 2, fmt.significand_bits
    near = [fmt.bias + d for d in (-2 * p, -p - 2, -p - 1, -p, -1, 0, 1, p, p + 1)]
    exponent = rng.choice([0, 1, 2, largest - 1, largest, *(e for e in near if 0 < e <= largest)], size)
    exponent = np.where(rng.random(size) < 0.4, rng.integers(fmt.bias - 3, fmt.bias + 4, size), exponent)
    fraction = rng.choice([0, 1, 2, (1 << fmt.man_bits) - 1, 1 << (fmt.man_bits - 1)], size)
    fraction = np.where(rng.random(size) < 0.6, rng.integers(0, 1 << fmt.man_bits, size), fraction)
    return np.asarray(rng.integers(0, 2, size) << (fmt.bits - 1) | exponent << fmt.man_bits | fraction)


def values(words: Words, fmt: FloatFormat, dtype: Any) -> NDArray[np.float64]:
    """What the words mean, read by the other library; subnormals are 0."""
    container = {8: np.uint8, 16: np.uint16, 32: np.uint32}[fmt.bits]
    with np.errstate(invalid="ignore"):
        exact = words.astype(container).view(dtype).astype(np.float64)
    return np.where(np.abs(exact) < 2.0**fmt.min_exponent, 0.0, exact)


def expected(name: str, operands: list[NDArray[np.float64]], fmt: FloatFormat, dtype: Any) -> NDArray[np.float64]:
    """One rounding by the other library where it agrees on what numbers there are, by hand below and above them."""
    a, b = (operand.astype(dtype) for operand in operands[:2])
    with np.errstate(all="ignore"):
        if name == "multiply_add":
            result = _exactly(operands, fmt)
        else:
            result = (a + b if name == "add" else a * b).astype(np.float64)
    result = np.where(np.isinf(result), np.copysign(fmt.max_value, result), result)
    smallest = 2.0**fmt.min_exponent
    for index in np.flatnonzero(np.abs(result) <= smallest):
        exact = _exact(name, [Fraction(float(operand[index])) for operand in operands])
        tie = Fraction(smallest) * (1 - Fraction(1, 1 << (fmt.significand_bits + 1)))
        result[index] = 0.0 if abs(exact) < tie else (smallest if exact > 0 else -smallest)
    return result + 0.0


def _exact(name: str, operands: list[Fraction]) -> Fraction:
    if name == "add":
        return operands[0] + operands[1]
    return operands[0] * operands[1] + (operands[2] if name == "multiply_add" else 0)


def _exactly(operands: list[NDArray[np.float64]], fmt: FloatFormat) -> NDArray[np.float64]:
    """a * b + c: exact rationals, rounded by integer division (RNE)."""
    result = []
    for numbers in zip(*operands, strict=True):
        exact = _exact("multiply_add", [Fraction(float(number)) for number in numbers])
        if not exact:
            result.append(0.0)
            continue
        exponent = abs(exact.numerator).bit_length() - exact.denominator.bit_length()
        exponent -= abs(exact) < Fraction(2) ** exponent
        unit = Fraction(2) ** (exponent - fmt.man_bits)
        rounded = round(exact / unit) * unit
        result.append(float(rounded) if abs(rounded) <= fmt.max_value else (np.inf if exact > 0 else -np.inf))
    return np.array(result)


def simulate(unit: Any, operands: list[Words], latency: int) -> Words:
    """The unit's words, a new operation in every cycle."""
    top, beat = Module(), Signal()  # a combinational unit has no clock of its own
    top.submodules.unit = unit
    top.d.sync += beat.eq(~beat)
    ports = [getattr(unit, f"i_{name}").as_value() for name in "abc"[: len(operands)]]
    out, found = unit.o.as_value(), []

    async def drive(context: Any) -> None:
        context.set(unit.i_enable, 1)
        for index in range(len(operands[0]) + latency):
            for port, words in zip(ports, operands, strict=True):
                context.set(port, int(words[min(index, len(words) - 1)]))
            found.append(context.get(out))
            await context.tick()

    simulator = Simulator(top)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
    return np.array(found)[latency:]


def check(name: str, kind: str, operands: list[Words], stages: int) -> None:
    fmt, dtype = TYPES[kind]
    got = values(simulate(UNITS[name][0](fmt=fmt, stages=stages), operands, stages), fmt, dtype)
    numbers = [values(words, fmt, dtype) for words in operands]
    want = expected(name, numbers, fmt, dtype)
    bad = np.flatnonzero(got != want)
    assert not len(bad), f"{name} {kind}: {[(*(n[i] for n in numbers), got[i], want[i]) for i in bad[:4]]}"
    golden = GOLDEN[name](*numbers, fmt)  # type: ignore[operator]
    assert np.array_equal(golden, want), "the golden model's operation"
    assert not np.signbit(got[got == 0]).any()


def pairs(kind: str) -> Words:
    words = finite_words(TYPES[kind][0])
    return np.array(list(itertools.product(words, words)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float8_e4m3", "float8_e5m2", "float8_e3m4"])
@pytest.mark.parametrize("name", ["add", "multiply"])
def test_every_pair(name: str, kind: str) -> None:
    check(name, kind, list(pairs(kind).T), 0)


@pytest.mark.parametrize("name", ["add", "multiply"])
def test_some_pairs(name: str) -> None:
    check(name, "float8_e4m3", list(pairs("float8_e4m3")[::17].T), 0)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", UNITS)
def test_boundaries(name: str, kind: str) -> None:
    fmt, rng = TYPES[kind][0], np.random.default_rng(len(kind))
    _, count, most = UNITS[name]
    for stages in range(most + 1):
        operands = [boundary_words(rng, fmt, VECTORS) for _ in range(count)]
        close = rng.random(VECTORS) < 0.2  # nearly cancels
        operands[1] = np.where(close & (name == "add"), operands[0] ^ 1 << (fmt.bits - 1) ^ rng.integers(0, 4, VECTORS),
                               operands[1])  # fmt: skip
        check(name, kind, operands, stages)


@pytest.mark.parametrize("unit", [FloatAdd, FloatMultiply, FloatMultiplyAdd])
def test_stages_are_checked(unit: Any) -> None:
    with pytest.raises(ValueError, match="stages must be between 0 and [13], not 7"):
        unit(fmt=FloatFormat(5, 10), stages=7)
