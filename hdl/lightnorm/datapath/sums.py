"""Widths of the exact sums between `apply` and `pack`, and their layout."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from amaranth.hdl import signed
from amaranth.lib import data

from lightnorm_golden.formats import BlockFormat
from lightnorm_golden.spec import NormSpec

from .beat import beat_layout

__all__ = ["GUARD_BITS", "SumFormat"]

GUARD_BITS = 2
"""Of a sum of two: where it loses bits below them to the sticky last one, at most two leading bits can cancel."""


@dataclass(frozen=True)
class SumFormat:
    """Widths of the exact sums of a machine that applies to each of `formats`: to the first in training and inference,
    to the last in backward. `extrema`: whether some elements have terms of their own."""

    spec: NormSpec
    formats: tuple[BlockFormat, ...]
    extrema: bool

    @property
    def man_bits(self) -> int:
        """Significands of shorter formats are aligned to this one."""
        return max(fmt.man_bits for fmt in self.formats)

    @property
    def of_gradients(self) -> SumFormat:
        """The same of a machine for backward alone."""
        return replace(self, formats=self.formats[-1:])

    @property
    def product_bits(self) -> int:
        return self.man_bits + 1 + self.spec.scale.significand_bits

    @property
    def own_product_bits(self) -> int:
        """Of a product of an `OwnSum`, whose elements are gradients."""
        return self.spec.gradient.man_bits + 1 + self.spec.scale.significand_bits

    @property
    def exp_bits(self) -> int:
        return max(fmt.exp_bits for fmt in self.formats)

    @property
    def low_bits(self) -> int:
        return self.product_bits + 1

    @property
    def far_distance(self) -> int:
        """Places from the product's last bit to the term's from which on products only matter by their sign."""
        return self.product_bits + max(0, self.man_bits + 3 - self.spec.coef.man_bits)

    @property
    def fraction_bits(self) -> int:
        """Enough that a term of at least half the smallest nonzero product is exact, and a rounding position is 2
        above."""
        return max(
            self.spec.coef.man_bits - self.spec.scale.man_bits + 1, self.man_bits - self.spec.scale.man_bits + 5, 1
        )

    @property
    def term_bits(self) -> int:
        """Magnitude of an aligned term, fraction included."""
        return self.fraction_bits + self.far_distance + self.spec.coef.significand_bits

    @property
    def high_bits(self) -> int:
        return self.term_bits - self.fraction_bits - self.low_bits + 1

    @property
    def own_whole(self) -> int:
        """Bits of each of the two numbers of an `OwnSum`."""
        return max(self.own_product_bits, self.spec.coef.significand_bits)

    @property
    def own_bits(self) -> int:
        """Magnitude of an `OwnSum`."""
        return self.own_whole + GUARD_BITS + 1

    @property
    def own_leading(self) -> int:
        """From the exponent of an `OwnSum`, which is that of its leading number, biased, down to that of its last
        bit."""
        return self.own_whole - 1 + GUARD_BITS + self.spec.coef.bias

    @property
    def exponent_bits(self) -> int:
        """Signed: of every exponent of a last bit, and of their differences."""
        spec = self.spec
        largest_scale = 255 - spec.scale.bias - spec.scale.man_bits
        products = [fmt.max_shared_exp - fmt.bias - self.man_bits + largest_scale for fmt in self.formats]
        products += [-fmt.bias - self.man_bits - spec.scale.bias - spec.scale.man_bits for fmt in self.formats]
        terms = [255 - spec.coef.bias - spec.coef.man_bits, -spec.coef.bias - spec.coef.man_bits]
        extremes = [*products, *terms, min(terms) - self.far_distance, min(products) - self.man_bits - self.own_bits]
        extremes += [term - product for term in terms for product in products]
        extremes += [2 * self.far_distance + max(products) - min(min(terms), self.lowest_products)]
        extremes += [max(products) + self.product_bits + spec.coef.bias]
        return 1 + max(abs(extreme) for extreme in extremes).bit_length()

    @property
    def lowest_products(self) -> int:
        """The lowest exponent of a product's last bit."""
        return min(-fmt.bias for fmt in self.formats) - self.man_bits - self.spec.scale.bias - self.spec.scale.man_bits

    @property
    def segment(self) -> int:
        """Lanes that share a block in every format, and are of one chunk if there are extrema."""
        recorded = (self.spec.activation,) if self.extrema else ()
        return math.gcd(*(fmt.block_size for fmt in (*self.formats, *recorded)))

    def beat_bits(self, lanes: int) -> int:
        """Of a packed beat of any of the formats."""
        return max(beat_layout(fmt, lanes).size for fmt in self.formats)

    def layout(self, lanes: int) -> data.StructLayout:
        """Sums of a beat. Per segment: the value of lane i is (high * 2^low_bits + low_i + fraction) * 2^exponent, or
        minus that where `negated`; `has_high`: the high part is not 0.

        Per activation block, elements of a chunk's extrema: +-sum * 2^(exponent - own_leading)."""
        shared = data.StructLayout(
            {
                "fraction": self.fraction_bits,
                "high": self.high_bits,
                "has_high": 1,
                "exponent": signed(self.exponent_bits),
            }
        )
        lane = data.StructLayout({"low": signed(self.low_bits + 1), "valid": 1})
        fields: dict[str, Any] = {
            "segments": data.ArrayLayout(shared, lanes // self.segment),
            "lanes": data.ArrayLayout(lane, lanes),
            "backward": 1,
            "last": 1,
            "negated": 1,
        }
        if self.extrema:
            own = data.StructLayout(
                {
                    "sum": signed(self.own_bits + 1),
                    "negated": 1,
                    "exponent": signed(self.exponent_bits),
                    "valid": 1,
                    "lane": range(self.spec.activation.block_size),
                }
            )
            blocks = lanes // self.spec.activation.block_size
            fields["extrema"] = data.ArrayLayout(data.StructLayout({"max": own, "min": own}), blocks)
        return data.StructLayout(fields)
