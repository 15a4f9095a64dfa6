"""Rounds every lane's sum to the format of the pass: 1 magnitude, normalized; 2 rounded, the output's register."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lightnorm_golden.baseline import FloatNormSpec

from ..arith.floating import normalized_layout, round_float
from ..arith.shift import normalize
from ..datapath.beat import output_layout
from .apply import exponent_bits, integer_bits, sums_layout, word_bits

__all__ = ["Pack"]


class Pack(wiring.Component):
    """One beat per cycle, latency two. `o_advance`: everything before moves on."""

    def __init__(self, *, spec: FloatNormSpec, lanes: int, passes: tuple[str, ...]) -> None:
        self.spec, self.lanes = spec, lanes
        self.backward = "backward" in passes
        self.formats = [spec.activation] * (passes != ("backward",)) + [spec.gradient] * self.backward
        super().__init__(
            {
                "i": In(sums_layout(spec, lanes, self.backward)),
                "i_valid": In(1),
                "o_advance": Out(1),
                "o": Out(stream.Signature(output_layout(word_bits(spec, self.backward) * lanes))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, bits = self.spec, word_bits(self.spec, self.backward)
        valid, advance = Signal(), Signal()
        backward, last = Signal(reset_less=True), Signal(reset_less=True)
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), self.o_advance.eq(advance)]
        with m.If(advance):
            m.d.sync += [valid.eq(self.i_valid), self.o.valid.eq(valid)]
        with m.If(advance & self.i_valid):
            m.d.sync += [backward.eq(self.i.backward), last.eq(self.i.last)]
        with m.If(advance & valid):
            m.d.sync += self.o.payload.last.eq(last)

        first, second = self.formats[0], self.formats[-1]
        mixed = first != second
        tops = [
            integer_bits(spec, self.backward) - 1 + fmt.bias - spec.common.bias - spec.coef.bias
            for fmt in (first, second)
        ]
        for lane in range(self.lanes):
            entered = self.i.lanes[lane]
            width = len(entered.sum) - 1
            magnitude = Signal(width, name=f"magnitude_{lane}")
            m.d.comb += magnitude.eq((entered.sum ^ entered.sum[-1].replicate(width + 1)) + entered.sum[-1])
            shifted, places = normalize(m, magnitude, name=f"normalize_{lane}")
            exponents = exponent_bits(spec) + 2
            normal = Signal(normalized_layout(width, exponents), name=f"normal_{lane}", reset_less=True)
            padding = Signal(name=f"padding_{lane}", reset_less=True)
            top = Mux(self.i.backward, tops[1], tops[0]) if mixed else tops[0]
            exponent = Signal(signed(exponents), name=f"exponent_{lane}")
            m.d.comb += exponent.eq(entered.exponent + top - places)
            with m.If(advance & self.i_valid):
                m.d.sync += [
                    normal.magnitude.eq(shifted),
                    normal.exponent.eq(exponent),
                    normal.sign.eq(entered.sum[-1]),
                    padding.eq(entered.padding),
                ]
            longest = spec.common if mixed else first
            shortest = min((first, second), key=lambda fmt: fmt.man_bits)
            limits = [(1 << fmt.exp_bits) - 2 for fmt in (first, second)]
            number = round_float(
                m, longest, normal.magnitude, normal.exponent, normal.sign, name=f"rounded_{lane}",
                short=shortest if mixed else None,
                to_short=(backward if shortest == second else ~backward) if mixed else None,
                largest=Mux(backward, limits[1], limits[0]) if mixed else None,
            )  # fmt: skip
            words = [
                Cat(number.fraction[longest.man_bits - fmt.man_bits :], number.exponent[: fmt.exp_bits], number.sign)
                for fmt in (first, second)
            ]
            word = Signal(bits, name=f"word_{lane}")
            m.d.comb += word.eq(Mux(backward, words[1], words[0]) if mixed else words[0])
            with m.If(advance & valid):
                m.d.sync += self.o.payload.data[lane * bits : (lane + 1) * bits].eq(
                    word & (~padding).replicate(bits)
                )
        return m
