"""Exact-rational oracle for the arithmetic specification (docs/arithmetic.md).

A second, independent implementation of that page, in `fractions.Fraction` and plain integers: clear rather than fast.
It shares no code with the golden model, and everything here is for ONE channel. Section numbers are those of the page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

Number = int | float | Fraction

ZERO = Fraction(0)


# ---------------------------------------------------------------------------------------------------------------------
# Exact helpers
# ---------------------------------------------------------------------------------------------------------------------


def power_of_two(exponent: int) -> Fraction:
    """2^exponent exactly, for any sign of the exponent (used throughout sections 1 and 4)."""
    if exponent >= 0:
        return Fraction(1 << exponent)
    return Fraction(1, 1 << -exponent)


def floor_log2(value: Fraction) -> int:
    """floor(log2 value) of a positive rational from integer bit lengths, never from a logarithm (section 1)."""
    if value <= 0:
        raise ValueError(f"floor_log2 needs a positive value, got {value}")
    # n has a bits and d has b bits, so n/d lies in (2^(a-b-1), 2^(a-b+1)): one comparison decides.
    estimate = value.numerator.bit_length() - value.denominator.bit_length()
    return estimate if power_of_two(estimate) <= value else estimate - 1


def round_half_even(value: Fraction) -> int:
    """Nearest integer, ties to even: the page's RNE (preamble)."""
    lower = value.numerator // value.denominator
    rest = value - lower
    half = Fraction(1, 2)
    if rest > half or (rest == half and lower % 2 == 1):
        return lower + 1
    return lower


def host_number(value: Number, name: str) -> Fraction:
    """The exact value of a host number; NaN and infinity are refused (section 1, wide format K)."""
    if isinstance(value, (int, Fraction)):
        return Fraction(value)
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}")
    return Fraction(number)


# ---------------------------------------------------------------------------------------------------------------------
# Section 1: block format
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """Block format bfp{B}_e{E}m{P} (section 1)."""

    exp_bits: int
    man_bits: int
    block_size: int

    def __post_init__(self) -> None:
        """Refuse what cannot be a format at all (section 8); the page sets no upper limits."""
        if self.exp_bits < 1 or self.man_bits < 0 or self.block_size < 1:
            raise ValueError(f"exp_bits >= 1, man_bits >= 0 and block_size >= 1 are needed, got {self}")

    @property
    def bias(self) -> int:
        """Exponent bias 2^(E-1) - 1 (section 1)."""
        return (1 << (self.exp_bits - 1)) - 1

    @property
    def max_shared_exp(self) -> int:
        """Largest shared exponent field, 2^E - 1; no code is reserved (section 1)."""
        return (1 << self.exp_bits) - 1

    @property
    def max_significand(self) -> int:
        """Largest significand, 2^(P+1) - 1; the leading bit is explicit (section 1)."""
        return (1 << (self.man_bits + 1)) - 1

    def unit(self, shared_exp: int) -> Fraction:
        """Weight of a significand's last bit, 2^(e - bias - P) (section 1)."""
        return power_of_two(shared_exp - self.bias - self.man_bits)


@dataclass(frozen=True)
class Block:
    """One encoded block: a shared exponent field and block_size signs and significands (section 1)."""

    shared_exp: int
    sign: tuple[int, ...]
    significand: tuple[int, ...]


def tensor_values(values: Sequence[Number], fmt: Format) -> list[Fraction]:
    """Exact values of a tensor's elements: NaN refused by index, infinities made to saturate (section 8).

    An infinity becomes a power of two beyond the format's range. Every such number has the same encoding: the shared
    exponent clamps to its top and the significand saturates.
    """
    beyond_range = power_of_two(fmt.max_shared_exp - fmt.bias + 1)
    exact: list[Fraction] = []
    for index, value in enumerate(values):
        if isinstance(value, (int, Fraction)):
            exact.append(Fraction(value))
            continue
        number = float(value)
        if math.isnan(number):
            raise ValueError(f"element {index} is NaN")
        if math.isinf(number):
            exact.append(beyond_range if number > 0 else -beyond_range)
        else:
            exact.append(Fraction(number))
    return exact


def encode_block(values: Sequence[Fraction], fmt: Format) -> Block:
    """Encode exactly block_size exact values (section 1, `quantize`)."""
    if len(values) != fmt.block_size:
        raise ValueError(f"a block has {fmt.block_size} elements, got {len(values)}")
    largest = max(abs(value) for value in values)
    if largest == 0:
        return Block(0, (0,) * fmt.block_size, (0,) * fmt.block_size)
    shared_exp = min(max(floor_log2(largest) + fmt.bias, 0), fmt.max_shared_exp)
    unit = fmt.unit(shared_exp)
    significand = tuple(min(round_half_even(abs(value) / unit), fmt.max_significand) for value in values)
    sign = tuple(int(value < 0 and m != 0) for value, m in zip(values, significand, strict=True))
    if not any(significand):
        shared_exp = 0
    return Block(shared_exp, sign, significand)


def quantize(values: Sequence[Number], fmt: Format) -> list[Block]:
    """Encode values in order, the last block padded with zeros (sections 1 and 2)."""
    exact = tensor_values(values, fmt)
    blocks: list[Block] = []
    for start in range(0, len(exact), fmt.block_size):
        elements = exact[start : start + fmt.block_size]
        padding = [ZERO] * (fmt.block_size - len(elements))
        blocks.append(encode_block(elements + padding, fmt))
    return blocks


def decode(blocks: Sequence[Block], fmt: Format, count: int) -> list[Fraction]:
    """The first `count` exact values of a sequence of blocks; the rest is padding (sections 1 and 2)."""
    if not 0 <= count <= len(blocks) * fmt.block_size:
        raise ValueError(f"{len(blocks)} blocks of {fmt.block_size} cannot hold {count} elements")
    values: list[Fraction] = []
    for block in blocks:
        unit = fmt.unit(block.shared_exp)
        for sign, significand in zip(block.sign, block.significand, strict=True):
            magnitude = significand * unit
            values.append(-magnitude if sign else magnitude)
    return values[:count]


# ---------------------------------------------------------------------------------------------------------------------
# Section 1: wide formats K and A
# ---------------------------------------------------------------------------------------------------------------------

WIDE_MIN_EXPONENT = -126
WIDE_MAX_EXPONENT = 127


def round_wide(value: Fraction, man_bits: int) -> Fraction:
    """Round to K or A: 8 exponent bits, bias 127, hidden bit, man_bits fraction bits (section 1, wide format).

    RNE to man_bits + 1 significant bits with an unbounded exponent; then a magnitude below 2^-126 becomes +0 and one
    above the largest finite value, (2 - 2^-man_bits) * 2^127, saturates.
    """
    if value == 0:
        return ZERO
    unit = power_of_two(floor_log2(abs(value)) - man_bits)
    magnitude = round_half_even(abs(value) / unit) * unit
    if magnitude < power_of_two(WIDE_MIN_EXPONENT):
        return ZERO
    largest = (2 - power_of_two(-man_bits)) * power_of_two(WIDE_MAX_EXPONENT)
    magnitude = min(magnitude, largest)
    return -magnitude if value < 0 else magnitude


# ---------------------------------------------------------------------------------------------------------------------
# Sections 2 and 3: chunks and host constants
# ---------------------------------------------------------------------------------------------------------------------


def ceil_div(numerator: int, denominator: int) -> int:
    """ceil(numerator / denominator) in integers (section 2)."""
    return -(-numerator // denominator)


def chunking(m: int, block_size: int, chunks: int) -> tuple[int, int]:
    """(chunk_blocks, number of chunks Gn) for m elements and a wanted number of chunks G (section 2)."""
    if m < 1 or block_size < 1:
        raise ValueError(f"m and block_size must be at least 1, got m={m}, block_size={block_size}")
    if chunks < 1:
        raise ValueError(f"chunks must be at least 1, got {chunks}")
    block_count = ceil_div(m, block_size)
    chunk_blocks = ceil_div(block_count, chunks)
    return chunk_blocks, ceil_div(block_count, chunk_blocks)


D2_STEPS_PER_UNIT = 64
D2_LIMIT = 39  # erfc(39 / sqrt(2)) is 0 in binary64


@cache
def d2(n: int) -> float:
    """Expected range of n independent standard normals (section 3).

    d2(n) = integral over the real line of 1 - (1-Q)^n - Q^n, with the upper tail Q(x) = erfc(x / sqrt 2) / 2. The
    integrand is even, analytic and decays like a Gaussian, so the trapezoidal rule converges exponentially: at this
    step what is left is binary64 rounding. 1 - (1-Q)^n is taken as -expm1(n * log1p(-Q)): nothing cancels in the tail.
    """
    if n < 1:
        raise ValueError(f"d2 needs n >= 1, got {n}")
    if n == 1:
        return 0.0

    def integrand(x: float) -> float:
        tail = 0.5 * math.erfc(x / math.sqrt(2.0))
        return -math.expm1(n * math.log1p(-tail)) - tail**n

    positive = (integrand(k / D2_STEPS_PER_UNIT) for k in range(1, D2_LIMIT * D2_STEPS_PER_UNIT + 1))
    return (integrand(0.0) + 2.0 * math.fsum(positive)) / D2_STEPS_PER_UNIT


def gain_constant(name: str, n: int) -> float:
    """The calibration constant C of the named kind for chunks of n elements; 0 for n = 1 (section 3)."""
    if n < 1:
        raise ValueError(f"gain_constant needs n >= 1, got {n}")
    if name not in ("d2", "rangebn", "lightnorm"):
        raise ValueError(f"gain must be d2, rangebn or lightnorm, got {name!r}")
    if n == 1:
        return 0.0
    if name == "d2":
        return 1.0 / d2(n)
    if name == "rangebn":
        return 0.5 * 0.35 * (1.0 + math.sqrt(math.pi * math.log(4.0))) / math.sqrt(2.0 * math.log(n))
    return 1.0 / math.sqrt(2.0 * math.log(n))


# ---------------------------------------------------------------------------------------------------------------------
# Results
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statistics:
    """Statistics of one channel in training (sections 3, 4 and the first half of 5)."""

    chunk_blocks: int
    chunk_count: int
    inv_count: Fraction
    range_gain: Fraction
    sum: Fraction
    max_sum: Fraction
    min_sum: Fraction
    max_positions: list[int]
    min_positions: list[int]
    mean: Fraction
    range: Fraction
    sigma: Fraction
    invstd: Fraction


@dataclass(frozen=True)
class ForwardResult:
    """Everything the training forward computes for one channel (sections 4 and 5)."""

    chunk_blocks: int
    chunk_count: int
    inv_count: Fraction
    range_gain: Fraction
    input_blocks: list[Block]
    sum: Fraction
    max_sum: Fraction
    min_sum: Fraction
    max_positions: list[int]
    min_positions: list[int]
    mean: Fraction
    range: Fraction
    sigma: Fraction
    invstd: Fraction
    scale: Fraction
    shift: Fraction
    exact_output: list[Fraction]
    blocks: list[Block]
    output: list[Fraction]
    running_mean: Fraction
    running_sigma: Fraction


@dataclass(frozen=True)
class InferResult:
    """Everything inference computes for one channel (section 6)."""

    input_blocks: list[Block]
    invstd: Fraction
    scale: Fraction
    shift: Fraction
    exact_output: list[Fraction]
    blocks: list[Block]
    output: list[Fraction]


@dataclass(frozen=True)
class BackwardResult:
    """Everything backward computes for one channel (section 7); `terms` are the b_i."""

    input_blocks: list[Block]
    grad_output_blocks: list[Block]
    max_positions: list[int]
    min_positions: list[int]
    grad_sum: Fraction
    product_sum: Fraction
    mean: Fraction
    sigma: Fraction
    invstd: Fraction
    scale: Fraction
    grad_bias: Fraction
    grad_weight: Fraction
    center: Fraction
    ext: Fraction
    terms: list[Fraction]
    exact_grad_input: list[Fraction]
    blocks: list[Block]
    grad_input: list[Fraction]


# ---------------------------------------------------------------------------------------------------------------------
# Sections 4 to 7
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Oracle:
    """One channel of range batch norm in block floating point, exactly as the page says (sections 3 to 7)."""

    activation: Format
    gradient: Format
    coef_man_bits: int = 15
    scale_man_bits: int = 7
    gain: str = "d2"

    def k(self, value: Fraction) -> Fraction:
        """K(value), the wide format of per-channel quantities (section 1)."""
        return round_wide(value, self.coef_man_bits)

    def a(self, value: Fraction) -> Fraction:
        """A(value), the format of a scale (section 1)."""
        return round_wide(value, self.scale_man_bits)

    def host(self, value: Number, name: str) -> Fraction:
        """A host number rounded once into K; NaN and infinity are refused (section 1)."""
        return self.k(host_number(value, name))

    def host_eps(self, eps: Number) -> Fraction:
        """eps rounded to K (section 3); a negative one is refused (section 8)."""
        if host_number(eps, "eps") < 0:
            raise ValueError(f"eps must be at least 0, got {eps}")
        return self.host(eps, "eps")

    def host_momentum(self, momentum: Number) -> Fraction:
        """momentum rounded to K (section 3); outside [0, 1] it is refused (section 8)."""
        if not 0 <= host_number(momentum, "momentum") <= 1:
            raise ValueError(f"momentum must lie in [0, 1], got {momentum}")
        return self.host(momentum, "momentum")

    def invstd_of(self, sigma: Fraction, eps: Fraction) -> Fraction:
        """invstd = 0 if sigma = 0 else K(1 / K(sigma + eps)) (section 5); sigma and eps are K values."""
        if sigma == 0:
            return ZERO
        return self.k(1 / self.k(sigma + eps))

    def scale_of(self, weight: Fraction, invstd: Fraction) -> Fraction:
        """scale = A(weight * invstd) (section 5)."""
        return self.a(weight * invstd)

    def shift_of(self, bias: Fraction, scale: Fraction, mean: Fraction) -> Fraction:
        """shift = K(bias - K(scale * mean)), with the rounded scale (section 5)."""
        return self.k(bias - self.k(scale * mean))

    def running_update(self, running: Fraction, momentum: Fraction, value: Fraction) -> Fraction:
        """running' = K(running + K(momentum * K(value - running))) (section 5)."""
        return self.k(running + self.k(momentum * self.k(value - running)))

    def statistics(self, x: Sequence[Fraction], eps: Fraction, chunks: int) -> Statistics:
        """Chunks, host constants, exact sums, extrema and what follows from them (sections 2 to 5) for decoded x."""
        m = len(x)
        if m < 2:
            raise ValueError(f"training needs more than one value per channel, got {m}")
        block_size = self.activation.block_size
        chunk_blocks, chunk_count = chunking(m, block_size, chunks)
        chunk_size = chunk_blocks * block_size

        inv_count = self.k(Fraction(1, m))
        constant = Fraction(gain_constant(self.gain, min(m, chunk_size)))
        range_gain = self.k(constant / chunk_count)

        max_positions: list[int] = []
        min_positions: list[int] = []
        for start in range(0, m, chunk_size):
            largest = smallest = start
            for index in range(start + 1, min(start + chunk_size, m)):
                if x[index] > x[largest]:
                    largest = index
                if x[index] < x[smallest]:
                    smallest = index
            max_positions.append(largest)
            min_positions.append(smallest)
        assert len(max_positions) == chunk_count

        total = sum(x, ZERO)
        max_sum = sum((x[index] for index in max_positions), ZERO)
        min_sum = sum((x[index] for index in min_positions), ZERO)

        mean = self.k(self.k(total) * inv_count)
        spread = self.k(max_sum - min_sum)
        sigma = self.k(spread * range_gain)
        return Statistics(
            chunk_blocks=chunk_blocks,
            chunk_count=chunk_count,
            inv_count=inv_count,
            range_gain=range_gain,
            sum=total,
            max_sum=max_sum,
            min_sum=min_sum,
            max_positions=max_positions,
            min_positions=min_positions,
            mean=mean,
            range=spread,
            sigma=sigma,
            invstd=self.invstd_of(sigma, eps),
        )

    def forward(
        self,
        x: Sequence[Number],
        weight: Number,
        bias: Number,
        *,
        eps: Number,
        momentum: Number,
        chunks: int,
        running_mean: Number,
        running_sigma: Number,
    ) -> ForwardResult:
        """Training forward of one channel, x in (n, h, w) order (sections 4 and 5)."""
        k_weight = self.host(weight, "weight")
        k_bias = self.host(bias, "bias")
        k_eps = self.host_eps(eps)
        k_momentum = self.host_momentum(momentum)
        k_running_mean = self.host(running_mean, "running_mean")
        k_running_sigma = self.host(running_sigma, "running_sigma")

        input_blocks = quantize(x, self.activation)
        words = decode(input_blocks, self.activation, len(x))
        stats = self.statistics(words, k_eps, chunks)

        scale = self.scale_of(k_weight, stats.invstd)
        shift = self.shift_of(k_bias, scale, stats.mean)
        exact_output = [scale * word + shift for word in words]
        blocks = quantize(exact_output, self.activation)
        return ForwardResult(
            chunk_blocks=stats.chunk_blocks,
            chunk_count=stats.chunk_count,
            inv_count=stats.inv_count,
            range_gain=stats.range_gain,
            input_blocks=input_blocks,
            sum=stats.sum,
            max_sum=stats.max_sum,
            min_sum=stats.min_sum,
            max_positions=stats.max_positions,
            min_positions=stats.min_positions,
            mean=stats.mean,
            range=stats.range,
            sigma=stats.sigma,
            invstd=stats.invstd,
            scale=scale,
            shift=shift,
            exact_output=exact_output,
            blocks=blocks,
            output=decode(blocks, self.activation, len(x)),
            running_mean=self.running_update(k_running_mean, k_momentum, stats.mean),
            running_sigma=self.running_update(k_running_sigma, k_momentum, stats.sigma),
        )

    def infer(
        self,
        x: Sequence[Number],
        weight: Number,
        bias: Number,
        running_mean: Number,
        running_sigma: Number,
        *,
        eps: Number,
    ) -> InferResult:
        """Inference of one channel with the running statistics (section 6); a negative running_sigma is an error."""
        k_weight = self.host(weight, "weight")
        k_bias = self.host(bias, "bias")
        k_eps = self.host_eps(eps)
        mean = self.host(running_mean, "running_mean")
        if host_number(running_sigma, "running_sigma") < 0:
            raise ValueError(f"running_sigma must be at least 0, got {running_sigma}")
        sigma = self.host(running_sigma, "running_sigma")

        input_blocks = quantize(x, self.activation)
        words = decode(input_blocks, self.activation, len(x))

        invstd = self.invstd_of(sigma, k_eps)
        scale = self.scale_of(k_weight, invstd)
        shift = self.shift_of(k_bias, scale, mean)
        exact_output = [scale * word + shift for word in words]
        blocks = quantize(exact_output, self.activation)
        return InferResult(
            input_blocks=input_blocks,
            invstd=invstd,
            scale=scale,
            shift=shift,
            exact_output=exact_output,
            blocks=blocks,
            output=decode(blocks, self.activation, len(x)),
        )

    def backward(
        self,
        x: Sequence[Number],
        grad_output: Sequence[Number],
        weight: Number,
        *,
        eps: Number,
        chunks: int,
    ) -> BackwardResult:
        """Backward of one channel; the statistics are recomputed from x (section 7).

        Chunks are counted in activation blocks (section 2 applied to x); grad_output and the gradient that results are
        in gradient blocks of their own size.
        """
        if len(x) != len(grad_output):
            raise ValueError(f"x has {len(x)} elements but grad_output has {len(grad_output)}")
        k_weight = self.host(weight, "weight")
        k_eps = self.host_eps(eps)
        m = len(x)

        input_blocks = quantize(x, self.activation)
        words = decode(input_blocks, self.activation, m)
        grad_output_blocks = quantize(grad_output, self.gradient)
        grads = decode(grad_output_blocks, self.gradient, m)

        stats = self.statistics(words, k_eps, chunks)
        scale = self.scale_of(k_weight, stats.invstd)

        grad_sum = sum(grads, ZERO)
        product_sum = sum((g * word for g, word in zip(grads, words, strict=True)), ZERO)

        grad_bias = self.k(grad_sum)
        grad_weight = self.k(stats.invstd * self.k(self.k(product_sum) - self.k(stats.mean * grad_bias)))
        center = self.k(scale * self.k(grad_bias * stats.inv_count))
        ext = self.k(scale * self.k(grad_weight * stats.range_gain))

        terms = [-center] * m
        for max_position, min_position in zip(stats.max_positions, stats.min_positions, strict=True):
            if max_position == min_position:
                continue  # max and min at once: ordinary
            terms[max_position] = self.k(-center - ext)
            terms[min_position] = self.k(-center + ext)

        exact_grad_input = [scale * g + term for g, term in zip(grads, terms, strict=True)]
        blocks = quantize(exact_grad_input, self.gradient)
        return BackwardResult(
            input_blocks=input_blocks,
            grad_output_blocks=grad_output_blocks,
            max_positions=stats.max_positions,
            min_positions=stats.min_positions,
            grad_sum=grad_sum,
            product_sum=product_sum,
            mean=stats.mean,
            sigma=stats.sigma,
            invstd=stats.invstd,
            scale=scale,
            grad_bias=grad_bias,
            grad_weight=grad_weight,
            center=center,
            ext=ext,
            terms=terms,
            exact_grad_input=exact_grad_input,
            blocks=blocks,
            grad_input=decode(blocks, self.gradient, m),
        )
