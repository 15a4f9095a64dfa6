"""Records what the timing diagrams show: values of pins in the middle of every cycle, written to traces.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge
from cocotbext.axi import AxiResp, AxiStreamFrame
from host import Host

BUS = (
    "s_axil_awaddr", "s_axil_awvalid", "s_axil_awready", "s_axil_wdata", "s_axil_wvalid", "s_axil_wready",
    "s_axil_bresp", "s_axil_bvalid", "s_axil_bready", "s_axil_araddr", "s_axil_arvalid", "s_axil_arready",
    "s_axil_rdata", "s_axil_rresp", "s_axil_rvalid", "s_axil_rready",
)  # fmt: skip


def stream(name: str) -> tuple[str, ...]:
    return tuple(f"{name}_{signal}" for signal in ("tdata", "tlast", "tvalid", "tready"))


class Recorder:
    """The pins `names` in every cycle. TDATA counts the beats of its stream: the first one offered is 0."""

    def __init__(self, host: Host, names: tuple[str, ...]) -> None:
        self.host = host
        self.trace: dict[str, list[int]] = {name: [] for name in names}
        self.moved = dict.fromkeys(names, 0)
        self.task = cocotb.start_soon(self._record())

    async def _record(self) -> None:
        dut = self.host.dut
        while True:
            await FallingEdge(dut.aclk)
            for name, values in self.trace.items():
                if name.endswith("_tdata"):
                    values.append(self.moved[name])
                    handshake = [getattr(dut, name.replace("tdata", signal)) for signal in ("tvalid", "tready")]
                    self.moved[name] += all(int(signal.value) for signal in handshake)
                else:
                    values.append(int(getattr(dut, name).value))

    async def stop(self) -> dict[str, list[int]]:
        await self.host.cycles(3)
        self.task.cancel()
        return self.trace


@cocotb.test()
async def record(dut: Any) -> None:
    host = await Host.fresh(dut)
    traces = {}

    recorder = Recorder(host, BUS)
    await host.cycles(1)
    await host.write("SCRATCH", 0x1234)
    assert await host.read("SCRATCH") == 0x1234
    assert (await host.access(0x2C, 0))[1] == AxiResp.SLVERR  # there is no register
    traces["registers"] = await recorder.stop()

    layer = host.layer("train", channels=2, elements=36)
    await host.write("GIE", 1)
    await host.write("IER", 1)
    await host.configure(layer)
    host.send(layer)
    pins = ("s_axil_wvalid", "s_axil_wready", *stream("s_axis"), *stream("m_axis"), "irq")
    recorder = Recorder(host, pins)
    await host.start()
    while not int(dut.irq.value):
        await host.edge()
    traces["training"] = await recorder.stop()
    await host.check(layer)
    await host.write("ISR", 1)

    layer = host.layer("backward", channels=1, elements=60)
    await host.configure(layer)
    await host.start()
    recorder = Recorder(host, (*stream("s_axis"), *stream("s_axis_grad")))
    host.x.set_pause_generator(iter([False, False, True, True, True] + [False] * 500))
    host.grad.set_pause_generator(iter([True, False, False, False, False, False, True] + [False] * 500))
    host.send(layer)
    await host.cycles(14)
    traces["backward"] = await recorder.stop()
    await host.done()
    await host.check(layer)
    await host.write("ISR", 1)

    layer = host.layer("infer", channels=1, elements=120)
    await host.configure(layer)
    await host.start()
    await host.cycles(40)  # the coefficients are ready
    packet = host.frames("x", layer)[0]
    recorder = Recorder(host, (*stream("s_axis"), *stream("m_axis")))
    host.x.send_nowait(AxiStreamFrame(packet[: 8 * host.constants["X_BEAT_BYTES"]]))
    await host.cycles(18)
    traces["early_tlast"] = await recorder.stop()
    await host.failed("LENGTH")

    Path("traces.json").write_text(json.dumps(traces))
