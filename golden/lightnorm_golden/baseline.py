"""Conventional batch norm as the machines of `lightnorm.baseline` compute it, bit for bit; LightNorm is compared with
them.

Statistics are L2 (sum and sum of squares in one read) or ranges of chunks; numbers are floating point, storage and
coefficients in formats of their own. What a sceptic may want to know:

- Sums are block-aligned, as dot-product units have them: of a beat's terms each is shifted to the largest exponent seen
  so far in the channel and cut `GUARD_BITS` below the last place of the sum's format; the rest is integer.
- Per-channel values are operations in `coef`, each rounded once, multiply-add fused.
- 1 / sqrt(v) and 1 / v: a linear piece of a table, then one step of Newton's method.
- Forward gives the backward pass mean and 1 / sigma (words on the parameter stream), as frameworks do.
- dx = a * g - b * x + c (L2), a * g + c where c is the chunk's extremum's own (range): one aligned sum, rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from .block import Float64, Int
from .formats import FloatFormat
from .statistics import gain_constant
from .wide import multiply, multiply_add, round_wide

__all__ = ["GUARD_BITS", "STATISTICS", "FloatConstants", "FloatNormSpec", "FloatStatistics", "backward_lanes",
           "coefficients", "decode_floats", "encode_floats", "float_constants", "forward_lanes",
           "gradient_coefficients", "reduce_lanes", "seed_table"]  # fmt: skip

GUARD_BITS = 3
"""Of an aligned sum, below the last place of its format."""

SEED_INDEX_BITS = 5
"""Fraction bits that select a piece of the table."""

STATISTICS = ("l2", "range")


@dataclass(frozen=True)
class FloatNormSpec:
    """What a conventional machine computes.

    `statistic`: "l2" or "range". `activation`, `gradient`: storage formats. `coef_man_bits` (15..23): fraction bits of
    sums and per-channel values, which have 8 exponent bits; `scale_man_bits`: of what multiplies an element.
    """

    statistic: str
    activation: FloatFormat
    gradient: FloatFormat
    coef_man_bits: int = 23
    scale_man_bits: int = 23

    def __post_init__(self) -> None:
        if self.statistic not in STATISTICS:
            raise ValueError(f"statistic must be one of {', '.join(STATISTICS)}, not {self.statistic!r}")
        for name, low, high in (("coef_man_bits", 15, 23), ("scale_man_bits", 1, self.coef_man_bits)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name} must be an integer between {low} and {high}, not {value!r}")

    @cached_property
    def coef(self) -> FloatFormat:
        return FloatFormat(8, self.coef_man_bits)

    @cached_property
    def scale(self) -> FloatFormat:
        return FloatFormat(8, self.scale_man_bits)

    @cached_property
    def common(self) -> FloatFormat:
        """Holds every activation and gradient."""
        formats = (self.activation, self.gradient)
        return FloatFormat(max(fmt.exp_bits for fmt in formats), max(fmt.man_bits for fmt in formats))

    @property
    def sum_fraction(self) -> int:
        """Fraction bits of an aligned sum of a channel."""
        return self.coef_man_bits + GUARD_BITS

    @property
    def apply_fraction(self) -> int:
        """Fraction bits of an aligned sum of an element: a product of few bits needs no more than its own."""
        return min(self.coef_man_bits, self.common.man_bits + self.scale_man_bits) + GUARD_BITS


def encode_floats(values: Float64, fmt: FloatFormat) -> Int:
    """The words of values that the format holds."""
    fraction, exponent = np.frexp(np.abs(values))
    significand = np.ldexp(fraction, fmt.significand_bits).astype(np.int64)
    word = (exponent - 1 + fmt.bias) << fmt.man_bits | (significand & ((1 << fmt.man_bits) - 1))
    return np.where(values == 0, 0, word | np.signbit(values).astype(np.int64) << (fmt.bits - 1))


def decode_floats(words: Int, fmt: FloatFormat) -> Float64:
    """What words mean; subnormals and negative zeros are 0."""
    fraction, exponent = words & ((1 << fmt.man_bits) - 1), words >> fmt.man_bits & ((1 << fmt.exp_bits) - 1)
    magnitude = np.ldexp((fraction | 1 << fmt.man_bits) * 1.0, exponent - fmt.bias - fmt.man_bits)
    sign = np.where(words >> (fmt.bits - 1) & 1, -1.0, 1.0)
    return np.where(exponent == 0, 0.0, sign * magnitude)


@dataclass(frozen=True)
class _Terms:
    """Of numbers: magnitude as an integer with `fraction` bits behind the point, sign, exponent (biased, 0 for 0)."""

    magnitude: Int
    sign: Int
    exponent: Int
    fraction: int
    bias: int

    def aligned(self, largest: Int, fraction: int) -> Int:
        """Signed, in units of 2^-fraction of `largest`; cut towards zero."""
        excess = self.fraction - fraction
        shifted = self.magnitude >> excess if excess > 0 else self.magnitude << -excess
        return np.asarray(self.sign * (shifted >> np.minimum(largest - self.exponent, 63)))


def _terms(values: Float64, fmt: FloatFormat, bias: int | None = None) -> _Terms:
    fraction, exponent = np.frexp(np.abs(values))
    magnitude = np.ldexp(fraction, fmt.significand_bits).astype(np.int64)
    bias = fmt.bias if bias is None else bias
    return _Terms(magnitude, np.sign(values).astype(np.int64), np.where(values == 0, 0, exponent - 1 + bias),
                  fmt.man_bits, bias)  # fmt: skip


def _products(a: _Terms, b: _Terms) -> _Terms:
    magnitude = a.magnitude * b.magnitude
    exponent = np.where(magnitude == 0, 0, a.exponent + b.exponent)
    return _Terms(magnitude, a.sign * b.sign, exponent, a.fraction + b.fraction, a.bias + b.bias)


def _channel_sum(terms: _Terms, spec: FloatNormSpec) -> Float64:
    """Per channel, of terms (C, beats, lanes), in the order of the beats; rounded to `coef`."""
    channels, beats, _ = terms.magnitude.shape
    total, largest = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    for beat in range(beats):
        exponent = terms.exponent[:, beat]
        following = np.maximum(largest, exponent.max(axis=1))
        one = _Terms(terms.magnitude[:, beat], terms.sign[:, beat], exponent, terms.fraction, terms.bias)
        total >>= np.minimum(following - largest, 63)
        total += one.aligned(following[:, None], spec.sum_fraction).sum(axis=1)
        largest = following
    return round_wide(np.ldexp(total * 1.0, largest - terms.bias - spec.sum_fraction), spec.coef)


@dataclass(frozen=True)
class FloatStatistics:
    """Per channel: sum of z and of x * z (z = x in training, the gradient in backward), sum of the chunks' ranges, and
    in each chunk where its extrema are (index of the first element that attains it)."""

    total: Float64
    product_total: Float64
    range_total: Float64
    max_position: Int
    min_position: Int


def _beats(values: Float64, lanes: int) -> Float64:
    """(C, elements) -> (C, beats, lanes), zeros behind."""
    channels, elements = values.shape
    return np.pad(values, ((0, 0), (0, -elements % lanes))).reshape(channels, -1, lanes)


def reduce_lanes(
    x: Float64, grad: Float64 | None, *, lanes: int, chunk_beats: int, spec: FloatNormSpec
) -> FloatStatistics:
    """Statistics of a channel's values (C, elements), or in backward of values and gradients."""
    x_terms = _terms(_beats(x, lanes), spec.common)
    z_terms = x_terms if grad is None else _terms(_beats(grad, lanes), spec.common)
    total = _channel_sum(z_terms, spec)
    product = _channel_sum(_products(x_terms, z_terms), spec)
    if spec.statistic == "l2":
        none = np.zeros((len(x), 0), np.int64)
        return FloatStatistics(total, product, np.zeros(len(x)), none, none)
    starts = np.arange(0, x.shape[1], chunk_beats * lanes)
    stops = [*starts[1:], x.shape[1]]
    pairs = list(zip(starts, stops, strict=True))
    highest = np.stack([start + x[:, start:stop].argmax(axis=1) for start, stop in pairs], axis=1)
    lowest = np.stack([start + x[:, start:stop].argmin(axis=1) for start, stop in pairs], axis=1)
    rows = np.arange(len(x))[:, None]
    extrema = np.stack([x[rows, highest], -x[rows, lowest]], axis=2)  # two lanes, a beat for each chunk
    return FloatStatistics(total, product, _channel_sum(_terms(extrema, spec.common), spec), highest, lowest)


@dataclass(frozen=True)
class FloatConstants:
    """What a host computes once per layer; values that `coef` holds."""

    inv_count: float
    range_gain: float
    chunk_beats: int


def float_constants(elements: int, chunks: int, lanes: int, spec: FloatNormSpec, gain: str = "d2") -> FloatConstants:
    """Constants for channels of `elements`; a chunk is whole beats, at most `chunks` of them make a channel."""
    beats = -(-elements // lanes)
    chunk_beats = -(-beats // chunks)
    made = -(-beats // chunk_beats)
    constant = gain_constant(gain, min(elements, chunk_beats * lanes)) / made if spec.statistic == "range" else 0.0
    inv_count, range_gain = round_wide(np.array([1 / elements, constant]), spec.coef)
    return FloatConstants(float(inv_count), float(range_gain), chunk_beats)


@cache
def seed_table(statistic: str) -> tuple[tuple[float, float], ...]:
    """(offset, slope) of lines close to 1 / sqrt(m) on [1, 4) ("l2") or 1 / m on [1, 2) ("range"); relative error below
    2^-12.9.

    Index: fraction bits from the top, above them for "l2" whether m is at least 2. Offsets are multiples of 2^-14,
    slopes of 2^-12, so that a `coef` of 15 fraction bits holds them.
    """
    pieces = 1 << SEED_INDEX_BITS
    table = []
    for binade in (1, 2) if statistic == "l2" else (1,):
        for index in range(pieces):
            start, length = binade * (1 + index / pieces), binade / pieces
            points = start + length * (0.5 + np.array([-0.5, 0.5]) * np.sqrt(0.5))  # Chebyshev's
            exact = 1 / np.sqrt(points) if statistic == "l2" else 1 / points
            slope = float(np.round((exact[1] - exact[0]) / (points[1] - points[0]) * 2**12)) / 2**12
            table.append((float(np.round((exact - slope * points).mean() * 2**14)) / 2**14, slope))
    return tuple(table)


def _invert(spread: Float64, spec: FloatNormSpec) -> tuple[Float64, Float64, Float64]:
    """(y, r, p) with 1 / sqrt(spread), in range statistics 1 / spread, being about p * y * (1 + r)."""
    fmt = spec.coef
    mantissa, exponent = np.frexp(spread)
    mantissa, exponent = np.where(spread == 0, 1.0, 2 * mantissa), np.where(spread == 0, -127, exponent - 1)
    index = ((mantissa - 1) * (1 << SEED_INDEX_BITS)).astype(np.int64)
    if spec.statistic == "l2":
        odd = exponent & 1
        index, mantissa, exponent = index | odd << SEED_INDEX_BITS, mantissa * (1 + odd), (exponent - odd) // 2
    offset, slope = np.array(seed_table(spec.statistic))[index].T
    seed = multiply_add(slope, mantissa, offset, fmt)
    if spec.statistic == "l2":
        rest = multiply_add(-multiply(mantissa / 2, seed, fmt), seed, 0.5, fmt)
    else:
        rest = multiply_add(-mantissa, seed, 1.0, fmt)
    return seed, rest, np.where(exponent == 127, 0.0, np.ldexp(1.0, -exponent))


def coefficients(
    statistics: FloatStatistics | None,
    constants: FloatConstants,
    weight: Float64,
    bias: Float64,
    running_mean: Float64,
    running_spread: Float64,
    *,
    eps: float,
    momentum: float,
    spec: FloatNormSpec,
) -> dict[str, Float64]:
    """scale and shift, and in training (with statistics) the result words: mean, invstd, and the running values.

    `running_spread` is a variance (the batch's biased one enters it), in range statistics a sigma.
    """
    fmt = spec.coef
    if statistics is None:
        mean, spread = running_mean, multiply_add(running_spread, 1.0, eps, fmt)
    else:
        mean = multiply(statistics.total, constants.inv_count, fmt)
        if spec.statistic == "l2":
            moment = np.maximum(multiply_add(-mean, statistics.total, statistics.product_total, fmt), 0.0)
            factor = constants.inv_count
        else:
            moment, factor = statistics.range_total, constants.range_gain
        spread = multiply_add(moment, factor, eps, fmt)
    seed, rest, power = _invert(spread, spec)
    powered = multiply(seed, power, fmt)
    weighted = multiply(multiply(weight, power, fmt), seed, fmt)
    scale = multiply_add(weighted, rest, weighted, spec.scale)
    found = {"scale": scale, "shift": multiply_add(-mean, scale, bias, fmt)}
    if statistics is not None:
        own = multiply(moment, factor, fmt)
        mean_gap = multiply_add(mean, 1.0, -running_mean, fmt)
        own_gap = multiply_add(own, 1.0, -running_spread, fmt)
        found |= {
            "mean": mean,
            "invstd": multiply_add(powered, rest, powered, fmt),
            "new_running_mean": multiply_add(mean_gap, momentum, running_mean, fmt),
            "new_running_spread": multiply_add(own_gap, momentum, running_spread, fmt),
        }
    return found


def gradient_coefficients(
    statistics: FloatStatistics,
    constants: FloatConstants,
    mean: Float64,
    invstd: Float64,
    weight: Float64,
    *,
    spec: FloatNormSpec,
) -> dict[str, Float64]:
    """What backward applies (L2: scale, slope, term; range: scale, term, at_max, at_min), grad_bias and grad_weight."""
    fmt, total = spec.coef, statistics.total
    centered = multiply_add(-mean, total, statistics.product_total, fmt)
    grad_weight = multiply(centered, invstd, fmt)
    scale = multiply(weight, invstd, spec.scale)
    center = multiply(multiply(total, constants.inv_count, fmt), scale, fmt)
    found = {"grad_bias": total, "grad_weight": grad_weight, "scale": scale}
    if spec.statistic == "l2":
        share = multiply(multiply(grad_weight, constants.inv_count, fmt), invstd, fmt)
        slope = multiply(share, scale, spec.scale)
        return found | {"slope": slope, "term": multiply_add(slope, mean, -center, fmt)}
    share = multiply(grad_weight, constants.range_gain, fmt)
    at_max, at_min = (multiply_add(sign * share, scale, -center, fmt) for sign in (-1.0, 1.0))
    return found | {"term": multiply_add(-center, 1.0, 0.0, fmt), "at_max": at_max, "at_min": at_min}


def _apply(terms: list[_Terms], fmt: FloatFormat, spec: FloatNormSpec) -> Float64:
    """The aligned sum of terms of equal bias, rounded to the format."""
    largest = np.maximum.reduce(np.broadcast_arrays(*(term.exponent for term in terms)))
    total = sum(term.aligned(largest, spec.apply_fraction) for term in terms)
    return round_wide(np.ldexp(np.asarray(total) * 1.0, largest - terms[0].bias - spec.apply_fraction), fmt)


def _scaled(values: Float64, factor: Float64, spec: FloatNormSpec) -> _Terms:
    return _products(_terms(values, spec.common), _terms(factor[:, None], spec.scale))


def _addend(values: Float64, spec: FloatNormSpec) -> _Terms:
    return _terms(values, spec.coef, spec.coef.bias + spec.common.bias)


def forward_lanes(x: Float64, found: dict[str, Float64], spec: FloatNormSpec) -> Float64:
    """y of values (C, elements)."""
    return _apply([_scaled(x, found["scale"], spec), _addend(found["shift"][:, None], spec)], spec.activation, spec)


def backward_lanes(
    x: Float64, grad: Float64, found: dict[str, Float64], statistics: FloatStatistics, spec: FloatNormSpec
) -> Float64:
    """dL/dx of values and gradients (C, elements)."""
    scaled = _scaled(grad, found["scale"], spec)
    term = np.broadcast_to(found["term"][:, None], x.shape)
    if spec.statistic == "l2":
        return _apply([scaled, _scaled(x, -found["slope"], spec), _addend(term, spec)], spec.gradient, spec)
    term, rows = term.copy(), np.arange(len(x))
    highest, lowest = statistics.max_position, statistics.min_position
    for chunk in range(highest.shape[1]):  # an element that is both is an ordinary one
        own = highest[:, chunk] != lowest[:, chunk]
        term[rows[own], highest[own, chunk]] = found["at_max"][own]
        term[rows[own], lowest[own, chunk]] = found["at_min"][own]
    return _apply([scaled, _addend(term, spec)], spec.gradient, spec)
