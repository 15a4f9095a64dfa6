"""The block an integrator instantiates: the machine with AXI4-Stream data, AXI4-Lite control and an interrupt."""

from __future__ import annotations

from amaranth.hdl import Cat, ClockDomain, ClockSignal, Module, Mux, ResetSignal, Signal, Value
from amaranth.hdl import DomainRenamer as InDomain
from amaranth.lib import wiring
from amaranth.lib.enum import Enum
from amaranth.lib.wiring import In, Out

from lightnorm_golden.spec import MAX_ELEMENTS

from ..config import Config
from ..core import Core
from ..datapath.beat import beat_layout
from ..datapath.coefficients import MODES
from ..datapath.program import PARAMETERS, RESULTS
from ..datapath.unpack import CHANNEL_BITS
from .axi_lite import AxiLiteTarget, axi_lite_members
from .axi_stream import StreamInput, StreamOutput, axi_stream_members, lanes_of_bytes
from .register_file import RegisterFile
from .registers import ERRORS, most_channels, register_map
from .window import Window

__all__ = ["LightNorm"]


class State(Enum):
    """IDLE: a run can be started. RUN: one is in progress. CLOSE: one was given up, its last beat is still on offer.
    ERROR: nothing is in progress, input is dropped, the host has not cleared the error yet or packets are open."""

    IDLE = 0
    RUN = 1
    CLOSE = 2
    ERROR = 3


class LightNorm(wiring.Component):
    """`Core` on buses.

    Ports
    -----
    aclk, aresetn : clock; reset, active low and synchronous to it.
    s_axis_* : x. s_axis_grad_* : g, only in builds with backward, where a beat of g goes with every beat of x.
    m_axis_* : y, or the gradient of x. TKEEP is all ones.
    s_axis_param_*, m_axis_result_* : parameters and results of all channels of a run as words, a packet each; only
        where `max_channels` is 0, else they are in a window behind the registers.
    s_axil_* : `registers.register_map`; addresses are relative to the block.
    irq : high while an enabled event is set.

    TLAST closes a channel (of either pass of two). One that comes too early or too late, or a TKEEP that leaves out a
    byte of an element, ends the run with an error: the machine is reset, an output packet that was begun is closed by a
    beat with TLAST whose data has no meaning, and input is dropped until the host has cleared the error and open
    packets have ended. An offered output beat is never taken back.

    The streams pass through without registers, one beat per cycle: the inputs' TREADY depends on each other's TVALID
    and, in a build without buffer, on m_axis_tready.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.registers = register_map(config)
        self.core = Core(config, observed=True)
        spec, lanes = config.spec, config.lanes
        ports = {
            "aclk": In(1),
            "aresetn": In(1),
            "irq": Out(1),
            **axi_stream_members("s_axis", beat_layout(spec.activation, lanes).size, source=False),
            **axi_stream_members("m_axis", self.core.sums.beat_bits(lanes), source=True),
            **axi_lite_members("s_axil", self.registers.address_bits),
        }
        self.inputs = {"s_axis": ("i_x", spec.activation)}
        if self.core.backward:
            ports |= axi_stream_members("s_axis_grad", beat_layout(spec.gradient, lanes).size, source=False)
            self.inputs["s_axis_grad"] = ("i_grad", spec.gradient)
        self.outputs = ["m_axis"]
        if not self.registers.channels:
            ports |= axi_stream_members("s_axis_param", 32, source=False)
            ports |= axi_stream_members("m_axis_result", 32, source=True)
            self.outputs.append("m_axis_result")
        super().__init__(ports)
        self._describe_interfaces()

    def _describe_interfaces(self) -> None:
        """Vivado's interface attributes, by which its block diagram connects the ports (UG994)."""
        buses: dict[str, None] = {}  # in order
        for name in self.signature.members:
            bus, _, role = name.rpartition("_")
            if bus:
                kind = "aximm" if bus == "s_axil" else "axis"
                getattr(self, name).attrs["X_INTERFACE_INFO"] = f"xilinx.com:interface:{kind}:1.0 {bus} {role.upper()}"
                buses[bus] = None
        for name, info, parameter in (
            ("aclk", "clock:1.0 aclk CLK", f"ASSOCIATED_BUSIF {':'.join(buses)}, ASSOCIATED_RESET aresetn"),
            ("aresetn", "reset:1.0 aresetn RST", "POLARITY ACTIVE_LOW"),
            ("irq", "interrupt:1.0 irq INTERRUPT", "SENSITIVITY LEVEL_HIGH"),
        ):
            attributes = {"X_INTERFACE_INFO": f"xilinx.com:signal:{info}", "X_INTERFACE_PARAMETER": parameter}
            getattr(self, name).attrs.update(attributes)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        clear = Signal()
        m.domains.sync, m.domains.core = ClockDomain("sync"), ClockDomain("core")
        m.d.comb += [
            ClockSignal("sync").eq(self.aclk),
            ClockSignal("core").eq(self.aclk),
            ResetSignal("sync").eq(~self.aresetn),
            ResetSignal("core").eq(~self.aresetn | clear),
        ]
        core, registers = self.core, RegisterFile(self.registers)
        m.submodules.core = InDomain("core")(core)
        m.submodules.registers = registers

        # what the run is doing
        state = Signal(State)
        running, busy = Signal(), Signal()  # running: a register, as much hangs on it, beside `state`
        start, legal = Signal(), Signal()
        errors = Signal()  # that the host has not cleared
        abort = registers.o_ctrl_abort
        m.d.comb += [
            busy.eq(running | (state == State.CLOSE)),
            start.eq(registers.o_ctrl_start),
            legal.eq(self._legal(m, registers)),
            errors.eq(Cat(getattr(registers, f"o_status_{name}") for name in ERRORS).any()),
        ]
        failing = state == State.ERROR
        inputs = self._inputs(m)
        outputs, left = self._outputs(m, start)
        if self.registers.channels:
            window = m.submodules.window = Window(self.config)
            self._window(m, window, running, start)
            self._bus(m, registers, window, busy)
        else:
            left.append(self._word_streams(m, inputs, outputs, start))
            self._bus(m, registers, None, busy)
        for port in inputs:
            m.d.comb += [
                port.i_run.eq(running),
                port.i_drop.eq(failing & errors),
                port.i_forget.eq(failing & abort),
            ]
        for port in outputs:
            m.d.comb += [port.i_run.eq(running), port.i_failed.eq(failing)]
        length, keep = Cat(port.o_length for port in inputs).any(), Cat(port.o_keep for port in inputs).any()
        held = Cat(port.o_held for port in outputs).any()
        open_ = Cat(*(port.o_open for port in inputs), *(port.o_open for port in outputs)).any()

        # the descriptor
        run_valid = Signal()
        with m.If(start & legal):
            m.d.sync += run_valid.eq(1)
        with m.Elif(core.o_run_ready | ~running):
            m.d.sync += run_valid.eq(0)
        m.d.comb += [
            core.i_run_valid.eq(run_valid & running),
            core.i_mode.eq(registers.o_mode_mode),
            core.i_channels.eq(registers.o_channels),
            core.i_elements.eq(registers.o_elements),
            registers.i_mode_two_pass.eq(core.o_two_pass),
        ]
        if core.reduces:
            m.d.comb += core.i_chunk_blocks.eq(registers.o_chunk_blocks)
        for name in core.coefficients.constants:
            dropped = 23 - self.config.spec.coef_man_bits
            m.d.comb += getattr(core, f"i_{name}").eq(getattr(registers, f"o_{name}") << dropped)

        done, failed = Signal(), Signal()
        m.d.comb += [
            done.eq(running & ~Cat(left).any() & ~run_valid & ~core.o_results.valid & ~abort),
            failed.eq(running & (length | keep | abort)),
            clear.eq((state == State.CLOSE) & ~held),
        ]
        with m.Switch(state):
            with m.Case(State.IDLE):
                with m.If(start):
                    m.d.sync += [state.eq(Mux(legal, State.RUN, State.ERROR)), running.eq(legal)]
            with m.Case(State.RUN):
                with m.If(failed):
                    m.d.sync += [state.eq(State.CLOSE), running.eq(0)]
                with m.Elif(done):
                    m.d.sync += [state.eq(State.IDLE), running.eq(0)]
            with m.Case(State.CLOSE):
                with m.If(clear):
                    m.d.sync += state.eq(State.ERROR)
            with m.Case(State.ERROR):
                with m.If(~errors & ~open_):
                    m.d.sync += state.eq(State.IDLE)

        # status, events
        complete = Signal()
        with m.If(start):
            m.d.sync += complete.eq(0)
        with m.Elif(done):
            m.d.sync += complete.eq(1)
        ready = Signal()
        m.d.comb += [
            ready.eq(state == State.IDLE),
            registers.i_locked.eq(busy),
            registers.i_refuse_ctrl_start.eq(~ready),
            registers.i_ctrl_done.eq(complete),
            registers.i_ctrl_idle.eq(~busy),
            registers.i_ctrl_ready.eq(ready),
            registers.i_isr_done.eq(done),
            registers.i_isr_error.eq(failed | (start & ~legal)),
            registers.i_status_length.eq(running & length),
            registers.i_status_keep.eq(running & keep),
            registers.i_status_illegal_run.eq(start & ~legal),
            registers.i_status_aborted.eq(running & abort),
            registers.i_status_nonfinite.eq(running & core.o_nonfinite),
            registers.i_status_saturated.eq(running & core.o_saturated.any()),
            self.irq.eq(
                registers.o_gie
                & ((registers.o_isr_done & registers.o_ier_done) | (registers.o_isr_error & registers.o_ier_error))
            ),
        ]
        for name, increment in (
            ("cycles", 1),
            ("input_stalls", core.o_starving),
            ("output_stalls", self.m_axis_tvalid & ~self.m_axis_tready),
            ("saturated", core.o_saturated),
        ):
            counter = getattr(registers, f"i_{name}")
            count = Signal(32, name=name)
            with m.If(start):
                m.d.sync += count.eq(0)
            with m.Elif(running):
                m.d.sync += count.eq(count + increment)
            m.d.comb += counter.eq(count)
        return m

    def _legal(self, m: Module, registers: RegisterFile) -> Value:
        """Whether the machine can do the run that the registers describe."""
        built = self.config.implementation
        mode, elements, channels = registers.o_mode_mode, registers.o_elements, registers.o_channels
        limits = [
            Cat(mode == MODES[name] for name in built.passes).any(),
            channels != 0,
            (elements != 0) & (elements <= MAX_ELEMENTS),
        ]
        if most_channels(self.config) < (1 << CHANNEL_BITS) - 1:
            limits.append(channels <= most_channels(self.config))
        if self.core.reduces:
            chunk_blocks = registers.o_chunk_blocks
            limits.append((mode == MODES["infer"]) | (chunk_blocks != 0))
            if self.core.backward:
                most = built.max_chunks * self.config.spec.activation.block_size
                limits.append((mode != MODES["backward"]) | (elements <= chunk_blocks * most))
        return Cat(limits).all()

    def _input(self, m: Module, bus: str, port: StreamInput) -> StreamInput:
        """Connects the bus to the port, as far as all input streams are alike."""
        m.submodules[bus] = port
        m.d.comb += [
            port.s_tkeep.eq(getattr(self, f"{bus}_tkeep")),
            port.s_tlast.eq(getattr(self, f"{bus}_tlast")),
            port.s_tvalid.eq(getattr(self, f"{bus}_tvalid")),
            getattr(self, f"{bus}_tready").eq(port.s_tready),
        ]
        return port

    def _inputs(self, m: Module) -> list[StreamInput]:
        """The streams of beats."""
        core, lanes = self.core, self.config.lanes
        inputs = []
        for bus, (name, fmt) in self.inputs.items():
            port = self._input(m, bus, StreamInput(lanes_of_bytes(fmt, lanes), lanes))
            beats = getattr(core, name)
            m.d.comb += [
                port.i_last.eq(core.o_last),
                port.i_lane_valid.eq(core.o_lane_valid),
                beats.payload.eq(getattr(self, f"{bus}_tdata")),
                beats.valid.eq(port.o_valid),
                port.i_ready.eq(beats.ready),
            ]
            inputs.append(port)
        return inputs

    def _outputs(self, m: Module, start: Value) -> tuple[list[StreamOutput], list[Signal]]:
        """The output streams, that of beats connected; and how many of its packets have not left."""
        ports = []
        for bus in self.outputs:
            port = m.submodules[bus] = StreamOutput()
            m.d.comb += [
                getattr(self, f"{bus}_tkeep").eq(-1),
                getattr(self, f"{bus}_tlast").eq(port.m_tlast),
                getattr(self, f"{bus}_tvalid").eq(port.m_tvalid),
                port.m_tready.eq(getattr(self, f"{bus}_tready")),
            ]
            ports.append(port)
        output, core = ports[0], self.core
        left = Signal(range(most_channels(self.config) + 1), reset_less=True)
        m.d.comb += [
            self.m_axis_tdata.eq(core.o.payload.data),
            output.i_last.eq(core.o.payload.last),
            output.i_valid.eq(core.o.valid),
            core.o.ready.eq(output.o_ready),
        ]
        with m.If(start):
            m.d.sync += left.eq(core.i_channels)
        with m.Elif(output.o_moved & output.m_tlast):
            m.d.sync += left.eq(left - 1)
        return ports, [left]

    def _window(self, m: Module, window: Window, running: Signal, start: Value) -> None:
        """Parameters from the window, results into it."""
        core = self.core
        m.d.comb += [
            window.i_run.eq(running),
            window.i_start.eq(start),
            window.i_mode.eq(core.i_mode),
            window.i_channels.eq(core.i_channels),
            core.i_parameters.payload.eq(window.o_parameters.payload),
            core.i_parameters.valid.eq(window.o_parameters.valid & running),
            window.o_parameters.ready.eq(core.i_parameters.ready & running),
            window.i_results.payload.eq(core.o_results.payload),
            window.i_results.valid.eq(core.o_results.valid),
            core.o_results.ready.eq(1),
        ]

    def _word_streams(self, m: Module, inputs: list[StreamInput], outputs: list[StreamOutput], start: Value) -> Signal:
        """Parameters and results as packets of words, one each in a run; how many results have not left.

        No parameter is taken beyond those of the run: what comes too late would be the next run's.
        """
        core, result = self.core, outputs[1]
        parameter = self._input(m, "s_axis_param", StreamInput([0] * 4, 1))
        inputs.append(parameter)
        left = {name: Signal(CHANNEL_BITS + 2, name=name, reset_less=True) for name in ("parameters", "results")}
        count = {name: Signal(CHANNEL_BITS + 2, name=f"{name}_of_run") for name in left}
        with m.Switch(core.i_mode):
            for mode in self.config.implementation.passes:
                with m.Case(MODES[mode]):
                    m.d.comb += [
                        count["parameters"].eq(core.i_channels * len(PARAMETERS[mode])),
                        count["results"].eq(core.i_channels * len(RESULTS[mode])),
                    ]
        taken = core.i_parameters.valid & core.i_parameters.ready
        for name, moved in (("parameters", taken), ("results", result.o_moved)):
            with m.If(start):
                m.d.sync += left[name].eq(count[name])
            with m.Elif(moved):
                m.d.sync += left[name].eq(left[name] - 1)
        m.d.comb += [
            parameter.i_lane_valid.eq(1),
            parameter.i_last.eq(left["parameters"] == 1),
            parameter.i_ready.eq(core.i_parameters.ready & left["parameters"].any()),
            core.i_parameters.payload.eq(self.s_axis_param_tdata),
            core.i_parameters.valid.eq(parameter.o_valid & left["parameters"].any()),
            self.m_axis_result_tdata.eq(core.o_results.payload),
            result.i_last.eq(left["results"] == 1),
            result.i_valid.eq(core.o_results.valid),
            core.o_results.ready.eq(result.o_ready),
        ]
        return left["results"]

    def _bus(self, m: Module, registers: RegisterFile, window: Window | None, busy: Signal) -> None:
        """The registers; where there is a window they are the lower half of the addresses, and it is the upper one."""
        bus = m.submodules.axi_lite = AxiLiteTarget(self.registers.address_bits)
        for name, member in axi_lite_members("s", self.registers.address_bits).items():
            outer, inner = getattr(self, f"s_axil_{name[2:]}"), getattr(bus, name)
            m.d.comb += inner.eq(outer) if member.flow is In else outer.eq(inner)
        m.d.comb += [
            registers.i_write_address.eq(bus.o_write_address),
            registers.i_write_data.eq(bus.o_write_data),
            registers.i_read_address.eq(bus.o_read_address),
        ]
        if window is None:
            m.d.comb += [
                registers.i_write.eq(bus.o_write),
                registers.i_status_refused.eq(bus.o_write & registers.o_refused),
                bus.i_write_error.eq(registers.o_write_error),
                bus.i_read_data.eq(registers.o_read_data),
                bus.i_read_error.eq(registers.o_read_error),
            ]
            return
        half = self.registers.address_bits - 3
        records = 8 * self.registers.channels

        def in_window(address: Value) -> tuple[Value, Value]:
            """Whether the address is in the upper half, and whether there is a word that the bus can have now."""
            there = address[:half] < records if records < 1 << half else 1
            return address[half], there & ~busy

        write_window, write_there = in_window(bus.o_write_address)
        read_window, read_there = in_window(bus.o_read_address)
        m.d.comb += [
            registers.i_write.eq(bus.o_write & ~write_window),
            window.i_write.eq(bus.o_write & write_window & write_there),
            window.i_write_address.eq(bus.o_write_address),
            window.i_write_data.eq(bus.o_write_data),
            window.i_read.eq(bus.o_read & read_window),
            window.i_read_address.eq(bus.o_read_address),
            registers.i_status_refused.eq(bus.o_write & Mux(write_window, busy, registers.o_refused)),
            bus.i_write_error.eq(Mux(write_window, ~write_there, registers.o_write_error)),
            bus.i_read_data.eq(Mux(read_window, window.o_read_data, registers.o_read_data)),
            bus.i_read_error.eq(Mux(read_window, ~read_there, registers.o_read_error)),
        ]
