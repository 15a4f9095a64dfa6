"""Boundary-weighted stimulus for the golden model: a `Case` is everything one layer computes from, made from one seed.

Values are chosen where implementations differ: exponents at both ends of a format and beyond, significands at ties and
just below powers of two, blocks of zeros, constant channels, equal maxima and minima, infinities, a mean far above
sigma. Uniform or normal data meets almost none of these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightnorm_golden import GAINS, BlockFormat, NormSpec

Float64 = NDArray[np.float64]
Rng = np.random.Generator

BLOCK_SIZES = (1, 2, 3, 4, 5, 8, 16, 64)


@dataclass(frozen=True)
class Case:
    """Arguments of forward, infer and backward for one layer; `kinds` names how each channel of x was made."""

    seed: int
    spec: NormSpec
    x: NDArray[Any]
    grad_output: NDArray[Any]
    weight: Float64
    bias: Float64
    running_mean: Float64
    running_sigma: Float64
    eps: float
    momentum: float
    chunks: int
    kinds: tuple[str, ...]

    def __str__(self) -> str:
        spec = self.spec
        return (
            f"seed {self.seed}: activation {spec.activation}, gradient {spec.gradient}, coef_man_bits "
            f"{spec.coef_man_bits}, scale_man_bits {spec.scale_man_bits}, gain {spec.gain}, x {self.x.dtype} "
            f"{self.x.shape}, {self.chunks} chunks, eps {self.eps}, momentum {self.momentum}, channels {self.kinds}"
        )


# ---------------------------------------------------------------------------------------------------------------------
# Values of one channel
# ---------------------------------------------------------------------------------------------------------------------


def exponents(fmt: BlockFormat) -> tuple[int, int]:
    """Exponents of the smallest step and of the largest binade of a format."""
    return fmt.min_exponent, fmt.max_shared_exp - fmt.bias


def boundary_exponents(rng: Rng, fmt: BlockFormat, size: int) -> NDArray[np.int64]:
    """Exponents at, around and beyond both ends of the format, at the end of full precision, and around 1."""
    low, high = exponents(fmt)
    ends = [low - 2, low - 1, low, low + 1, high - 1, high, high + 1]
    edges = np.array([*ends, -fmt.bias - 1, -fmt.bias, 1 - fmt.bias, 0])
    return np.where(rng.random(size) < 0.7, rng.choice(edges, size), rng.integers(low - 3, high + 3, size))


def boundary_significands(rng: Rng, fmt: BlockFormat, size: int) -> Float64:
    """Significands in [1, 2): both ends, the last tie, where rounding saturates, other ties, and their neighbours."""
    ulp = 2.0**-fmt.man_bits
    fixed = [1, 1 + ulp, 1.5, 2 - ulp, 2 - ulp / 2, 2 - ulp / 4, np.nextafter(2.0, 0)]
    tie = 1 + (rng.integers(0, 1 << fmt.man_bits, size) + 0.5) * ulp
    choices = np.stack(
        [
            rng.choice(fixed, size),
            rng.choice(fixed, size),
            tie,
            np.nextafter(tie, rng.choice([0, 2], size)),
            rng.uniform(1, 2, size),
        ]
    )
    return np.asarray(choices[rng.integers(0, len(choices), size), np.arange(size)])


def signs(rng: Rng, size: int) -> Float64:
    return rng.choice([-1.0, 1.0], size)


def boundary(rng: Rng, fmt: BlockFormat, size: int) -> Float64:
    """Boundary exponents and significands, elements of a block within a few binades of each other."""
    blocks = -(-size // fmt.block_size)
    base = np.repeat(boundary_exponents(rng, fmt, blocks), fmt.block_size)[:size]
    drop = rng.integers(0, fmt.man_bits + 4, size) * (rng.random(size) < 0.6)
    return np.asarray(np.ldexp(signs(rng, size) * boundary_significands(rng, fmt, size), base - drop))


def spread(rng: Rng, fmt: BlockFormat, size: int) -> Float64:
    """Every element with its own exponent."""
    return np.ldexp(signs(rng, size) * boundary_significands(rng, fmt, size), boundary_exponents(rng, fmt, size))


def normal(rng: Rng, fmt: BlockFormat, size: int) -> Float64:
    low, high = exponents(fmt)
    return np.asarray(rng.normal(size=size) * 2.0 ** rng.integers(low, high))


def large_mean(rng: Rng, fmt: BlockFormat, size: int) -> Float64:
    """A mean of up to a few thousand sigma."""
    _, high = exponents(fmt)
    return np.asarray((rng.normal(size=size) + signs(rng, 1) * 2.0 ** rng.uniform(2, 12)) * 2.0 ** (high - 13))


def constant(rng: Rng, fmt: BlockFormat, size: int) -> Float64:
    return np.full(size, spread(rng, fmt, 1)[0])


def two_valued(rng: Rng, fmt: BlockFormat, size: int) -> Float64:
    """Few different values: maxima and minima are attained many times, in blocks of different shared exponents."""
    low, high = exponents(fmt)
    exponent = rng.integers(low + fmt.man_bits, high) if low + fmt.man_bits < high else high
    return np.asarray(rng.choice([-1.0, 0.0, 0.5, 1.0][rng.integers(0, 3) :], size) * 2.0**exponent)


def symmetric(rng: Rng, fmt: BlockFormat, size: int) -> Float64:
    """Pairs x, -x: the sum is zero (if a pair shares its block or the values are representable)."""
    half = np.round(rng.normal(size=-(-size // 2)) * fmt.max_significand / 4) * 2.0**-fmt.man_bits
    return np.stack([half, -half], axis=1).ravel()[:size]


def ties(rng: Rng, fmt: BlockFormat, size: int) -> Float64:
    """Half-integers in units of one step per block."""
    blocks = -(-size // fmt.block_size)
    low, high = exponents(fmt)
    unit = np.repeat(rng.integers(low, max(high - fmt.man_bits, low + 1), blocks), fmt.block_size)[:size]
    return np.ldexp(signs(rng, size) * (rng.integers(0, fmt.max_significand + 1, size) + 0.5), unit)


def sparse(rng: Rng, fmt: BlockFormat, size: int) -> Float64:
    """Mostly zero, so that many blocks are all zero."""
    return np.where(rng.random(size) < 0.1, spread(rng, fmt, size), 0.0)


def one_sided(rng: Rng, fmt: BlockFormat, size: int) -> Float64:
    """One sign only: padding read as an element would be an extremum."""
    return np.asarray(np.abs(normal(rng, fmt, size)) * signs(rng, 1))


def extreme(rng: Rng, fmt: BlockFormat, size: int) -> Float64:
    """The ends of float64 and the infinities."""
    return rng.choice([np.inf, -np.inf, 1e308, -1e308, 5e-324, -5e-324, 0.0, -0.0, 1.0, 2.0**-1022], size)


KINDS: tuple[Callable[[Rng, BlockFormat, int], Float64], ...] = (
    boundary, boundary, spread, normal, large_mean, constant, two_valued, symmetric, ties, sparse, one_sided, extreme,
)  # fmt: skip


def channel_values(rng: Rng, fmt: BlockFormat, size: int, kind: int | None = None) -> tuple[Float64, str]:
    """`size` values of one channel and the name of their kind, sometimes with blocks of zeros or an infinity in it."""
    make = KINDS[rng.integers(len(KINDS)) if kind is None else kind]
    values, name = make(rng, fmt, size), make.__name__
    if rng.random() < 0.2:
        block = np.arange(size) // fmt.block_size
        values = np.where(rng.random(block[-1] + 1)[block] < 0.4, 0.0, values)
        name += "+zero blocks"
    if rng.random() < 0.08:
        values[rng.integers(size)] = rng.choice([np.inf, -np.inf])
        name += "+infinity"
    return values, name


# ---------------------------------------------------------------------------------------------------------------------
# Whole cases
# ---------------------------------------------------------------------------------------------------------------------


def block_format(rng: Rng) -> BlockFormat:
    return BlockFormat(int(rng.integers(2, 9)), int(rng.integers(1, 11)), int(rng.choice(BLOCK_SIZES)))


def norm_spec(rng: Rng) -> NormSpec:
    """Formats that differ in all three fields; half of the wide formats are the default or an end of the range."""
    coef = int(rng.choice([8, 15, 23])) if rng.random() < 0.5 else int(rng.integers(8, 24))
    scale = min(coef, int(rng.choice([1, 7, 7, 23]))) if rng.random() < 0.7 else int(rng.integers(1, coef + 1))
    gain = GAINS[0] if rng.random() < 0.7 else str(rng.choice(GAINS))
    return NormSpec(block_format(rng), block_format(rng), coef, scale, gain)


def shape(rng: Rng, block_size: int, channels: int) -> tuple[int, ...]:
    """(N, C, *spatial) with 0 to 3 spatial dimensions; often just below, at or just above whole blocks."""
    near_blocks = [block_size - 1, block_size, block_size + 1, 2 * block_size + 1]
    elements = max(2, int(rng.choice([2, 3, 7, 24, 36, 60, 90, *near_blocks])))
    factors: list[int] = []
    for _ in range(rng.integers(0, 4)):
        factors.append(int(rng.choice([f for f in range(1, elements + 1) if elements % f == 0])))
        elements //= factors[-1]
    return (elements, channels, *factors)


def wanted_chunks(rng: Rng, blocks: int) -> int:
    """From one chunk to more than there are blocks."""
    return int(rng.choice([1, 2, 3, 16, blocks, blocks + 1, 3 * blocks + 5, int(rng.integers(1, blocks + 1))]))


def wide_values(rng: Rng, size: int, spec: NormSpec) -> Float64:
    """Per-channel host values: ordinary ones, 0, ties of K, the ends of K and beyond."""
    ulp = 2.0**-spec.coef_man_bits
    ordinary = [0.0, 1.0, -1.0, 1 + ulp / 2, -(1 + 1.5 * ulp), 2 - ulp / 2, 2.0**-100, -(2.0**-60)]
    ends = [2.0**-126, 2.0**-127 * (2 - ulp / 2), 1e-45, 1e30, -3e38, 2.0**128, 1e300]
    special = np.array(ordinary + ends)
    return np.where(rng.random(size) < 0.35, rng.choice(special, size), rng.normal(size=size))


def ordinary_case(seed: int) -> Case:
    """A random layer of one to three channels."""
    rng = np.random.default_rng([seed, 1])
    spec = norm_spec(rng)
    channels = int(rng.integers(1, 4))
    size = shape(rng, spec.activation.block_size, channels)
    elements = int(np.prod(size)) // channels
    columns, kinds = zip(*(channel_values(rng, spec.activation, elements) for _ in range(channels)), strict=True)
    grads = [channel_values(rng, spec.gradient, elements)[0] for _ in range(channels)]

    weight = wide_values(rng, channels, spec)
    bias = wide_values(rng, channels, spec)
    for channel, column in enumerate(columns):
        if rng.random() < 0.3 and np.isfinite(column).all() and np.abs(column).max() < 1e30:
            # about the value at which the shift cancels
            sigma = max(float(np.ptp(column)) / 4, 1e-30)
            bias[channel] = np.clip(weight[channel], -1e30, 1e30) * column.mean() / sigma
    dtype = np.dtype(rng.choice(["f8", "f8", "f8", "f4", "f2"]))
    with np.errstate(over="ignore"):
        x = to_tensor(np.array(columns).astype(dtype), size)
        grad_output = to_tensor(np.array(grads).astype(dtype), size)
    return Case(
        seed=seed,
        spec=spec,
        x=x,
        grad_output=grad_output,
        weight=weight,
        bias=bias,
        running_mean=wide_values(rng, channels, spec),
        running_sigma=np.abs(wide_values(rng, channels, spec)),
        eps=float(rng.choice([0.0, 1e-5, 1e-5, 1.0, 1e-45, 2.0**-126, 1e30])),
        momentum=float(rng.choice([0.0, 1.0, 0.1, 0.5, 1e-45, rng.random()])),
        chunks=wanted_chunks(rng, -(-elements // spec.activation.block_size)),
        kinds=kinds,
    )


def sticky_case(seed: int) -> Case:
    """Values whose rounding is decided by a bit more than 53 bits below the first one.

    Channel 0: quads x = a, -a, b, -b with gradients h, h, -h, -h, so that S vanishes, and Q and D but for a tiny last
    quad. The terms of y and dx are then tiny, and many products scale * x and scale * g are ties of their formats.
    Channel 1: S and D are ties of K but for a tiny element.
    """
    rng = np.random.default_rng([seed, 2])
    activation = BlockFormat(int(rng.integers(7, 9)), int(rng.integers(1, 5)), int(rng.choice([1, 2, 4])))
    gradient = BlockFormat(int(rng.integers(7, 9)), int(rng.integers(1, 5)), int(rng.choice([1, 2, 4])))
    spec = NormSpec(activation, gradient, int(rng.choice([8, 15, 23])), int(rng.choice([1, 2, 7])))
    quads = int(rng.integers(4, 9))
    tiny = 2.0 ** -rng.integers(56, 62)

    x_top, g_top = activation.max_significand, gradient.max_significand
    pair = rng.integers(x_top // 2 + 1, x_top + 1, (quads, 2)).astype(np.float64)
    pair[0] = x_top  # the first quad surely holds the extrema
    height = rng.integers(g_top // 2 + 1, g_top + 1, quads).astype(np.float64)
    x_quads = np.stack([pair[:, 0], -pair[:, 0], pair[:, 1], -pair[:, 1]], axis=1).ravel()
    g_quads = np.stack([height, height, -height, -height], axis=1).ravel()

    half_ulp = 2.0 ** -(spec.coef_man_bits + 1)
    x_tie, g_tie = np.zeros(4 * quads), np.ones(4 * quads)
    x_tie[[0, 4, 8]] = 1, half_ulp, signs(rng, 1)[0] * tiny  # each in a block of its own
    g_tie[[1, 2, 3]] = 0
    x = np.stack([np.append(x_quads, [1.0, -1.0] * 2), np.append(x_tie, [0.0] * 4)])
    g = np.stack([np.append(g_quads, signs(rng, 4) * tiny * rng.integers(1, 3, 4)), np.append(g_tie, [0.0] * 4)])
    size = (x.shape[1] // 4, 2, 4)
    return Case(
        seed=seed,
        spec=spec,
        x=to_tensor(x, size),
        grad_output=to_tensor(g, size),
        weight=np.abs(rng.normal(size=2)) + 0.1,
        bias=signs(rng, 2) * tiny * 2.0**-4,
        running_mean=signs(rng, 2) * tiny,
        running_sigma=np.abs(rng.normal(size=2)) + 0.1,
        eps=0.0,
        momentum=1.0,
        chunks=int(rng.choice([1, 2, quads])),
        kinds=("sticky quads", "sticky sums"),
    )


def case(seed: int) -> Case:
    """The layer of a seed; every eighth is a `sticky_case`."""
    return sticky_case(seed) if seed % 8 == 0 else ordinary_case(seed)


def to_tensor(columns: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    """(C, m) in (n, h, w) order -> (N, C, *spatial)."""
    count, channels, *spatial = size
    return np.ascontiguousarray(np.moveaxis(columns.reshape(channels, count, *spatial), 0, 1))


def to_columns(tensor: NDArray[Any]) -> NDArray[Any]:
    """(N, C, *spatial) -> (C, m) in (n, h, w) order: the inverse of `to_tensor`."""
    return np.moveaxis(tensor, 1, 0).reshape(tensor.shape[1], -1)
