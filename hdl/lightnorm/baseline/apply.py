"""An aligned sum of products and a term for every element of a beat; `pack` rounds it once.

    y = scale * x + shift
    dx = scale * g - slope * x + term (L2), scale * g + term (range; an extremum has a term of its own)

In cycles: 1 first half of the products, 2 second half and the largest exponent, 3 alignment, 4 the sum. Short formats
need no halves, and no first cycle of their own. In forward the multiplier of x is the one that works; that of g rests.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lightnorm_golden.baseline import FloatNormSpec

from ..arith.floating import float_layout, significand_of
from .coefficients import coefficients_layout
from .extrema import mark_layout
from .lanes import (
    MULTIPLIER_ROWS,
    align,
    lanes_layout,
    largest_of,
    partial_products_by_digits,
    to_common,
    whole_product,
)

__all__ = ["Apply", "beat_layout", "integer_bits", "sums_layout", "word_bits"]


def word_bits(spec: FloatNormSpec, backward: bool) -> int:
    """Of a word that may be an activation or a gradient."""
    return max(spec.activation.bits, spec.gradient.bits if backward else 0)


def beat_layout(spec: FloatNormSpec, lanes: int, backward: bool) -> data.StructLayout:
    """What is held of a beat: in L2 activations and gradients, in range statistics what scales, padding marked."""
    fields: dict[str, Any] = {"x": word_bits(spec, backward) * lanes}
    if spec.statistic == "l2":
        fields = {"x": spec.activation.bits * lanes} | ({"grad": spec.gradient.bits * lanes} if backward else {})
    return data.StructLayout(fields | {"last": 1})


def integer_bits(spec: FloatNormSpec, backward: bool) -> int:
    """Of a sum of two products, each below 4, and a term below 2; or of one product."""
    return 4 if spec.statistic == "l2" and backward else 3


def exponent_bits(spec: FloatNormSpec) -> int:
    """Of a product's exponent, biased twice."""
    return max(spec.common.exp_bits, 8) + 1


def sums_layout(spec: FloatNormSpec, lanes: int, backward: bool) -> data.StructLayout:
    """Per lane sum * 2^(exponent - both biases), `apply_fraction` bits of it behind the point."""
    lane = data.StructLayout(
        {
            "sum": signed(spec.apply_fraction + integer_bits(spec, backward) + 1),
            "exponent": exponent_bits(spec),
            "padding": 1,
        }
    )
    return data.StructLayout({"lanes": data.ArrayLayout(lane, lanes), "backward": 1, "last": 1})


class Apply(wiring.Component):
    """One beat per cycle, latency four, three for short formats; all moves when `i_advance` says so.

    `i_marks` (range, backward) tells where extrema are in the beat on offer, `o_backward` whether there can be any. A
    channel's coefficients are taken before its first beat and held through its last.
    """

    def __init__(self, *, spec: FloatNormSpec, lanes: int, backward: bool) -> None:
        self.spec, self.lanes, self.backward = spec, lanes, backward
        self.marked = spec.statistic == "range" and backward
        super().__init__(
            {
                "i": In(stream.Signature(beat_layout(spec, lanes, backward))),
                "i_coefficients": In(stream.Signature(coefficients_layout(spec, backward))),
                "i_advance": In(1),
                "o": Out(sums_layout(spec, lanes, backward)),
                "o_valid": Out(1),
            }
            | ({"i_marks": In(mark_layout(lanes)), "o_backward": Out(1)} if self.marked else {})
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec = self.spec
        layout = coefficients_layout(spec, self.backward)
        held, take = Signal(), Signal()
        coefficients = Signal(layout, reset_less=True)
        m.d.comb += [
            self.i.ready.eq(self.i_advance & held),
            take.eq(self.i.valid & self.i.ready),
            self.i_coefficients.ready.eq(~held | (take & self.i.payload.last)),
        ]
        with m.If(self.i_coefficients.ready):
            m.d.sync += held.eq(self.i_coefficients.valid)
        with m.If(self.i_coefficients.ready & self.i_coefficients.valid):
            m.d.sync += coefficients.eq(self.i_coefficients.payload)
        # three times a factor, of which every lane's multiplier has use
        triples = []
        dropped = spec.coef.man_bits - spec.scale.man_bits
        for index in (0, 2) if spec.statistic == "l2" and self.backward else (0,):
            coming = self.i_coefficients.payload.values[index]
            factor = Cat(coming.fraction[dropped:], coming.exponent.any())
            triple = Signal(spec.scale.significand_bits + 2, name=f"triple_{index}", reset_less=True)
            with m.If(self.i_coefficients.ready & self.i_coefficients.valid):
                m.d.sync += triple.eq(factor + (factor << 1))
            triples.append(triple)
        if self.marked:
            m.d.comb += self.o_backward.eq(coefficients.backward)

        merged = spec.common.significand_bits <= MULTIPLIER_ROWS
        loads: list[Value] = [take]
        occupied: Value = take
        for cycle in range(1, 5):
            if merged and cycle == 1:
                loads.append(take)
                continue
            valid = Signal(name=f"valid_{cycle}")
            with m.If(self.i_advance):
                m.d.sync += valid.eq(occupied)
            occupied = valid
            loads.append(valid & self.i_advance)
        m.d.comb += self.o_valid.eq(occupied)

        def register(value: Value, cycle: int, name: str) -> Value:
            if merged and cycle == 1:
                return value
            kept = Signal(value.shape(), name=f"{name}_{cycle}", reset_less=True)
            with m.If(loads[cycle - 1]):
                m.d.sync += kept.eq(value)
            return kept

        # what the beat's lanes share: terms, mode, last
        terms = [coefficients.values[1]]
        if self.marked:
            terms += [coefficients.values[2], coefficients.values[3]]
        stages: list[Any] = [([term.as_value() for term in terms], [coefficients.backward, self.i.payload.last])]
        for cycle in range(1, 5):
            kept = [register(term, cycle, f"term_{index}") for index, term in enumerate(stages[-1][0])]
            stages.append((kept, [register(flag, cycle, f"flag_{index}") for index, flag in enumerate(stages[-1][1])]))
        m.d.comb += [self.o.backward.eq(stages[4][1][0]), self.o.last.eq(stages[4][1][1])]
        for lane in range(self.lanes):
            self._lane(m, lane, coefficients, triples, stages, register)
        return m

    def _numbers(self, m: Module, lane: int, coefficients: Any) -> list[tuple[Any, Any, Value, Value]]:
        """Of a lane: numbers, their factors, whether the product is negated, whether it counts."""
        spec, payload = self.spec, self.i.payload
        factor = coefficients.values[0]
        if spec.statistic == "l2":
            x = data.View(lanes_layout(spec.activation, self.lanes), payload.x)[lane]
            x = to_common(m, spec.activation, spec, x, name=f"x_{lane}")
            numbers = [(x, factor, coefficients.backward, Const(1, 1))]
            if self.backward:
                grad = data.View(lanes_layout(spec.gradient, self.lanes), payload.grad)[lane]
                grad = to_common(m, spec.gradient, spec, grad, name=f"grad_{lane}")
                numbers.append((grad, coefficients.values[2], Const(0, 1), coefficients.backward))
            return numbers
        bits = word_bits(spec, self.backward)
        word = payload.x[lane * bits : (lane + 1) * bits]
        formats = [spec.activation, *([spec.gradient] if self.backward else [])]
        views = [
            to_common(m, fmt, spec, data.View(float_layout(fmt), word[: fmt.bits]), name=f"z_{lane}_{index}")
            for index, fmt in enumerate(formats)
        ]
        number = views[0]
        if len(set(formats)) > 1:
            number = Signal(float_layout(spec.common), name=f"z_{lane}")
            m.d.comb += number.eq(Mux(coefficients.backward, views[1].as_value(), views[0].as_value()))
        return [(number, factor, Const(0, 1), Const(1, 1))]

    def _lane(
        self, m: Module, lane: int, coefficients: Any, triples: list[Signal], stages: list[Any], register: Any
    ) -> None:
        spec, kept = self.spec, self.spec.apply_fraction
        dropped = spec.coef.man_bits - spec.scale.man_bits
        numbers = self._numbers(m, lane, coefficients)
        padding: Value = numbers[0][0].sign & ~numbers[0][0].exponent.any()
        selects: list[Value] = []
        if self.marked:
            selects = [self.i_marks[kind].valid & (self.i_marks[kind].lane == lane) for kind in ("max", "min")]
        products = []
        for index, (number, factor, negated, counts) in enumerate(numbers):
            name = f"product_{lane}_{index}"
            scale = Cat(factor.fraction[dropped:], factor.exponent.any())
            exponent = Signal(exponent_bits(spec), name=f"{name}_exponent")
            nonzero = number.exponent.any() & factor.exponent.any() & counts
            m.d.comb += exponent.eq((number.exponent + factor.exponent) & nonzero.replicate(exponent_bits(spec)))
            significand = significand_of(number) & counts.replicate(spec.common.significand_bits)
            parts = [
                register(part, 1, f"{name}_part_{at}")
                for at, part in enumerate(
                    partial_products_by_digits(m, significand, scale, triples[index], name=name)
                )
            ]  # fmt: skip
            sign = (number.sign ^ factor.sign ^ negated) & counts
            products.append((parts, register(exponent, 1, f"{name}_exponent"), register(sign, 1, f"{name}_sign"),
                             len(significand) // 2))  # fmt: skip
        padding = register(padding, 1, f"padding_{lane}")
        selects = [register(select, 1, f"select_{lane}_{at}") for at, select in enumerate(selects)]

        # 2
        def term(cycle: int) -> Any:
            """The lane's own."""
            choices = [data.View(float_layout(spec.coef), value) for value in stages[cycle][0]]
            if not selects:
                return choices[0]
            chosen = Signal(float_layout(spec.coef), name=f"term_{lane}_of_{cycle}")
            m.d.comb += chosen.eq(Mux(selects[0], choices[1].as_value(),
                                      Mux(selects[1], choices[2].as_value(), choices[0].as_value())))  # fmt: skip
            return chosen

        offset, width = spec.common.bias, exponent_bits(spec)

        def term_exponent(number: Any, cycle: int) -> Value:
            exponent = Signal(width, name=f"term_exponent_{lane}_{cycle}")
            m.d.comb += exponent.eq(Mux(number.exponent.any(), number.exponent + offset, 0))
            return exponent

        largest = largest_of(
            m, [term_exponent(term(1), 1), *(exponent for _, exponent, _, _ in products)], name=f"largest_{lane}"
        )
        largest = register(largest, 2, f"largest_{lane}")
        fraction = spec.common.man_bits + spec.scale.man_bits
        cut = max(fraction - kept, 0)
        wholes = []
        for index, (parts, exponent, sign, low) in enumerate(products):
            name = f"product_{lane}_{index}"
            whole = whole_product(m, parts, low, name=f"{name}_whole")
            wholes.append((register(whole[cut:], 2, f"{name}_whole"), register(exponent, 2, f"{name}_exponent"),
                           register(sign, 2, f"{name}_sign")))  # fmt: skip
        padding = register(padding, 2, f"padding_{lane}")
        selects = [register(select, 2, f"select_{lane}_{at}") for at, select in enumerate(selects)]

        # 3
        own = term(2)
        rows, signs = [], []
        addends = [(whole, exponent, sign, min(fraction, kept)) for whole, exponent, sign in wholes]
        addends.append((significand_of(own), term_exponent(own, 2), own.sign, spec.coef.man_bits))
        for index, (magnitude, exponent, sign, places) in enumerate(addends):
            shifted = align(m, magnitude, exponent, largest, fraction=places, kept=kept, name=f"row_{lane}_{index}")
            inverted = Signal(signed(len(shifted) + 1), name=f"inverted_{lane}_{index}")
            m.d.comb += inverted.eq(Cat(shifted ^ sign.replicate(len(shifted)), sign).as_signed())
            rows.append(register(inverted, 3, f"row_{lane}_{index}"))
            signs.append(register(sign, 3, f"row_sign_{lane}_{index}"))
        padding, largest = register(padding, 3, f"padding_{lane}"), register(largest, 3, f"largest_{lane}")

        # 4
        out = self.o.lanes[lane]
        m.d.comb += [
            out.sum.eq(register(sum(rows[1:], rows[0]) + sum(signs[1:], signs[0]), 4, f"sum_{lane}")),
            out.exponent.eq(register(largest, 4, f"largest_{lane}")),
            out.padding.eq(register(padding, 4, f"padding_{lane}")),
        ]
