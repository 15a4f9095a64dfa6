"""Where each chunk's maximum and minimum are: written by `reduce` as chunks close, met again by `apply` beats later.

Places come and are met in order, so a queue and a comparison with its head are enough. A beat that holds several blocks
can close, and meet, as many chunks: the records are dealt to as many queues in turn, and two chunks in one queue are
too
far apart to share a beat.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from lightnorm_golden.formats import BlockFormat
from lightnorm_golden.spec import MAX_ELEMENTS

from ..arith.rank import Rank, Skid

__all__ = ["Extrema", "marks_layout", "place_layout", "record_layout"]


def place_layout(fmt: BlockFormat, blocks: int) -> data.StructLayout:
    """An element of a channel, in beats of `blocks` blocks."""
    beats = -(-MAX_ELEMENTS // (blocks * fmt.block_size))
    return data.StructLayout({"lane": range(fmt.block_size), "block": range(blocks), "beat": range(beats)})


def record_layout(fmt: BlockFormat, blocks: int) -> data.StructLayout:
    """A closed chunk: the first elements that attain its maximum and its minimum, and whether its channel is an odd
    one."""
    place = place_layout(fmt, blocks)
    return data.StructLayout({"max": place, "min": place, "odd": 1})


def marks_layout(fmt: BlockFormat, blocks: int) -> data.ArrayLayout:
    """Of every block of a beat, its lanes that are their chunk's maximum and minimum. A block lies in one chunk."""
    mark = data.StructLayout({"valid": 1, "lane": range(fmt.block_size)})
    return data.ArrayLayout(data.StructLayout({"max": mark, "min": mark}), blocks)


class Queue(SyncFIFOBuffered):
    """A FIFO that reads no place in the cycle that writes it; told so, Yosys adds no logic for that."""

    def elaborate(self, platform: object) -> Module:
        m: Module = super().elaborate(platform)
        m.submodules.storage.attrs["no_rw_check"] = 1
        return m


class Extrema(wiring.Component):
    """Queues of records, for three channels of `max_chunks`: one that is met, one whose coefficients are being made,
    one that is coming.

    Ports
    -----
    i_record, i_records : per block, whether it closes a chunk, and the record. o_free : they can be taken, after those
        of as many beats as are `on_the_way`.
    i_backward, i_take, i_last : the beat on offer is a gradient's; it leaves for `apply`; it is its channel's last.
    o : marks of the beat on offer. An element that is both maximum and minimum is marked as neither.

    `deep` has registers between the queues' memories and the comparison, and at `o_free`.
    """

    def __init__(self, *, fmt: BlockFormat, blocks: int, max_chunks: int, on_the_way: int, deep: bool) -> None:
        self.format, self.blocks, self.deep = fmt, blocks, deep
        self.on_the_way = on_the_way + deep  # `o_free` is a cycle old
        self.depth = max(-(-3 * max_chunks // blocks), 2) + self.on_the_way
        super().__init__(
            {
                "i_record": In(blocks),
                "i_records": In(data.ArrayLayout(record_layout(fmt, blocks), blocks)),
                "o_free": Out(1),
                "i_backward": In(1),
                "i_take": In(1),
                "i_last": In(1),
                "o": Out(marks_layout(fmt, blocks)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        blocks, layout = self.blocks, record_layout(self.format, self.blocks)
        queues = []
        for index in range(blocks):
            queue = m.submodules[f"queue_{index}"] = Queue(width=layout.size, depth=self.depth)
            queues.append(queue)
        free = [queue.level < self.depth - self.on_the_way if self.on_the_way else queue.w_rdy for queue in queues]
        m.d["sync" if self.deep else "comb"] += self.o_free.eq(Cat(free).all())

        # deal
        turn = Signal(range(blocks))
        target: Value = turn
        written: list[list[tuple[Value, Value]]] = [[] for _ in queues]
        for block in range(blocks):
            for index in range(blocks):
                written[index].append((self.i_record[block] & (target == index), self.i_records[block].as_value()))
            following = Signal(range(blocks), name=f"target_{block}")
            m.d.comb += following.eq(Mux(self.i_record[block], Mux(target == blocks - 1, 0, target + 1), target))
            target = following
        m.d.sync += turn.eq(target)
        for queue, sources in zip(queues, written, strict=True):
            m.d.comb += queue.w_en.eq(Cat(hits for hits, _ in sources).any())
            for hits, record in sources:
                with m.If(hits):
                    m.d.comb += queue.w_data.eq(record)

        # meet
        beat = Signal(place_layout(self.format, blocks)["beat"].shape)
        odd = Signal()  # the next channel's records may be there already
        with m.If(self.i_take & self.i_backward):
            m.d.sync += [beat.eq(Mux(self.i_last, 0, beat + 1)), odd.eq(odd ^ self.i_last)]
        for index, queue in enumerate(queues):
            offered: Any = data.View(layout, queue.r_data)
            gone, passed = Signal(name=f"gone_{index}"), []
            moves = Signal(name=f"moves_{index}")
            arrived = Rank(m, f"arrived_{index}", queue.r_rdy, advance=moves, built=self.deep)
            heads = Skid(m, f"head_{index}", arrived.valid, advance=gone, built=self.deep)
            waiting: Any = arrived.keep(offered, "record")
            head: Any = heads.keep(waiting, "record")
            both = Signal(name=f"both_{index}")
            m.d.comb += [
                both.eq(heads.keep(waiting.max == waiting.min, "both") if self.deep else head.max == head.min),
                moves.eq(heads.ready | (~arrived.valid if self.deep else 0)),
                queue.r_en.eq(moves),
            ]
            current = heads.valid & self.i_backward & (head.odd == odd)
            for kind in ("max", "min"):
                place = head[kind]
                met, before = Signal(name=f"{kind}_met_{index}"), Signal(name=f"{kind}_before_{index}")
                # one that was not met lies ahead: deep, the sign of a difference tells sooner
                here = ~(beat - place.beat)[-1] if self.deep else place.beat == beat
                m.d.comb += met.eq(current & ~before & here)
                with m.If(self.i_take):
                    m.d.sync += before.eq((before | met) & ~gone)
                passed.append(before | met)
                if blocks == 1:  # a lane without a mark means nothing
                    mark = self.o[0][kind]
                    m.d.comb += [mark.valid.eq(met & ~both), mark.lane.eq(place.lane)]
                for block in range(blocks) if blocks > 1 else ():
                    mark = self.o[block][kind]
                    with m.If(met & ~both & (place.block == block)):
                        m.d.comb += [mark.valid.eq(1), mark.lane.eq(place.lane)]
            m.d.comb += gone.eq(self.i_take & Cat(passed).all())
        return m
