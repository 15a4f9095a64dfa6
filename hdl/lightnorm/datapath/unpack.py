"""Counts a run's channels, elements and chunks as beats arrive, and marks padding."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lightnorm_golden.formats import BlockFormat
from lightnorm_golden.spec import MAX_ELEMENTS

from .beat import beat_layout

__all__ = ["CHANNEL_BITS", "ELEMENT_BITS", "Position", "mark_padding"]

CHANNEL_BITS = 16
ELEMENT_BITS = MAX_ELEMENTS.bit_length()


class Position(wiring.Component):
    """Where in its run the next beat belongs.

    `chunks=True` adds the chunk boundaries that training needs. All outputs describe the beat being offered; they move
    on when `i_accept` says that it was taken. `i_elements`, `i_channels`, `i_chunk_blocks` must hold still during a
    run, `ahead` from the cycle before its first. `ahead=True` has what it says of a beat in registers, made from the
    beat before.

    Ports
    -----
    i_restart : a run begins with the next beat. i_active (`ahead` instead): a run is in progress, from a register.
    i_two_pass : every channel is sent twice.
    i_accept : the beat is transferred in this cycle.
    o_first, o_last : first and last beat of a channel (of either pass).
    o_second_pass : the beat belongs to the second pass of two.
    o_last_channel : no channel follows this one.
    o_lane_valid : elements of the beat that are not padding.
    o_chunk_end : blocks that close a chunk (the last block of a channel always does).
    """

    def __init__(self, *, fmt: BlockFormat, lanes: int, chunks: bool, ahead: bool = False) -> None:
        self.format, self.lanes, self.chunks, self.ahead = fmt, lanes, chunks, ahead
        blocks = lanes // fmt.block_size
        super().__init__(
            {"i_active" if ahead else "i_restart": In(1)}
            | {
                "i_two_pass": In(1),
                "i_accept": In(1),
                "i_elements": In(ELEMENT_BITS),
                "i_channels": In(CHANNEL_BITS),
                "i_chunk_blocks": In(ELEMENT_BITS),
                "o_first": Out(1),
                "o_last": Out(1),
                "o_second_pass": Out(1),
                "o_last_channel": Out(1),
                "o_lane_valid": Out(lanes),
                "o_chunk_end": Out(blocks),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first = Signal(init=1)
        channels = Signal(CHANNEL_BITS, reset_less=True)  # from this one on
        last_channel = Signal(reset_less=True)
        channel_done = Signal()
        m.d.comb += [
            self.o_first.eq(first),
            self.o_last_channel.eq(last_channel if self.ahead else channels == 1),
            channel_done.eq(self.o_last & (self.o_second_pass | ~self.i_two_pass)),
        ]
        with m.If(self.i_accept):
            m.d.sync += first.eq(self.o_last)
            with m.If(self.o_last):
                m.d.sync += self.o_second_pass.eq(self.i_two_pass & ~self.o_second_pass)
            with m.If(channel_done):
                m.d.sync += [channels.eq(channels - 1), last_channel.eq(channels == 2)]
        with m.If(~self.i_active if self.ahead else self.i_restart):
            m.d.sync += [channels.eq(self.i_channels), last_channel.eq(self.i_channels == 1)]
        if self.ahead:
            # if any beat is next, a channel begins with it, in either pass
            begin, moves = Signal(), Signal()
            m.d.comb += [begin.eq(~self.i_active | self.o_last), moves.eq(~self.i_active | self.i_accept)]
            self._count_elements_ahead(m, moves, begin)
        else:
            self._count_elements(m, first)
        if self.chunks:
            if self.ahead:
                self._count_chunks_ahead(m, moves, begin)
            else:
                self._count_chunks(m, first)
        return m

    def _lanes_within(self, elements: Value, offset: int = 0) -> Value:
        """Which lanes of a beat have elements if `elements` are left from `offset` before it on."""
        return Cat(elements > offset + lane if offset + lane else elements.any() for lane in range(self.lanes))

    def _count_elements(self, m: Module, first: Signal) -> None:
        # elements from this beat on, behind the channel's first beat; the bits that no beat changes have no register
        same = (self.lanes & -self.lanes).bit_length() - 1
        left, remaining = Signal(ELEMENT_BITS - same, reset_less=True), Signal(ELEMENT_BITS)
        m.d.comb += [
            remaining.eq(Cat(self.i_elements[:same], Mux(first, self.i_elements[same:], left))),
            self.o_last.eq(remaining <= self.lanes),
            self.o_lane_valid.eq(self._lanes_within(remaining)),
        ]
        with m.If(self.i_accept):
            m.d.sync += left.eq(remaining[same:] - (self.lanes >> same))

    def _count_elements_ahead(self, m: Module, moves: Signal, begin: Signal) -> None:
        left = Signal(ELEMENT_BITS, reset_less=True)  # elements from this beat on
        last, lane_valid = Signal(reset_less=True), Signal(self.lanes, reset_less=True)
        m.d.comb += [self.o_last.eq(last), self.o_lane_valid.eq(lane_valid)]
        last_next, lane_valid_next = left <= 2 * self.lanes, self._lanes_within(left, self.lanes)
        if not self.lanes & (self.lanes - 1):  # of beats, one is left behind this one, or two: sooner than subtracting
            place = self.lanes.bit_length() - 1
            beats, part, one = left[place:], left[:place], Signal(name="one_beat")
            m.d.comb += one.eq(beats == 1)
            last_next = one | ((beats == 2) & ~part.any())
            lane_valid_next = Cat(~one | (part > lane) for lane in range(self.lanes))
        with m.If(moves):
            with m.If(begin):
                m.d.sync += [
                    left.eq(self.i_elements),
                    last.eq(self.i_elements <= self.lanes),
                    lane_valid.eq(self._lanes_within(self.i_elements)),
                ]
            with m.Else():
                m.d.sync += [
                    left.eq(left - self.lanes),
                    last.eq(last_next),
                    lane_valid.eq(lane_valid_next),
                ]

    @property
    def _chunk_bits(self) -> int:
        """Of a number of blocks."""
        return (-(-MAX_ELEMENTS // self.format.block_size)).bit_length()

    def _within_beat(self, m: Module, narrow: Signal, narrow_chunk: Signal) -> Signal:
        """Marks the blocks that close a chunk; returns how many blocks of the beat lie behind the last boundary.

        `narrow` and `narrow_chunk` are the blocks of the current chunk from this beat on and those of a chunk, both at
        most "beyond this beat".
        """
        blocks = self.lanes // self.format.block_size
        used: Value = Signal(narrow.shape(), name="used_none")  # blocks since the last boundary
        m.d.comb += used.eq(blocks)
        for block in range(blocks):
            boundary = Signal(name=f"boundary_{block}")
            following = Signal(narrow.shape(), name=f"narrow_{block + 1}")
            used_here = Signal(narrow.shape(), name=f"used_{block}")
            behind = (block + 1) * self.format.block_size
            last_block = self.o_last if behind == self.lanes else ~self.o_lane_valid[behind]
            m.d.comb += [
                boundary.eq(narrow == 1),
                following.eq(Mux(boundary, narrow_chunk, narrow - 1)),
                used_here.eq(Mux(boundary, blocks - 1 - block, used)),
                self.o_chunk_end[block].eq(boundary | last_block),
            ]
            narrow, used = following, used_here
        return used

    def _count_chunks(self, m: Module, first: Signal) -> None:
        """One wide counter of blocks per beat; within a beat a narrow copy of it that stops at "beyond this beat"."""
        blocks = self.lanes // self.format.block_size
        beyond = blocks + 1
        left = Signal(self._chunk_bits, reset_less=True)  # blocks of the current chunk from this beat on
        current = Signal(self._chunk_bits)
        narrow_chunk, narrow = Signal(range(beyond + 1)), Signal(range(beyond + 1))
        m.d.comb += [
            current.eq(Mux(first, self.i_chunk_blocks, left)),
            narrow_chunk.eq(Mux(self.i_chunk_blocks > blocks, beyond, self.i_chunk_blocks)),
            narrow.eq(Mux(current > blocks, beyond, current)),
        ]
        used = self._within_beat(m, narrow, narrow_chunk)
        any_boundary = Signal()
        m.d.comb += any_boundary.eq(used != blocks)
        with m.If(self.i_accept):
            m.d.sync += left.eq(Mux(any_boundary, self.i_chunk_blocks, current) - used)

    def _count_chunks_ahead(self, m: Module, moves: Signal, begin: Signal) -> None:
        """The same, the narrow copy in a register: of the wide counter only whether it is far enough above."""
        blocks = self.lanes // self.format.block_size
        beyond, far = blocks + 1, 2 * blocks + 1
        left = Signal(self._chunk_bits, reset_less=True)
        narrow, narrow_chunk = Signal(range(beyond + 1), reset_less=True), Signal(range(beyond + 1))
        chunk, rest = Signal(range(far + 1)), Signal(range(far + 1))  # at most `far`
        m.d.comb += [
            chunk.eq(Mux(self.i_chunk_blocks > far, far, self.i_chunk_blocks)),
            narrow_chunk.eq(Mux(chunk > blocks, beyond, chunk)),
        ]
        used = self._within_beat(m, narrow, narrow_chunk)
        any_boundary = Signal()
        m.d.comb += [
            any_boundary.eq(used != blocks),
            rest.eq(Mux(any_boundary, chunk, Mux(left > far, far, left)) - used),
        ]
        with m.If(moves):
            with m.If(begin):
                m.d.sync += [left.eq(self.i_chunk_blocks), narrow.eq(narrow_chunk)]
            with m.Else():
                m.d.sync += [
                    left.eq(Mux(any_boundary, self.i_chunk_blocks, left) - used),
                    narrow.eq(Mux(rest > blocks, beyond, rest)),
                ]


def mark_padding(
    m: Module, fmt: BlockFormat, lanes: int, packed: Value, lane_valid: Value, *, name: str
) -> data.View[data.ArrayLayout]:
    """The beat with every zero positive and every padding element a negative zero, so that padding travels in the
    data."""
    layout = beat_layout(fmt, lanes)
    raw = data.View(layout, packed)
    marked = Signal(layout, name=name)
    for block in range(lanes // fmt.block_size):
        m.d.comb += marked[block].shared_exp.eq(raw[block].shared_exp)
        for index in range(fmt.block_size):
            element, out = raw[block].elements[index], marked[block].elements[index]
            valid = lane_valid[block * fmt.block_size + index]
            kept = Signal(unsigned(fmt.significand_bits), name=f"{name}_kept_{block}_{index}")
            m.d.comb += [
                kept.eq(Mux(valid, element.significand, 0)),
                out.significand.eq(kept),
                out.sign.eq(~valid | (element.sign & kept.any())),
            ]
    return marked
