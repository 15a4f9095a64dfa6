"""Where each chunk's maximum and minimum are: written as `reduce` finds them, met again by `apply` beats later.

Places come and are met in order, so a queue and a comparison with its head are enough. A beat that holds several blocks
can close, and meet, as many chunks: the records are dealt to as many queues in turn, and two chunks in one queue are
too
far apart to share a beat.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from lightnorm_golden.formats import BlockFormat
from lightnorm_golden.spec import MAX_ELEMENTS

from ..arith.rank import Rank, Skid

__all__ = ["Extrema", "found_layout", "marks_layout", "place_layout"]


def place_layout(fmt: BlockFormat, blocks: int) -> data.StructLayout:
    """An element of a channel, in beats of `blocks` blocks."""
    beats = -(-MAX_ELEMENTS // (blocks * fmt.block_size))
    return data.StructLayout({"lane": range(fmt.block_size), "block": range(blocks), "beat": range(beats)})


def found_layout(fmt: BlockFormat, blocks: int) -> data.StructLayout:
    """Of a block: its first element that is the largest, or the smallest, of its chunk so far, if it has one; and
    whether the chunk's channel is an odd one."""
    found = data.StructLayout({"valid": 1, "place": place_layout(fmt, blocks)})
    return data.StructLayout({"max": found, "min": found, "odd": 1})


def marks_layout(fmt: BlockFormat, blocks: int) -> data.ArrayLayout:
    """Of every block of a beat, its lanes that are their chunk's maximum and minimum. A block lies in one chunk."""
    mark = data.StructLayout({"valid": 1, "lane": range(fmt.block_size)})
    return data.ArrayLayout(data.StructLayout({"max": mark, "min": mark}), blocks)


class Queue(wiring.Component):
    """A FIFO of records, one of which is open behind them: of the places of its extrema, the last that is written
    counts.

    Ports
    -----
    i_max, i_min : places, written where `valid`. i_odd : written with the maximum. i_close : the record is complete.
    o, o_valid, i_take : the oldest record.
    o_level : complete records.
    """

    def __init__(self, *, place: data.StructLayout, depth: int) -> None:
        self.depth = depth
        self.record = data.StructLayout({"max": place, "min": place, "odd": 1})
        found = data.StructLayout({"valid": 1, "place": place})
        super().__init__(
            {
                "i_max": In(found),
                "i_min": In(found),
                "i_odd": In(1),
                "i_close": In(1),
                "o": Out(self.record),
                "o_valid": Out(1),
                "i_take": In(1),
                "o_level": Out(range(depth + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        place = self.record["max"].shape
        shapes: dict[str, Any] = {"max": data.StructLayout({"place": place, "odd": 1}), "min": place}
        to_write, to_read = Signal(range(self.depth)), Signal(range(self.depth))
        waiting, fetch = Signal(), Signal()
        m.d.comb += [
            waiting.eq(self.o_level != self.o_valid),  # in the memory
            fetch.eq(waiting & (~self.o_valid | self.i_take)),
        ]
        for kind, found in (("max", self.i_max), ("min", self.i_min)):
            # no place is read in the cycle that writes it; told so, Yosys adds no logic for that
            attributes: dict[str, Any] = {"no_rw_check": 1}
            places: Any = memory.Memory(shape=shapes[kind], depth=self.depth, init=[], attrs=attributes)
            m.submodules[kind] = places
            write, read = places.write_port(), places.read_port(domain="sync")
            m.d.comb += [write.addr.eq(to_write), write.en.eq(found.valid), read.addr.eq(to_read), read.en.eq(fetch)]
            if kind == "max":
                m.d.comb += [write.data.place.eq(found.place), write.data.odd.eq(self.i_odd)]
                m.d.comb += [self.o.max.eq(read.data.place), self.o.odd.eq(read.data.odd)]
            else:
                m.d.comb += [write.data.eq(found.place), self.o.min.eq(read.data)]

        def after(position: Signal) -> Value:
            return Mux(position == self.depth - 1, 0, position + 1)

        with m.If(self.i_close):
            m.d.sync += to_write.eq(after(to_write))
        with m.If(fetch):
            m.d.sync += [to_read.eq(after(to_read)), self.o_valid.eq(1)]
        with m.Elif(self.i_take):
            m.d.sync += self.o_valid.eq(0)
        gone = self.i_take & self.o_valid
        with m.If(self.i_close & ~gone):
            m.d.sync += self.o_level.eq(self.o_level + 1)
        with m.Elif(gone & ~self.i_close):
            m.d.sync += self.o_level.eq(self.o_level - 1)
        return m


class Extrema(wiring.Component):
    """Queues of records, for three channels of `max_chunks`: one that is met, one whose coefficients are being made,
    one that is coming.

    Ports
    -----
    i_found, i_close : per block, what it has that may be its chunk's extrema, and whether it closes the chunk. o_free :
        another record can be closed, after those of as many beats as are `on_the_way`.
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
                "i_found": In(data.ArrayLayout(found_layout(fmt, blocks), blocks)),
                "i_close": In(blocks),
                "o_free": Out(1),
                "i_backward": In(1),
                "i_take": In(1),
                "i_last": In(1),
                "o": Out(marks_layout(fmt, blocks)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        blocks, place = self.blocks, place_layout(self.format, self.blocks)
        queues: list[Any] = []
        for index in range(blocks):
            queue = m.submodules[f"queue_{index}"] = Queue(place=place, depth=self.depth)
            queues.append(queue)
        free = [queue.o_level < self.depth - self.on_the_way for queue in queues]
        m.d["sync" if self.deep else "comb"] += self.o_free.eq(Cat(free).all())

        # deal: a beat's blocks belong to no more chunks than there are queues
        turn = Signal(range(blocks))
        target: Value = turn
        closes: list[list[Value]] = [[] for _ in queues]
        for block in range(blocks):
            found = self.i_found[block]
            for index, queue in enumerate(queues):
                here = target == index
                closes[index].append(here & self.i_close[block])
                with m.If(here & found.max.valid):
                    m.d.comb += [queue.i_max.eq(found.max), queue.i_odd.eq(found.odd)]
                with m.If(here & found.min.valid):
                    m.d.comb += queue.i_min.eq(found.min)
            following = Signal(range(blocks), name=f"target_{block}")
            m.d.comb += following.eq(Mux(self.i_close[block], Mux(target == blocks - 1, 0, target + 1), target))
            target = following
        m.d.sync += turn.eq(target)
        for queue, hits in zip(queues, closes, strict=True):
            m.d.comb += queue.i_close.eq(Cat(hits).any())

        # meet
        beat = Signal(place["beat"].shape)
        odd = Signal()  # the next channel's records may be there already
        with m.If(self.i_take & self.i_backward):
            m.d.sync += [beat.eq(Mux(self.i_last, 0, beat + 1)), odd.eq(odd ^ self.i_last)]
        for index, queue in enumerate(queues):
            gone, passed = Signal(name=f"gone_{index}"), []
            moves = Signal(name=f"moves_{index}")
            arrived = Rank(m, f"arrived_{index}", queue.o_valid, advance=moves, built=self.deep)
            heads = Skid(m, f"head_{index}", arrived.valid, advance=gone, built=self.deep)
            waiting: Any = arrived.keep(queue.o, "record")
            head: Any = heads.keep(waiting, "record")
            both = Signal(name=f"both_{index}")
            m.d.comb += [
                both.eq(heads.keep(waiting.max == waiting.min, "both") if self.deep else head.max == head.min),
                moves.eq(heads.ready | (~arrived.valid if self.deep else 0)),
                queue.i_take.eq(moves),
            ]
            current = heads.valid & self.i_backward & (head.odd == odd)
            for kind in ("max", "min"):
                position = head[kind]
                met, before = Signal(name=f"{kind}_met_{index}"), Signal(name=f"{kind}_before_{index}")
                # one that was not met lies ahead: deep, the sign of a difference tells sooner
                here = ~(beat - position.beat)[-1] if self.deep else position.beat == beat
                m.d.comb += met.eq(current & ~before & here)
                with m.If(self.i_take):
                    m.d.sync += before.eq((before | met) & ~gone)
                passed.append(before | met)
                if blocks == 1:  # a lane without a mark means nothing
                    mark = self.o[0][kind]
                    m.d.comb += [mark.valid.eq(met & ~both), mark.lane.eq(position.lane)]
                for block in range(blocks) if blocks > 1 else ():
                    mark = self.o[block][kind]
                    with m.If(met & ~both & (position.block == block)):
                        m.d.comb += [mark.valid.eq(1), mark.lane.eq(position.lane)]
            m.d.comb += gone.eq(self.i_take & Cat(passed).all())
        return m
