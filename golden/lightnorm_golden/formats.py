"""Number formats: plain descriptions, no arithmetic, shared by the model, the RTL generator and the tools.

Source: the arithmetic specification, section 1 (docs/arithmetic.md).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BlockFormat", "FloatFormat", "WideFormat"]


def _require(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be an integer between {low} and {high}, not {value!r}")


@dataclass(frozen=True)
class BlockFormat:
    """Block floating point `bfp{block_size}_e{exp_bits}m{man_bits}`: one exponent field for `block_size` elements.

    An element is a sign bit and a significand of `man_bits + 1` bits whose leading bit is explicit:
    `value = (-1)^sign * significand * 2^(shared_exp - bias - man_bits)`. Every bit pattern is a number.
    """

    exp_bits: int
    man_bits: int
    block_size: int = 1

    def __post_init__(self) -> None:
        _require("exp_bits", self.exp_bits, 2, 8)
        _require("man_bits", self.man_bits, 1, 10)
        _require("block_size", self.block_size, 1, 64)

    @property
    def bias(self) -> int:
        return (1 << (self.exp_bits - 1)) - 1

    @property
    def max_shared_exp(self) -> int:
        return (1 << self.exp_bits) - 1

    @property
    def significand_bits(self) -> int:
        """Width of a significand, its explicit leading bit included."""
        return self.man_bits + 1

    @property
    def max_significand(self) -> int:
        return (1 << self.significand_bits) - 1

    @property
    def element_bits(self) -> int:
        """Sign and significand."""
        return self.man_bits + 2

    @property
    def block_bits(self) -> int:
        return self.exp_bits + self.block_size * self.element_bits

    @property
    def min_exponent(self) -> int:
        """Exponent of a significand's last bit when `shared_exp` is 0: every value is a multiple of 2^min_exponent."""
        return -self.bias - self.man_bits

    @property
    def bits_per_element(self) -> float:
        """Storage cost, blocks dense (a bus pads a block or beat to whole bytes on top of this)."""
        return self.block_bits / self.block_size

    def __str__(self) -> str:
        prefix = "fp" + str(1 + self.exp_bits + self.man_bits) if self.block_size == 1 else f"bfp{self.block_size}"
        return f"{prefix}_e{self.exp_bits}m{self.man_bits}"


@dataclass(frozen=True)
class WideFormat:
    """Per-channel quantities (`K`, and `A` for a scale): IEEE binary32 with `man_bits` fraction bits.

    No NaN, no infinity, no subnormals, no negative zero; every value is exactly a float32.
    """

    man_bits: int

    exp_bits = 8
    bias = 127
    min_exponent = -126
    """Exponent of the smallest magnitude, 2^-126."""
    max_exponent = 127

    def __post_init__(self) -> None:
        _require("man_bits", self.man_bits, 1, 23)

    @property
    def significand_bits(self) -> int:
        """Hidden bit included."""
        return self.man_bits + 1

    @property
    def max_value(self) -> float:
        return float((2 - 2.0**-self.man_bits) * 2.0**self.max_exponent)

    def __str__(self) -> str:
        return f"wide_e{self.exp_bits}m{self.man_bits}"


@dataclass(frozen=True)
class FloatFormat:
    """Floating point with an exponent for every value, `fp{bits}_e{exp_bits}m{man_bits}`, laid out as in IEEE 754.

    Finite numbers only, as accelerators often have it: exponent 0 is the number 0 (subnormals are read as 0, a result
    that rounds to below the smallest normal number is +0), overflow gives the largest finite number, the exponent of
    all ones is not used. RNE. Used by the conventional machines that LightNorm is compared with.
    """

    exp_bits: int
    man_bits: int

    def __post_init__(self) -> None:
        _require("exp_bits", self.exp_bits, 2, 8)
        _require("man_bits", self.man_bits, 1, 23)

    @property
    def bias(self) -> int:
        return (1 << (self.exp_bits - 1)) - 1

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest magnitude."""
        return 1 - self.bias

    @property
    def max_exponent(self) -> int:
        return self.bias

    @property
    def significand_bits(self) -> int:
        """Hidden bit included."""
        return self.man_bits + 1

    @property
    def bits(self) -> int:
        return 1 + self.exp_bits + self.man_bits

    @property
    def max_value(self) -> float:
        return float((2 - 2.0**-self.man_bits) * 2.0**self.max_exponent)

    def __str__(self) -> str:
        return f"fp{self.bits}_e{self.exp_bits}m{self.man_bits}"
