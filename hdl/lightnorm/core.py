"""The machine: unpack, reduce, buffer, coefficients, apply, pack.

      x ──┬─────────► reduce ──► coefficients ──┐   once per channel
          └─► buffer ─────────────────────────► apply ──► pack ──► o

A run is a number of channels of one layer in one mode. While channel c + 1 streams in, channel c leaves.
"""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .config import Config
from .datapath.apply import Apply, SumFormat
from .datapath.beat import beat_layout, output_layout
from .datapath.buffer import Buffer, split_beat
from .datapath.coefficients import MODES, Coefficients
from .datapath.pack import Pack
from .datapath.reduce import Reduce
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
    o_two_pass : training with more beats per channel than the buffer holds: the source sends each channel twice.
    i_x : beats of packed blocks (`beat.beat_layout`), channel by channel; what lies behind a channel's last element is
        ignored. o : the same, `last` (top bit) closing a channel, padding zero.
    i_parameters, o_results : per channel, the words of `program.PARAMETERS` and `program.RESULTS`.
    o_nonfinite : a parameter word was NaN or infinite and is read as 0.

    One beat per cycle. Output of a channel starts `coefficients.latency` + 8 cycles or so after its last beat in
    training.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        spec, passes = config.spec, config.implementation.passes
        self.passes = passes
        self.sums = SumFormat(spec, (spec.activation,))
        beat_bits = beat_layout(spec.activation, config.lanes).size
        self.coefficients = Coefficients(spec=spec, passes=passes)
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
            "i_x": In(stream.Signature(beat_bits)),
            "i_parameters": In(stream.Signature(32)),
            "o_results": Out(stream.Signature(32)),
            "o": Out(stream.Signature(output_layout(beat_bits))),
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
        beat_bits = beat_layout(fmt, lanes).size
        position = m.submodules.unpack = Position(fmt=fmt, lanes=lanes, chunks=self.reduces)
        coefficients = m.submodules.coefficients = self.coefficients
        apply = m.submodules.apply = Apply(sums=self.sums, lanes=lanes, terms=coefficients.terms)
        pack = m.submodules.pack = Pack(sums=self.sums, lanes=lanes)

        # where the next beat belongs
        infer = self.i_mode == MODES["infer"]
        active, input_done = Signal(), Signal()
        two_pass, to_reduce, to_apply = Signal(), Signal(), Signal()
        m.d.comb += [
            self.o_two_pass.eq(two_pass),
            position.i_elements.eq(self.i_elements),
            position.i_channels.eq(self.i_channels),
            position.i_two_pass.eq(two_pass),
            to_apply.eq(1),
        ]
        if self.reduces:
            m.d.comb += [
                two_pass.eq(~infer & (self.i_elements > config.buffer_beats * lanes)),
                to_reduce.eq(~infer & ~position.o_second_pass),
                to_apply.eq(infer | ~two_pass | position.o_second_pass),
                position.i_chunk_blocks.eq(self.i_chunk_blocks),
            ]

        # a beat is taken when everything that it goes to is free
        waiting = Signal()  # statistics, or a coming channel, that the coefficients have not begun with
        blocked, accept = Signal(), Signal()
        beat = mark_padding(m, fmt, lanes, self.i_x.payload, position.o_lane_valid, name="beat")
        sink_ready, sink_valid = Signal(), Signal()
        m.d.comb += [
            blocked.eq(
                ~active
                | input_done
                | (waiting & Mux(infer, position.o_first & ~position.o_last_channel, to_reduce & position.o_last))
            ),
            self.i_x.ready.eq(~blocked & (sink_ready | ~to_apply)),
            sink_valid.eq(self.i_x.valid & ~blocked & to_apply),
            accept.eq(self.i_x.valid & self.i_x.ready),
            position.i_accept.eq(accept),
        ]
        buffer = m.submodules.buffer = Buffer(sums=self.sums, lanes=lanes, beats=config.buffer_beats)
        head, elements = split_beat(m, self.sums, lanes, [beat.as_value()], Const(0), position.o_last)
        connect(m, buffer.o, apply.i)
        m.d.comb += [
            apply.i_elements.eq(buffer.o_elements),
            buffer.i.payload.head.eq(head),
            buffer.i.payload.elements.eq(elements),
            buffer.i.valid.eq(sink_valid),
            sink_ready.eq(buffer.i.ready),
        ]

        # runs
        start = Signal()
        m.d.comb += [
            start.eq(self.i_run_valid & ~active),
            position.i_restart.eq(start),
            self.o_run_ready.eq(active & input_done & ~waiting & coefficients.o_idle),
        ]
        with m.If(start):
            m.d.sync += [active.eq(1), input_done.eq(0)]
        with m.If(self.o_run_ready):
            m.d.sync += active.eq(0)
        with m.If(accept & position.o_last & (position.o_second_pass | ~two_pass) & position.o_last_channel):
            m.d.sync += input_done.eq(1)

        # statistics
        requested = Signal()  # the coefficients may begin
        with m.If(coefficients.o_release):
            m.d.sync += [waiting.eq(0), requested.eq(0)]
        coming = Signal()
        m.d.comb += coming.eq(infer & (start | (accept & position.o_first & ~position.o_last_channel)))
        with m.If(coming):
            m.d.sync += [waiting.eq(1), requested.eq(1)]
        if self.reduces:
            reduce = m.submodules.reduce = Reduce(fmt=fmt, lanes=lanes)
            m.d.comb += [
                reduce.i.eq(beat),
                reduce.i_valid.eq(accept & to_reduce),
                reduce.i_chunk_end.eq(position.o_chunk_end),
                reduce.i_last.eq(position.o_last),
                coefficients.i_total.eq(reduce.o_total),
                coefficients.i_range_total.eq(reduce.o_range_total),
            ]
            with m.If(accept & to_reduce & position.o_last):
                m.d.sync += waiting.eq(1)
            with m.If(reduce.o_valid):
                m.d.sync += requested.eq(1)

        # coefficients, apply, pack
        m.d.comb += [
            coefficients.i_mode.eq(self.i_mode),
            coefficients.i_request.eq(requested),
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
