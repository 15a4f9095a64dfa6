"""The machine: unpack, reduce, buffer, coefficients, apply, pack.

      x, g ──┬─────────► reduce ──► coefficients ──┐   once per channel
             │              └─────► extrema ─────┐ │   once per chunk, in backward
             └─► buffer ───────────────────────► apply ──► pack ──► o
                 x, in backward g

A run is a number of channels of one layer in one mode. While channel c + 1 streams in, channel c leaves. A build
without backward has no `extrema`, no stream of gradients and none of their statistics.
"""

from __future__ import annotations

from amaranth.hdl import Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .arith.rank import Rank, Skid
from .config import Config
from .datapath.apply import Apply
from .datapath.beat import beat_layout, output_layout
from .datapath.buffer import Buffer, split_beat
from .datapath.coefficients import MODES, Coefficients
from .datapath.extrema import Extrema
from .datapath.pack import Pack
from .datapath.reduce import Reduce
from .datapath.sums import SumFormat
from .datapath.unpack import CHANNEL_BITS, ELEMENT_BITS, Position, mark_padding

__all__ = ["Core"]


class Core(wiring.Component):
    """Streams of blocks in and out, float32 words per channel beside them.

    Ports
    -----
    i_run_valid, o_run_ready : a run's descriptor, the `i_` values below, held until `o_run_ready`; the next run may
    follow at
        once, while the last channel of this one still leaves.
    i_mode : 0 infer, 1 train, 2 backward (`coefficients.MODES`).
    i_channels, i_elements, i_chunk_blocks : channels (1..65535), elements per channel (1..2^24), blocks per chunk.
    i_inv_count, i_range_gain, i_eps, i_momentum : float32 words of K values.
    o_two_pass : more beats per channel than the buffer holds, not in inference: the source sends each channel twice.
    i_x : beats of packed blocks (`beat.beat_layout`), channel by channel; what lies behind a channel's last element is
        ignored.
    i_grad : the same in the gradient format, for backward: a beat of g beside every beat of x. The second pass of two
        has g alone. At most `max_chunks` chunks per channel.
    o : the same, `last` (top bit) closing a channel, padding zero; in backward gradients, in the lowest bits.
    i_parameters, o_results : per channel, the words of `program.PARAMETERS` and `program.RESULTS`.
    o_nonfinite : a parameter word was NaN or infinite and is read as 0.
    o_last, o_lane_valid, o_starving, o_saturated : only where `observed`. Of the beat on offer, whether it is its
        channel's last (of either pass) and which elements are not padding; the machine waits for beats; how many
        elements of the beat being taken from `o` saturated.

    One beat per cycle. The output of a channel starts `coefficients.latency` + 3 cycles after its last beat was taken
    (in inference 4 cycles after its first), in a deep pipeline `coefficients.latency` + 21 (21).
    """

    def __init__(self, config: Config, *, observed: bool = False) -> None:
        self.config, self.observed = config, observed
        spec, passes = config.spec, config.implementation.passes
        self.passes = passes
        self.backward = "backward" in passes
        applied = [spec.activation] * (passes != ("backward",)) + [spec.gradient] * self.backward
        self.sums = SumFormat(spec, tuple(applied), self.backward)
        self.coefficients = Coefficients(spec=spec, passes=passes, deep=config.deep)
        ports = {
            "i_run_valid": In(1),
            "o_run_ready": Out(1),
            "i_mode": In(2),
            "i_channels": In(CHANNEL_BITS),
            "i_elements": In(ELEMENT_BITS),
            **({"i_chunk_blocks": In(ELEMENT_BITS)} if self.reduces else {}),
            **{f"i_{name}": In(32) for name in self.coefficients.constants},
            "o_two_pass": Out(1),
            "o_nonfinite": Out(1),
            "i_x": In(stream.Signature(beat_layout(spec.activation, config.lanes).size)),
            **(
                {"i_grad": In(stream.Signature(beat_layout(spec.gradient, config.lanes).size))} if self.backward else {}
            ),
            "i_parameters": In(stream.Signature(32)),
            "o_results": Out(stream.Signature(32)),
            "o": Out(stream.Signature(output_layout(self.sums.beat_bits(config.lanes)))),
        }
        if observed:
            ports |= {
                "o_last": Out(1),
                "o_lane_valid": Out(config.lanes),
                "o_starving": Out(1),
                "o_saturated": Out(range(config.lanes + 1)),
            }
        super().__init__(ports)

    @property
    def reduces(self) -> bool:
        """Whether the build takes statistics."""
        return self.passes != ("infer",)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, spec = self.config, self.config.spec
        lanes, fmt = config.lanes, spec.activation
        blocks = lanes // fmt.block_size
        position = m.submodules.unpack = Position(
            fmt=fmt, lanes=lanes, chunks=self.reduces, ahead=config.deep
        )
        coefficients = m.submodules.coefficients = self.coefficients
        apply = m.submodules.apply = Apply(sums=self.sums, lanes=lanes, terms=coefficients.terms, deep=config.deep)
        pack = m.submodules.pack = Pack(sums=self.sums, lanes=lanes, deep=config.deep)

        # where the next beat belongs
        starts_infer, infer, backward = Signal(), Signal(), Signal()
        described = Rank(m, "described", Const(1), built=config.deep)  # the run becomes active in the cycle behind
        active, input_done = Signal(), Signal()
        two_pass, to_reduce, to_apply = Signal(), Signal(), Signal()
        m.d.comb += [
            starts_infer.eq(self.i_mode == MODES["infer"] if "infer" in self.passes else 0),
            infer.eq(described.keep(starts_infer, "infer")),
            backward.eq(described.keep(self.i_mode == MODES["backward"], "backward") if self.backward else 0),
            position.i_elements.eq(self.i_elements),
            position.i_channels.eq(self.i_channels),
            position.i_two_pass.eq(two_pass),
            to_apply.eq(1),
        ]
        if self.reduces:
            long = self.i_elements > config.buffer_beats * lanes
            m.d.comb += [
                self.o_two_pass.eq(~starts_infer & long),
                two_pass.eq(described.keep(self.o_two_pass, "two_pass")),
                to_reduce.eq(~infer & ~position.o_second_pass),
                to_apply.eq(infer | ~two_pass | position.o_second_pass),
                position.i_chunk_blocks.eq(self.i_chunk_blocks),
            ]

        # a beat is taken when all that belongs to it is there
        waiting = Signal()  # a coming channel's coefficients have not been begun with
        needs_x = ~backward | to_reduce
        arrived, open_, enter, enter_ready = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            arrived.eq(self.i_x.valid | ~needs_x),
            open_.eq(active & ~input_done & ~(waiting & position.o_first & ~position.o_last_channel)),
            self.i_x.ready.eq(open_ & enter_ready & needs_x),
            enter.eq(arrived & open_ & enter_ready),
            position.i_accept.eq(enter),
        ]
        beats = [mark_padding(m, fmt, lanes, self.i_x.payload, position.o_lane_valid, name="beat")]
        if self.backward:
            beats.append(
                mark_padding(m, spec.gradient, lanes, self.i_grad.payload, position.o_lane_valid, name="grad")
            )
            m.d.comb += [
                arrived.eq((self.i_x.valid | ~needs_x) & (self.i_grad.valid | ~backward)),
                self.i_x.ready.eq(open_ & enter_ready & needs_x & (self.i_grad.valid | ~backward)),
                self.i_grad.ready.eq(open_ & enter_ready & backward & (self.i_x.valid | ~needs_x)),
            ]

        # it goes on when everything that it goes to is free
        accept, free, reduce_free, buffer_ready = Signal(), Signal(), Signal(init=1), Signal()
        entered = Skid(m, "entered", arrived & open_, advance=free, built=config.deep)
        beats = [entered.keep(beat, f"beat_{index}") for index, beat in enumerate(beats)]
        is_backward, is_last = entered.keep(backward, "backward"), entered.keep(position.o_last, "last")
        to_reduce, to_apply = entered.keep(to_reduce, "to_reduce"), entered.keep(to_apply, "to_apply")
        applied = [beat.as_value() for beat in beats[-len(self.sums.formats) :]]
        head, elements = split_beat(m, self.sums, lanes, applied, is_backward, is_last)
        # without a buffer no beat goes to both, and the way from apply through reduce back to apply must be cut
        buffered = entered.valid & to_apply & (reduce_free if config.buffer_beats else 1)
        if config.buffer_beats or config.deep:
            buffer = m.submodules.buffer = Buffer(
                sums=self.sums, lanes=lanes, beats=config.buffer_beats, deep=config.deep
            )
            connect(m, buffer.o, apply.i)
            m.d.comb += [
                apply.i_elements.eq(buffer.o_elements),
                buffer.i.payload.head.eq(head),
                buffer.i.payload.elements.eq(elements),
                buffer.i.valid.eq(buffered),
                buffer_ready.eq(buffer.i.ready),
            ]
        else:
            m.d.comb += [
                apply.i_elements.eq(elements),
                apply.i.payload.eq(head),
                apply.i.valid.eq(buffered),
                buffer_ready.eq(apply.i.ready),
            ]
        m.d.comb += [
            free.eq(reduce_free & (buffer_ready | ~to_apply)),
            accept.eq(entered.valid & free),
            enter_ready.eq(entered.ready),
        ]
        if config.deep and config.buffer_beats:
            m.d.comb += buffer.i_offered.eq(entered.valid & to_apply)

        # runs
        start, inside = Signal(), Signal()
        busy = Signal()  # a channel's statistics have not been begun with
        m.d.comb += [
            start.eq(self.i_run_valid & ~active),
            position.i_active.eq(active) if config.deep else position.i_restart.eq(start),
            self.o_run_ready.eq(active & input_done & ~waiting & ~inside & ~busy & coefficients.o_idle),
            inside.eq(entered.valid if config.deep else 0),
        ]
        with m.If(start):
            m.d.sync += [active.eq(1), input_done.eq(0)]
        with m.If(self.o_run_ready):
            m.d.sync += active.eq(0)
        with m.If(enter & position.o_last & (position.o_second_pass | ~two_pass) & position.o_last_channel):
            m.d.sync += input_done.eq(1)

        # what the coefficients begin with: in inference a channel that is coming, else a channel whose end is there
        with m.If(coefficients.o_begin):
            m.d.sync += waiting.eq(0)
        with m.If((starts_infer & start) | (infer & enter & position.o_first & ~position.o_last_channel)):
            m.d.sync += waiting.eq(1)
        m.d.comb += coefficients.i_request.eq(waiting)
        if self.reduces:
            reduce = m.submodules.reduce = Reduce(spec=spec, lanes=lanes, backward=self.backward, deep=config.deep)
            m.d.comb += [
                reduce.i.eq(beats[0]),
                reduce.i_valid.eq((accept if config.deep else entered.valid & (buffer_ready | ~to_apply)) & to_reduce),
                reduce.i_chunk_end.eq(entered.keep(position.o_chunk_end, "chunk_end")),
                reduce.i_last.eq(is_last),
                reduce.i_begin.eq(coefficients.o_begin),
                reduce_free.eq(reduce.o_ready | ~to_reduce),
                busy.eq(reduce.o_occupied),
                coefficients.i_request.eq(waiting | reduce.o_request),
            ]
            if config.deep:
                m.d.comb += reduce.i_offered.eq(entered.valid & to_reduce)
            m.d.comb += [
                getattr(coefficients, f"i_{name}").eq(getattr(reduce, f"o_{name}")) for name in coefficients.statistics
            ]
        if self.backward:
            extrema = m.submodules.extrema = Extrema(
                fmt=fmt,
                blocks=blocks,
                max_chunks=config.implementation.max_chunks,
                on_the_way=reduce.records_on_the_way,
                deep=config.deep,
            )
            m.d.comb += [
                reduce.i_grad.eq(beats[1]),
                reduce.i_backward.eq(is_backward),
                reduce.i_records_free.eq(extrema.o_free),
                extrema.i_found.eq(reduce.o_found),
                extrema.i_close.eq(reduce.o_close),
                extrema.i_backward.eq(apply.o_backward),
                extrema.i_take.eq(apply.i.valid & apply.i.ready),
                extrema.i_last.eq(apply.i.payload.last),
                apply.i_marks.eq(extrema.o),
            ]

        # coefficients, apply, pack
        m.d.comb += [
            coefficients.i_mode.eq(self.i_mode),
            self.o_nonfinite.eq(coefficients.o_nonfinite),
            apply.i_ready.eq(pack.o_ready),
            apply.i_advance.eq(pack.o_advance),
            pack.i.eq(apply.o),
            pack.i_valid.eq(apply.o_valid),
        ]
        m.d.comb += [
            getattr(coefficients, f"i_{name}").eq(getattr(self, f"i_{name}")) for name in coefficients.constants
        ]
        connect(m, coefficients.o, apply.i_coefficients)
        connect(m, flipped(self.i_parameters), coefficients.i_parameters)
        connect(m, coefficients.o_results, flipped(self.o_results))
        connect(m, pack.o, flipped(self.o))
        if self.observed:
            m.d.comb += [
                self.o_last.eq(position.o_last),
                self.o_lane_valid.eq(position.o_lane_valid),
                self.o_starving.eq(open_ & enter_ready & ~arrived),
                self.o_saturated.eq(pack.o_saturated),
            ]
        return m
