"""Counters and interrupts, against the pins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import ReadOnly
from host import Host, pauses


class Watch:
    """Counts on the pins what the machine counts inside."""

    def __init__(self, host: Host) -> None:
        self.host, self.counts = host, dict.fromkeys(("CYCLES", "INPUT_STALLS", "OUTPUT_STALLS"), 0)
        self.task = cocotb.start_soon(self._count())

    async def _count(self) -> None:
        """A run is from the cycle after its start was written to the one before its interrupt."""
        dut, running = self.host.dut, False
        while True:
            await self.host.edge()
            await ReadOnly()
            if running and int(dut.irq.value):
                running = False
            if running:
                self.counts["CYCLES"] += 1
                waits = [
                    int(getattr(dut, f"{name}_tready").value) and not int(getattr(dut, f"{name}_tvalid").value)
                    for name in ("s_axis", "s_axis_grad")
                ]
                self.counts["INPUT_STALLS"] += any(waits)
                self.counts["OUTPUT_STALLS"] += int(dut.m_axis_tvalid.value) and not int(dut.m_axis_tready.value)
            if int(dut.s_axil_awready.value) and int(dut.s_axil_awaddr.value) == 0 and int(dut.s_axil_wdata.value) & 1:
                running, self.counts = True, dict.fromkeys(self.counts, 0)


async def first_output(host: Host, mode: str, *, beat: int) -> int:
    """Cycles from the `beat`-th input beat of a run to its first output beat, when nothing rests."""
    dut = host.dut
    layer = host.layer(mode, channels=1, elements=90)
    await host.configure(layer)
    await host.start()
    host.send(layer)
    taken = cycle = moment = 0  # one pass: 8 beats fit the buffer
    while not int(dut.m_axis_tvalid.value):
        await host.edge()
        await ReadOnly()
        cycle += 1
        taken += int(dut.s_axis_tvalid.value) and int(dut.s_axis_tready.value)
        if taken == beat and not moment:
            moment = cycle
    await host.done()
    await host.check(layer)
    assert taken == layer.beats_per_channel
    return cycle - moment


@cocotb.test()
async def latency(dut: Any) -> None:
    """The cycles that the folder's README tells."""
    host = await Host.fresh(dut)
    page = Path("machine/README.md").read_text()
    rows = dict(re.findall(r"^\| (\w+) \| (?:first|last) \| ([\d to]+) \|$", page, re.M))
    for mode in ("train", "backward"):
        found = await first_output(host, mode, beat=8)
        assert found == int(rows.pop(mode)), f"{mode}: {found} cycles"
    least, most = map(int, rows.pop("infer").split(" to "))
    found = await first_output(host, "infer", beat=1)
    assert least <= found <= most and not rows, f"infer: {found} cycles"


@cocotb.test()
async def counters(dut: Any) -> None:
    """Each counter equals what is seen on the pins."""
    host = await Host.fresh(dut)
    watch = Watch(host)
    await host.write("GIE", 1)
    await host.write("IER", 1)
    for seed, (mode, rests) in enumerate(
        [("train", ()), ("train", (host.x,)), ("infer", (host.output,)), ("train", (host.x, host.output)),
         ("backward", (host.grad, host.output)), ("backward", (host.x,))]
    ):  # fmt: skip
        for end in (host.x, host.grad, host.output):
            end.set_pause_generator(None)
            end.pause = False
        for index, end in enumerate(rests):
            end.set_pause_generator(pauses("bursts", seed + 10 * index))
        layer = host.layer(mode, elements=150, seed=seed)
        await host.configure(layer)
        if mode == "backward":
            # the machine waits for both streams: keep the one that does not rest on offer before the start
            host.send(layer)
            await host.cycles(5)
            await host.start()
        else:
            await host.start()
            host.send(layer)
        await host.done()
        await host.check(layer)
        counted = {name: await host.read(name) for name in watch.counts}
        assert counted == watch.counts, f"{mode} {len(rests)}: the machine has {counted}, the pins {watch.counts}"
        await host.write("ISR", 1)
        assert not int(dut.irq.value)


@cocotb.test()
async def saturation(dut: Any) -> None:
    """Elements beyond the format are counted exactly: with a huge weight, all that are not zero."""
    host = await Host.fresh(dut)
    rng = np.random.default_rng(5)
    x = rng.choice([0.0, 1.0, -1.5, 2.0], (1, 3, 40))
    ones, zeros = np.ones(3), np.zeros(3)
    for weight, expected in ((1.0, 0), (2.0**100, np.count_nonzero(x))):
        layer = host.layer("infer", x=x, weight=weight * ones, bias=zeros, running_mean=zeros, running_sigma=ones)
        await host.run(layer)
        assert await host.read("SATURATED") == expected
        assert await host.bit("STATUS", "SATURATED") == bool(expected)


@cocotb.test()
async def interrupts(dut: Any) -> None:
    host = await Host.fresh(dut)
    layer = host.layer("train")
    events = {"DONE": host.constants["ISR_DONE_MASK"], "ERROR": host.constants["ISR_ERROR_MASK"]}
    for enabled in (0, *events.values()):
        for globally in (0, 1):
            await host.write("IER", enabled)
            await host.write("GIE", globally)
            for event, mask in events.items():
                await host.configure(layer, **({"channels": 0} if event == "ERROR" else {}))
                await host.start()
                if event == "DONE":
                    host.send(layer)
                    await host.done()
                    await host.check(layer)
                assert await host.read("ISR") == mask
                assert bool(dut.irq.value) == bool(enabled & mask and globally)
                await host.write("ISR", 0xFFFFFFFF ^ mask)
                assert await host.read("ISR") == mask, "only ones clear"
                await host.write("ISR", mask)
                assert await host.read("ISR") == 0 and not int(dut.irq.value)
                if event == "ERROR":
                    await host.recover()
