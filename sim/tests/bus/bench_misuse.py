"""What goes wrong around the machine: a documented status, and the next run is right."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import numpy as np
from cocotbext.axi import AxiResp, AxiStreamFrame
from host import Host, beats


async def misplaced(host: Host, mode: str, stream: str, kind: str) -> None:
    """One packet of a run ends too early, too late, or not at all; then the machine must be as new."""
    layer = host.layer(mode, channels=3, elements=30)
    good = {name: host.frames(name, layer) for name in ("x", "grad")}
    size = host.constants[f"{stream.upper()}_BEAT_BYTES"]
    packets = list(good[stream])
    if kind == "early":
        packets[-1] = packets[-1][:-size]
    elif kind == "late":
        packets[1] += bytes(size)
    else:  # missing: two channels in one packet
        packets[1:3] = [packets[1] + packets[2]]
    await host.configure(layer)
    await host.start()
    for name, source in (("x", host.x), ("grad", host.grad)):
        for packet in packets if name == stream else good[name]:
            source.send_nowait(AxiStreamFrame(packet))
    await host.failed("LENGTH")
    await host.recover()
    await host.cycles(300)  # what was sent after the error may be dropped until now
    assert host.output.idle(), "an output packet that was begun must be closed"
    while not host.output.empty():
        host.output.recv_nowait()
    for source in (host.x, host.grad):
        source.clear()


@cocotb.test()
async def misplaced_tlast(dut: Any) -> None:
    host = await Host.fresh(dut)
    for index, (mode, stream) in enumerate([("train", "x"), ("infer", "x"), ("backward", "x"), ("backward", "grad")]):
        for kind in ("early", "late", "missing"):
            dut._log.warning("%s %s %s", mode, stream, kind)
            await misplaced(host, mode, stream, kind)
            await host.reset_sources()
            await host.run(host.layer("train", seed=index))


@cocotb.test()
async def dropped_until_cleared(dut: Any) -> None:
    """After an error everything that comes is dropped, an open packet even after the error was cleared."""
    host = await Host.fresh(dut)
    layer = host.layer("train", channels=2, elements=30)
    size = host.constants["X_BEAT_BYTES"]
    first, second = host.frames("x", layer)
    await host.configure(layer)
    await host.start()
    host.x.send_nowait(AxiStreamFrame(first[:size]))
    await host.failed("LENGTH")
    assert not await host.bit("CTRL", "READY") and await host.bit("CTRL", "IDLE")
    await host.refused("CTRL", host.constants["CTRL_START_MASK"])
    for packet in (first, second):
        host.x.send_nowait(AxiStreamFrame(packet))
    await host.cycles(50)
    assert host.x.idle(), "beats are dropped"
    host.x.send_nowait(AxiStreamFrame(first * 10))
    await host.cycles(5)
    host.x.pause = True  # in the middle of a packet
    await host.write("STATUS", host.constants["STATUS_ERRORS"])
    await host.cycles(50)
    assert not await host.bit("CTRL", "READY"), "a packet is open"
    host.x.pause = False
    await host.recover()
    assert host.x.idle()
    host.x.send_nowait(AxiStreamFrame(first))  # of the next run: waits
    await host.cycles(50)
    assert not host.x.idle(), "no beat is taken without a run"
    await host.start()
    host.x.send_nowait(AxiStreamFrame(second))
    await host.done()
    await host.check(layer)


@cocotb.test()
async def open_packets_can_be_forgotten(dut: Any) -> None:
    host = await Host.fresh(dut)
    layer = host.layer("infer", channels=2, elements=120)
    first, _ = host.frames("x", layer)
    await host.configure(layer)
    await host.start()
    host.x.send_nowait(AxiStreamFrame(first))
    await host.cycles(8)
    host.x.pause = True
    await host.cycles(20)
    await host.write("CTRL", host.constants["CTRL_ABORT_MASK"])
    await host.failed("ABORTED")
    await host.write("STATUS", host.constants["STATUS_ERRORS"])
    await host.cycles(50)
    assert not await host.bit("CTRL", "READY"), "the source's packet is open"
    await host.reset_sources()  # the rest of it never comes
    await host.recover(force=True)
    assert await host.read("STATUS") & host.constants["STATUS_ERRORS"] == 0
    await host.cycles(10)
    packet = host.output.recv_nowait(compact=False)
    whole = layer.beats_per_channel * host.constants["OUTPUT_BEAT_BYTES"]
    assert 0 < len(packet.tdata) < whole, "the output packet was begun, and is closed"
    assert host.output.empty()
    host.x.pause = False
    await host.run(host.layer("train"))


@cocotb.test()
async def keep(dut: Any) -> None:
    """TKEEP may leave out bytes behind a channel's last element, and no other."""
    host = await Host.fresh(dut)
    size = host.constants["X_BEAT_BYTES"]
    layer = host.layer("train", channels=2, elements=12 + 5)  # the last beat holds a block and an element
    block = host.config.spec.activation
    used = -(-(block.block_bits + block.exp_bits + block.element_bits) // 8)
    assert used < size
    packets = host.frames("x", layer)
    await host.configure(layer)
    await host.start()
    for packet in packets:
        kept = [1] * (len(packet) - size + used) + [0] * (size - used)
        host.x.send_nowait(AxiStreamFrame(packet, kept))
    await host.done()
    await host.check(layer)

    bad = {
        "an element's byte": [1] * (len(packets[0]) - size + used - 1) + [0] * (size - used + 1),
        "a hole": [1] * (len(packets[0]) - size) + [1, 0] + [1] * (size - 2),
        "not the last beat": [1] * (size - 1) + [0] + [1] * (len(packets[0]) - size),
        "nothing": [0] * len(packets[0]),
    }
    for what, kept in bad.items():
        dut._log.warning(what)
        await host.configure(layer)
        await host.start()
        host.x.send_nowait(AxiStreamFrame(packets[0], kept))
        await host.failed("KEEP")
        await host.recover()
        await host.run(layer)


@cocotb.test()
async def busy(dut: Any) -> None:
    """A start, run-time words and the window are refused during a run, which goes on undisturbed."""
    host = await Host.fresh(dut)
    for mode in ("train", "backward"):
        layer = host.layer(mode)
        await host.configure(layer)
        await host.start()
        await host.refused("CTRL", host.constants["CTRL_START_MASK"])
        assert await host.read("STATUS") == host.status("REFUSED")
        for name in ("MODE", "CHANNELS", "ELEMENTS", "CHUNK_BLOCKS", "INV_COUNT", "RANGE_GAIN", "EPS", "MOMENTUM"):
            before = await host.read(name)
            await host.refused(name, 0)
            assert await host.read(name) == before
        for word in ("weight", "bias"):
            assert (await host.access(host.record(0, word), 0))[1] == AxiResp.SLVERR
            assert (await host.access(host.record(0, word)))[1] == AxiResp.SLVERR
        await host.write("SCRATCH", 7)
        assert not await host.bit("CTRL", "IDLE") and not await host.bit("CTRL", "DONE")
        host.send(layer)
        await host.done()
        await host.check(layer)
        await host.write("STATUS", 0xFFFFFFFF)
        assert await host.read("STATUS") == 0


@cocotb.test()
async def illegal_runs(dut: Any) -> None:
    """Each is refused with an error, and the machine works afterwards."""
    host = await Host.fresh(dut)
    train, backward = host.layer("train", elements=24), host.layer("backward", elements=24)
    limits = host.constants
    cases: list[tuple[Any, dict[str, int]]] = [
        (train, {"mode": 3}),
        (train, {"channels": 0}),
        (train, {"channels": limits["MAX_CHANNELS"] + 1}),
        (train, {"channels": 0x8001}),
        (train, {"elements": 0}),
        (train, {"elements": (1 << 24) + 1}),
        (train, {"chunk_blocks": 0}),
        (backward, {"chunk_blocks": 0}),
        # a chunk more than there are records: 24 elements are 6 blocks, in chunks of 1
        (backward, {"chunk_blocks": 1}),
        (backward, {"elements": limits["MAX_CHUNKS"] * limits["BLOCK_SIZE"] * 2 + 1, "chunk_blocks": 2}),
    ]
    for layer, changed in cases:
        dut._log.warning(str(changed))
        await host.configure(layer, **changed)
        await host.start()
        await host.failed("ILLEGAL_RUN")
        await host.recover()
    # as many chunks as there are records
    await host.run(host.layer("backward", elements=24, chunks=3))
    await host.run(host.layer("train", elements=24, chunks=6))


@cocotb.test()
async def nonfinite_parameters(dut: Any) -> None:
    host = await Host.fresh(dut)
    for bad in (0x7FC00000, 0x7F800000, 0xFF800000):
        layer = host.layer("train", bias=np.array([0.5, 0, 1]))
        await host.configure(layer)
        await host.access(host.record(1, "bias"), bad)
        await host.start()
        host.send(layer)
        await host.done()
        await host.check(layer)  # the bias of channel 1 counts as 0
        assert await host.read("STATUS") & ~host.status("SATURATED") == host.status("NONFINITE")
        await host.write("STATUS", host.status("NONFINITE"))
        assert not await host.bit("STATUS", "NONFINITE")


@cocotb.test()
async def reset_in_a_run(dut: Any) -> None:
    host = await Host.fresh(dut)
    for mode, after in (("train", 10), ("train", 40), ("infer", 20), ("backward", 60)):
        layer = host.layer(mode, elements=60)
        await host.configure(layer)
        await host.start()
        host.send(layer)
        await host.cycles(after)
        host.x.clear()
        host.grad.clear()
        await host.reset()
        while not host.output.empty():
            host.output.recv_nowait()
        assert not int(dut.m_axis_tvalid.value) and not int(dut.irq.value)
        assert await host.read("STATUS") == 0
        assert await host.read("CTRL") == host.constants["CTRL_IDLE_MASK"] | host.constants["CTRL_READY_MASK"]
        await host.run(host.layer("train", seed=after))
        await host.run(host.layer("backward", seed=after))  # nothing is left of the sums that were under way


@cocotb.test()
async def output_never_read(dut: Any) -> None:
    """The run stands still and can be aborted; the beat on offer holds until it is taken, as AXI demands."""
    host = await Host.fresh(dut)
    host.output.pause = True
    layer = host.layer("train", elements=80)
    await host.configure(layer)
    await host.start()
    host.send(layer)
    await host.cycles(500)
    assert int(dut.m_axis_tvalid.value)
    offered = int(dut.m_axis_tdata.value)
    before = await host.read("OUTPUT_STALLS")
    assert before > 300 and await host.read("OUTPUT_STALLS") > before
    assert not await host.bit("CTRL", "IDLE")
    await host.write("CTRL", host.constants["CTRL_ABORT_MASK"])
    await host.failed("ABORTED")
    for _ in range(50):
        await host.edge()
        assert int(dut.m_axis_tvalid.value) and int(dut.m_axis_tdata.value) == offered
    await host.write("STATUS", host.constants["STATUS_ERRORS"])
    assert not await host.bit("CTRL", "READY")
    host.output.pause = False
    await host.recover()
    packet = host.output.recv_nowait(compact=False)
    size = host.constants["OUTPUT_BEAT_BYTES"]
    assert int.from_bytes(beats(packet.tdata, size)[0], "little") == offered
    assert len(packet.tdata) == 2 * size, "the beat on offer, and one that closes the packet"
    assert host.output.empty()
    await host.reset_sources()
    await host.run(host.layer("backward"))


@cocotb.test()
async def aborts_at_any_time(dut: Any) -> None:
    """A run is given up in any cycle, with any part of the surroundings standing still; the next one is right."""
    host = await Host.fresh(dut)
    rng = random.Random(7)
    for attempt in range(40):
        host.rest("bursts", attempt)
        layer = host.layer(rng.choice(["train", "infer", "backward"]), elements=rng.choice([12, 60, 130]), seed=attempt)
        await host.configure(layer)
        await host.start()
        host.send(layer)
        await host.cycles(rng.randrange(150))
        stopped = [end for end in (host.x, host.grad, host.output) if rng.random() < 0.3]
        for end in stopped:
            end.set_pause_generator(None)
            end.pause = True
        await host.cycles(rng.randrange(40))
        await host.write("CTRL", host.constants["CTRL_ABORT_MASK"])
        if rng.random() < 0.5:
            await host.write("STATUS", host.constants["STATUS_ERRORS"])  # while the output may still stand still
        await host.reset_sources()
        host.output.pause = False
        host.output.set_pause_generator(None)
        for source in host.sources:
            source.pause = False
        await host.recover(force=True)
        await host.cycles(30)
        whole = layer.beats_per_channel * host.constants["OUTPUT_BEAT_BYTES"]
        assert host.output.idle(), "a packet has no end"
        while not host.output.empty():
            assert len(host.output.recv_nowait(compact=False).tdata) <= whole + host.constants["OUTPUT_BEAT_BYTES"]
        await host.run(host.layer(rng.choice(["train", "backward"]), elements=40, seed=attempt))
