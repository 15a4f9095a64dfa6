"""A conventional machine: unpack, reduce, buffer, coefficients, apply, pack; streams and rules of `lightnorm.core`.

      x, g ──┬─────────► reduce ──► coefficients ──┐   once per channel
             │              └─────► extrema ─────┐ │   range statistics: once per chunk, in backward
             └─► buffer ───────────────────────► apply ──► pack ──► o
                 L2: x, in backward g beside it; range: x, in backward g
"""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from lightnorm_golden.baseline import FloatNormSpec
from lightnorm_golden.formats import BlockFormat

from ..datapath.beat import output_layout
from ..datapath.coefficients import MODES
from ..datapath.unpack import CHANNEL_BITS, ELEMENT_BITS, Position
from .apply import Apply, beat_layout, word_bits
from .buffer import Buffer
from .coefficients import Coefficients
from .extrema import Extrema
from .lanes import lanes_layout, mark_padding, to_common
from .pack import Pack
from .reduce import Reduce

__all__ = ["MAX_LANES", "Baseline"]

MAX_LANES = 64


class Baseline(wiring.Component):
    """Streams of floating-point words in and out, float32 words per channel beside them.

    Ports are those of `lightnorm.core.Core` with `lanes` words to a beat, lane 0 lowest, and these differences.
    i_chunk_blocks : beats to a chunk; only in range statistics, as i_range_gain. i_x : in backward L2 takes x twice too
    where a channel takes two passes. i_parameters, o_results : the words of `program.PARAMETERS`, `program.RESULTS`.
    At most `max_chunks` chunks per channel in backward.
    """

    def __init__(
        self,
        spec: FloatNormSpec,
        *,
        lanes: int,
        buffer_beats: int,
        passes: tuple[str, ...] = ("train", "infer", "backward"),
        max_chunks: int = 16,
    ) -> None:
        if not 2 <= lanes <= MAX_LANES:
            raise ValueError(f"lanes must be between 2 and {MAX_LANES}, not {lanes}")
        if not passes or any(name not in MODES for name in passes) or len(set(passes)) != len(passes):
            raise ValueError(f"passes must be one or more of {', '.join(MODES)}, each once, not {passes!r}")
        if buffer_beats < 0:
            raise ValueError(f"buffer_beats must be at least 0, not {buffer_beats}")
        self.spec, self.lanes, self.buffer_beats, self.passes = spec, lanes, buffer_beats, passes
        self.max_chunks, self.backward, self.reduces = max_chunks, "backward" in passes, passes != ("infer",)
        self.ranges = spec.statistic == "range"
        self.coefficients = Coefficients(spec=spec, passes=passes)
        super().__init__(
            {
                "i_run_valid": In(1),
                "o_run_ready": Out(1),
                "i_mode": In(2),
                "i_channels": In(CHANNEL_BITS),
                "i_elements": In(ELEMENT_BITS),
                **({"i_chunk_blocks": In(ELEMENT_BITS)} if self.reduces and self.ranges else {}),
                **{f"i_{name}": In(32) for name in self.coefficients.constants},
                "o_two_pass": Out(1),
                "o_nonfinite": Out(1),
                "i_x": In(stream.Signature(lanes_layout(spec.activation, lanes).size)),
                **(
                    {"i_grad": In(stream.Signature(lanes_layout(spec.gradient, lanes).size))} if self.backward else {}
                ),
                "i_parameters": In(stream.Signature(32)),
                "o_results": Out(stream.Signature(32)),
                "o": Out(stream.Signature(output_layout(word_bits(spec, self.backward) * lanes))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, lanes = self.spec, self.lanes
        chunk = BlockFormat(5, 4, lanes)  # a chunk is whole beats
        position = m.submodules.unpack = Position(fmt=chunk, lanes=lanes, chunks=self.reduces and self.ranges)
        coefficients = m.submodules.coefficients = self.coefficients
        apply = m.submodules.apply = Apply(spec=spec, lanes=lanes, backward=self.backward)
        pack = m.submodules.pack = Pack(spec=spec, lanes=lanes, passes=self.passes)
        layout = beat_layout(spec, lanes, self.backward)
        buffer = m.submodules.buffer = Buffer(width=layout.size, beats=self.buffer_beats)

        # where the next beat belongs
        infer, backward = Signal(), Signal()
        active, input_done = Signal(), Signal()
        two_pass, to_reduce, to_apply = Signal(), Signal(), Signal()
        m.d.comb += [
            infer.eq(self.i_mode == MODES["infer"] if "infer" in self.passes else 0),
            backward.eq(self.i_mode == MODES["backward"] if self.backward else 0),
            self.o_two_pass.eq(two_pass),
            position.i_elements.eq(self.i_elements),
            position.i_channels.eq(self.i_channels),
            position.i_two_pass.eq(two_pass),
            to_apply.eq(1),
        ]
        if self.reduces:
            m.d.comb += [
                two_pass.eq(~infer & (self.i_elements > self.buffer_beats * lanes)),
                to_reduce.eq(~infer & ~position.o_second_pass),
                to_apply.eq(infer | ~two_pass | position.o_second_pass),
            ]
            if self.ranges:
                m.d.comb += position.i_chunk_blocks.eq(self.i_chunk_blocks)

        # a beat is taken when all that belongs to it is there, and everything that it goes to is free
        waiting = Signal()  # a coming channel's coefficients have not been begun with
        needs_x = Signal()
        arrived, open_, accept = Signal(), Signal(), Signal()
        reduce_free, buffer_ready, grad_arrived = Signal(init=1), Signal(), Signal(init=1)
        m.d.comb += [
            needs_x.eq(~backward | to_reduce if self.ranges else 1),
            arrived.eq((self.i_x.valid | ~needs_x) & grad_arrived),
            open_.eq(active & ~input_done & ~(waiting & position.o_first & ~position.o_last_channel) & reduce_free),
            self.i_x.ready.eq(open_ & needs_x & (buffer_ready | ~to_apply) & grad_arrived),
            accept.eq(arrived & open_ & (buffer_ready | ~to_apply)),
            position.i_accept.eq(accept),
            buffer.i.valid.eq(arrived & open_ & to_apply),
            buffer_ready.eq(buffer.i.ready),
        ]
        x = mark_padding(m, spec.activation, lanes, self.i_x.payload, position.o_lane_valid, name="x")
        held = Signal(layout)
        m.d.comb += [buffer.i.payload.eq(held), held.last.eq(position.o_last), held.x.eq(x)]
        grad = x
        if self.backward:
            grad = mark_padding(m, spec.gradient, lanes, self.i_grad.payload, position.o_lane_valid, name="grad")
            m.d.comb += [
                grad_arrived.eq(self.i_grad.valid | ~backward),
                self.i_grad.ready.eq(open_ & backward & (buffer_ready | ~to_apply) & (self.i_x.valid | ~needs_x)),
            ]
            if self.ranges:
                bits = word_bits(spec, True)
                for lane in range(lanes):
                    words = Mux(backward, grad[lane].as_value(), x[lane].as_value())
                    m.d.comb += held.x[lane * bits : (lane + 1) * bits].eq(words)
            else:
                m.d.comb += held.grad.eq(grad)
        m.d.comb += [
            apply.i.payload.eq(buffer.o.payload),
            apply.i.valid.eq(buffer.o.valid),
            buffer.o.ready.eq(apply.i.ready),
        ]

        # runs
        start, busy = Signal(), Signal()  # a channel's statistics are on their way
        m.d.comb += [
            start.eq(self.i_run_valid & ~active),
            position.i_restart.eq(start),
            self.o_run_ready.eq(active & input_done & ~waiting & ~busy & coefficients.o_idle),
        ]
        with m.If(start):
            m.d.sync += [active.eq(1), input_done.eq(0)]
        with m.If(self.o_run_ready):
            m.d.sync += active.eq(0)
        with m.If(accept & position.o_last & (position.o_second_pass | ~two_pass) & position.o_last_channel):
            m.d.sync += input_done.eq(1)

        # what the coefficients begin with: in inference a channel that is coming, else a channel's totals
        with m.If(coefficients.o_begin):
            m.d.sync += waiting.eq(0)
        with m.If(infer & (start | (accept & position.o_first & ~position.o_last_channel))):
            m.d.sync += waiting.eq(1)
        m.d.comb += coefficients.i_request.eq(waiting)
        if self.reduces:
            self._reduce(m, position, x, grad, backward, accept & to_reduce, to_reduce, reduce_free, busy, waiting)

        m.d.comb += [
            coefficients.i_mode.eq(self.i_mode),
            self.o_nonfinite.eq(coefficients.o_nonfinite),
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
        return m

    def _reduce(
        self,
        m: Module,
        position: Position,
        x: Signal,
        grad: Signal,
        backward: Signal,
        valid: Value,
        to_reduce: Signal,
        free: Signal,
        busy: Signal,
        waiting: Signal,
    ) -> None:
        spec, coefficients = self.spec, self.coefficients
        reduce = m.submodules.reduce = Reduce(spec=spec, lanes=self.lanes, backward=self.backward)
        requested = Signal()  # totals whose program has begun are no request any more
        with m.If(coefficients.o_begin):
            m.d.sync += requested.eq(reduce.o_request)
        with m.If(coefficients.o_release):
            m.d.sync += requested.eq(0)
        m.d.comb += [
            reduce.i_valid.eq(valid),
            reduce.i_last.eq(position.o_last),
            reduce.i_chunk_end.eq(position.o_chunk_end if self.ranges else 0),
            reduce.i_release.eq(coefficients.o_release),
            busy.eq(reduce.o_pending),
            free.eq(~to_reduce | ~position.o_last | ~reduce.o_pending),
            coefficients.i_request.eq(waiting | (reduce.o_request & ~requested)),
        ]
        for name in coefficients.totals:
            m.d.comb += getattr(coefficients, f"i_{name}").eq(getattr(reduce, f"o_{name}"))
        for lane in range(self.lanes):
            m.d.comb += reduce.i[lane].eq(to_common(m, spec.activation, spec, x[lane], name=f"x_{lane}"))
            if self.backward:
                m.d.comb += reduce.i_grad[lane].eq(
                    to_common(m, spec.gradient, spec, grad[lane], name=f"grad_{lane}")
                )
        if not self.backward:
            return
        m.d.comb += reduce.i_backward.eq(backward)
        if self.ranges:
            extrema = m.submodules.extrema = Extrema(lanes=self.lanes, max_chunks=self.max_chunks)
            apply = m.submodules.apply
            m.d.comb += [
                free.eq(~to_reduce | ((~position.o_last | ~reduce.o_pending) & (extrema.o_free | ~backward))),
                extrema.i_record.eq(reduce.o_record),
                extrema.i.eq(reduce.o_place),
                extrema.i_backward.eq(apply.o_backward),
                extrema.i_take.eq(apply.i.valid & apply.i.ready),
                extrema.i_last.eq(apply.i.payload.last),
                apply.i_marks.eq(extrema.o),
            ]
