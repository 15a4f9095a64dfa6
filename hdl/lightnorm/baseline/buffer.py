"""Holds a channel's beats while its statistics are taken."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Buffer"]


class Buffer(wiring.Component):
    """FIFO of at least `beats` words of `width` bits, one per cycle; with 0 beats it holds none: `i` waits for `o`.

    The memory has a synchronous, non-transparent read port, which every FPGA family maps to block RAM.
    """

    def __init__(self, *, width: int, beats: int) -> None:
        self.width, self.beats = width, beats
        super().__init__({"i": In(stream.Signature(width)), "o": Out(stream.Signature(width))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if not self.beats:
            m.d.comb += [
                self.o.payload.eq(self.i.payload),
                self.o.valid.eq(self.i.valid),
                self.i.ready.eq(self.o.ready),
            ]
            return m
        slots = max(self.beats, 2)
        words = m.submodules.words = memory.Memory(shape=self.width, depth=slots, init=[])
        write, read = words.write_port(), words.read_port(domain="sync")
        to_write, to_read, level = Signal(range(slots)), Signal(range(slots)), Signal(range(slots + 1))
        put, fetch = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(level != slots),
            put.eq(self.i.valid & self.i.ready),
            fetch.eq(level.any() & (~self.o.valid | self.o.ready)),
            write.addr.eq(to_write),
            write.data.eq(self.i.payload),
            write.en.eq(put),
            read.addr.eq(to_read),
            read.en.eq(fetch),
            self.o.payload.eq(read.data),
        ]
        m.d.sync += level.eq(level + put - fetch)
        for place, moves in ((to_write, put), (to_read, fetch)):
            with m.If(moves):
                m.d.sync += place.eq(Mux(place == slots - 1, 0, place + 1))
        with m.If(fetch):
            m.d.sync += self.o.valid.eq(1)
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m
