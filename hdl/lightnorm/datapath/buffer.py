"""Holds a channel's raw beats while its statistics are taken: a FIFO in one inferred memory."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from .beat import output_layout

__all__ = ["Buffer"]


class Buffer(wiring.Component):
    """FIFO of `beats` beats (and one in its output register); latency two cycles, one beat per cycle.

    The memory has a synchronous, non-transparent read port, which every FPGA family maps to block RAM.
    """

    def __init__(self, *, beat_bits: int, beats: int) -> None:
        self.beats = beats
        signature = stream.Signature(output_layout(beat_bits))
        super().__init__({"i": In(signature), "o": Out(signature)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        queue = m.submodules.queue = fifo.SyncFIFOBuffered(width=self.i.payload.shape().size, depth=self.beats + 1)
        m.d.comb += [
            queue.w_data.eq(self.i.payload),
            queue.w_en.eq(self.i.valid),
            self.i.ready.eq(queue.w_rdy),
            self.o.payload.eq(queue.r_data),
            self.o.valid.eq(queue.r_rdy),
            queue.r_en.eq(self.o.ready),
        ]
        return m
