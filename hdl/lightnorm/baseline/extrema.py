"""Range statistics: where each chunk's maximum and minimum are, from `reduce` until `apply` meets them beats later."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from lightnorm_golden.spec import MAX_ELEMENTS

__all__ = ["Extrema", "mark_layout", "record_layout"]

IN_FLIGHT = 6
"""Records that `reduce` may still send when it is told to stop."""


def place_layout(lanes: int) -> data.StructLayout:
    return data.StructLayout({"lane": range(lanes), "beat": range(-(-MAX_ELEMENTS // lanes))})


def record_layout(lanes: int) -> data.StructLayout:
    """A closed chunk: the first elements that attain its maximum and minimum, whether its channel is an odd one."""
    return data.StructLayout({"max": place_layout(lanes), "min": place_layout(lanes), "odd": 1})


def mark_layout(lanes: int) -> data.StructLayout:
    """Of a beat: its lanes that are their chunk's maximum and minimum."""
    mark = data.StructLayout({"valid": 1, "lane": range(lanes)})
    return data.StructLayout({"max": mark, "min": mark})


class Extrema(wiring.Component):
    """A queue of records, for three channels of `max_chunks`. A beat lies in one chunk.

    Ports
    -----
    i_record, i : a chunk closes. o_free : another beat may be reduced.
    i_backward, i_take, i_last : the beat on offer is a gradient's; it leaves for `apply`; it is its channel's last.
    o : marks of the beat on offer. An element that is both maximum and minimum is marked as neither.
    """

    def __init__(self, *, lanes: int, max_chunks: int) -> None:
        self.lanes, self.depth = lanes, 3 * max_chunks + IN_FLIGHT
        super().__init__(
            {
                "i_record": In(1),
                "i": In(record_layout(lanes)),
                "o_free": Out(1),
                "i_backward": In(1),
                "i_take": In(1),
                "i_last": In(1),
                "o": Out(mark_layout(lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        layout = record_layout(self.lanes)
        queue = m.submodules.queue = SyncFIFOBuffered(width=layout.size, depth=self.depth)
        m.d.comb += [
            self.o_free.eq(queue.level < self.depth - IN_FLIGHT),
            queue.w_en.eq(self.i_record),
            queue.w_data.eq(self.i),
        ]
        head: Any = data.View(layout, queue.r_data)
        beat, odd = Signal(place_layout(self.lanes)["beat"].shape), Signal()
        both, met, passed = Signal(), Signal(2), Signal(2)
        before = Signal(2)
        current = queue.r_rdy & self.i_backward & (head.odd == odd)
        m.d.comb += [both.eq(head.max == head.min), passed.eq(before | met)]
        for index, kind in enumerate(("max", "min")):
            m.d.comb += [
                met[index].eq(current & ~before[index] & (head[kind].beat == beat)),
                self.o[kind].valid.eq(met[index] & ~both),
                self.o[kind].lane.eq(head[kind].lane),
            ]
        m.d.comb += queue.r_en.eq(self.i_take & passed.all())
        with m.If(self.i_take):
            m.d.sync += before.eq(Mux(passed.all(), 0, passed))
        with m.If(self.i_take & self.i_backward):
            m.d.sync += [beat.eq(Mux(self.i_last, 0, beat + 1)), odd.eq(odd ^ self.i_last)]
        return m
