"""Holds a channel's beats while its statistics are taken.

A deep pipeline reads their exponents a cycle ahead of their elements: `apply` places a block's term from its exponent
while the elements are still on their way out of the memory, whose own output register stands in for a pipeline stage of
every lane.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..arith.rank import Rank
from .beat import beat_layout, head_layout, lanes_layout
from .sums import SumFormat

__all__ = ["Buffer", "split_beat"]


def split_beat(
    m: Module, sums: SumFormat, lanes: int, beats: list[Value], backward: Value, last: Value
) -> tuple[Signal, Signal]:
    """A marked beat (one per format of `sums`, of which `backward` picks) as head and elements."""
    head = Signal(head_layout(sums.exp_bits, lanes // sums.segment), name="head")
    elements = Signal(lanes_layout(sums.man_bits + 1, lanes), name="elements")
    views = [data.View(beat_layout(fmt, lanes), beat) for fmt, beat in zip(sums.formats, beats, strict=True)]

    def choose(values: list[Value]) -> Value:
        return values[0] if len(values) == 1 else Mux(backward, values[1], values[0])

    for lane in range(lanes):
        of_lane = [
            view[lane // fmt.block_size].elements[lane % fmt.block_size]
            for fmt, view in zip(sums.formats, views, strict=True)
        ]
        aligned = [
            element.significand << (sums.man_bits - fmt.man_bits)
            for fmt, element in zip(sums.formats, of_lane, strict=True)
        ]
        m.d.comb += [
            elements[lane].significand.eq(choose(aligned)),
            elements[lane].sign.eq(choose([element.sign for element in of_lane])),
        ]
    for segment in range(lanes // sums.segment):
        blocks = [view[segment * sums.segment // fmt.block_size] for fmt, view in zip(sums.formats, views, strict=True)]
        m.d.comb += head.shared_exps[segment].eq(choose([block.shared_exp for block in blocks]))
    m.d.comb += head.last.eq(last)
    return head, elements


MEMORY_LANES = 8
"""In a deep pipeline, so many lanes in one memory: of a wider one, Yosys would rather save a block RAM and choose
between the outputs of two."""


class Buffer(wiring.Component):
    """FIFO of `beats` beats, one per cycle; latency two cycles, `deep` three. With 0 beats it holds none: `i` waits for
    `o`.

    Ports
    -----
    i : head and elements of a beat. i_offered (`deep`): one may be valid, known earlier than whether one is; it is
        written meanwhile, into the slot that it then has.
    o : heads. o_elements : the elements of the head on offer, `deep` of the one that was taken last, from the cycle
        after.

    The memories have synchronous, non-transparent read ports, which every FPGA family maps to block RAM. `deep` takes
    the heads on offer from registers, as a block RAM's output comes late in a cycle.
    """

    def __init__(self, *, sums: SumFormat, lanes: int, beats: int, deep: bool) -> None:
        self.beats, self.deep = beats, deep
        self.head = head_layout(sums.exp_bits, lanes // sums.segment)
        self.lanes = lanes_layout(sums.man_bits + 1, lanes)
        super().__init__(
            {
                "i": In(stream.Signature(data.StructLayout({"head": self.head, "elements": self.lanes}))),
                "o": Out(stream.Signature(self.head)),
                "o_elements": Out(self.lanes),
            }
            | ({"i_offered": In(1)} if deep and beats else {})
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        take = Signal()
        m.d.comb += take.eq(self.o.valid & self.o.ready)
        if not self.beats:
            elements = Signal(self.lanes, reset_less=True)
            m.d.comb += [
                self.o.payload.eq(self.i.payload.head),
                self.o.valid.eq(self.i.valid),
                self.i.ready.eq(self.o.ready),
                self.o_elements.eq(elements),
            ]
            with m.If(take):
                m.d.sync += elements.eq(self.i.payload.elements)
            return m

        slots = max(self.beats, 2)
        # no slot is read in the cycle that writes it; told so, Yosys adds no logic for that
        attributes = {"no_rw_check": 1}
        heads = m.submodules.heads = memory.Memory(shape=self.head, depth=slots, init=[], attrs=attributes)
        write_head, read_head = heads.write_port(), heads.read_port(domain="sync")
        lanes = self.lanes.length
        together = MEMORY_LANES if self.deep else lanes
        elements = []  # write and read ports, and the lanes
        for first in range(0, lanes, together):
            of_memory = range(first, min(first + together, lanes))
            shape = data.ArrayLayout(self.lanes.elem_shape, len(of_memory))
            memory_of: Any = memory.Memory(shape=shape, depth=slots, init=[], attrs=attributes)
            m.submodules[f"elements_{first}" if first else "elements"] = memory_of
            elements.append((memory_of.write_port(), memory_of.read_port(domain="sync"), of_memory))

        def after(place: Signal, name: str) -> Signal:
            following = Signal.like(place, name=name)
            wraps = slots & (slots - 1)
            m.d.comb += following.eq(Mux(place == slots - 1, 0, place + 1) if wraps else place + 1)
            return following

        to_write, to_read = Signal(range(slots)), Signal(range(slots))
        next_write, next_read = after(to_write, "next_write"), after(to_read, "next_read")
        write, fetch, fetched = Signal(), Signal(), Signal()  # `fetched`: a head is out of its memory
        taken = Signal(range(slots), reset_less=True)  # where the elements of the head on offer are
        enable = self.i_offered & self.i.ready if self.deep else write
        m.d.comb += [
            write.eq(self.i.valid & self.i.ready),
            write_head.addr.eq(to_write),
            write_head.data.eq(self.i.payload.head),
            write_head.en.eq(enable),
            read_head.addr.eq(to_read),
            read_head.en.eq(fetch),
        ]
        for write_lanes, read_lanes, of_memory in elements:
            m.d.comb += [
                write_lanes.addr.eq(to_write),
                write_lanes.en.eq(enable),
                read_lanes.addr.eq(taken if self.deep else to_read),
                read_lanes.en.eq(take if self.deep else fetch),
            ]
            for index, lane in enumerate(of_memory):
                m.d.comb += [
                    write_lanes.data[index].eq(self.i.payload.elements[lane]),
                    self.o_elements[lane].eq(read_lanes.data[index]),
                ]
        onward = Signal()  # the head that is out of its memory leaves it
        place = Signal(range(slots), reset_less=True)  # where the elements of that head are
        with m.If(write):
            m.d.sync += to_write.eq(next_write)
        with m.If(fetch):
            m.d.sync += [to_read.eq(next_read), place.eq(to_read), fetched.eq(1)]
        with m.Elif(onward):
            m.d.sync += fetched.eq(0)
        if self.deep:
            waiting, _ = self._level(m, slots, write, fetch, name="waiting")
            _, full = self._level(m, slots, write, take, name="held")
            offered = Rank(m, "offered", fetched, advance=onward)
            m.d.comb += [
                self.i.ready.eq(~full),
                fetch.eq(waiting & (~fetched | onward)),
                onward.eq(~offered.valid | self.o.ready),
                self.o.valid.eq(offered.valid),
                self.o.payload.eq(offered.keep(read_head.data, "head")),
                taken.eq(offered.keep(place, "place")),
            ]
        else:
            # The head on offer is out of its memory, its elements are not: their slot is kept by ending one slot early,
            # so the beat on offer and one in each other slot make `slots` beats.
            m.d.comb += [
                self.i.ready.eq(next_write != to_read),  # full: the slot behind the next would be the one on offer
                fetch.eq((to_write != to_read) & (~fetched | onward)),
                onward.eq(self.o.ready),
                self.o.valid.eq(fetched),
                self.o.payload.eq(read_head.data),
                taken.eq(place),
            ]
        return m

    @staticmethod
    def _level(m: Module, most: int, up: Value, down: Value, *, name: str) -> tuple[Signal, Signal]:
        """A counter that goes up and down; (whether it is above 0, whether it is at its end), both registers."""
        level = Signal(range(most + 1), name=f"{name}_level")
        some, full = Signal(name=f"{name}_some"), Signal(name=f"{name}_full")
        with m.If(up & ~down):
            m.d.sync += [level.eq(level + 1), some.eq(1), full.eq(level == most - 1)]
        with m.Elif(down & ~up):
            m.d.sync += [level.eq(level - 1), some.eq(level != 1), full.eq(0)]
        return some, full
