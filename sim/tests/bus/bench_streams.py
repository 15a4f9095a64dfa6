"""Parameters and results on streams."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from bench_runs import step
from cocotb.task import bridge, resume
from cocotbext.axi import AxiStreamFrame
from host import Host, words_packet

from lightnorm_driver import Device
from lightnorm_golden import backward, forward, infer


@cocotb.test()
async def training_step(dut: Any) -> None:
    """One pass and two; more channels than any window of the tests' other machines has."""
    host = await Host.fresh(dut)
    for seed, (channels, elements) in enumerate([(3, 50), (1, 2), (300, 12), (2, 97)]):
        await step(host, seed, channels=channels, elements=elements)
    assert await host.read("CAPS1") & host.constants["CAPS1_MAX_CHANNELS_MASK"] == 0
    assert not await host.read("STATUS") & host.constants["STATUS_ERRORS"]


@cocotb.test()
async def idle_and_backpressure(dut: Any) -> None:
    host = await Host.fresh(dut)
    for seed, kind in enumerate(("random", "bursts")):
        host.rest(kind, seed)
        await step(host, seed, channels=4, elements=40 + 60 * seed)


@cocotb.test()
async def most_channels(dut: Any) -> None:
    """65,535 channels are legal, none or 65,536 are not (the register has 16 bits)."""
    host = await Host.fresh(dut)
    layer = host.layer("train")
    await host.configure(layer, channels=0)
    await host.start()
    await host.failed("ILLEGAL_RUN")
    await host.recover()
    await host.configure(layer, channels=0xFFFF)
    await host.start()
    await host.cycles(20)
    assert not await host.bit("CTRL", "IDLE")
    await host.write("CTRL", host.constants["CTRL_ABORT_MASK"])
    await host.failed("ABORTED")
    await host.recover()
    await host.run(layer)


async def lost(host: Host) -> None:
    """What an aborted or failed run left outside is thrown away, as a DMA that is reset does."""
    await host.reset_sources()
    await host.recover(force=True)
    await host.cycles(100)
    assert all(sink.idle() for sink in host.sinks), "a packet that was begun must be closed"
    for sink in host.sinks:
        while not sink.empty():
            sink.recv_nowait()


@cocotb.test()
async def misplaced_tlast(dut: Any) -> None:
    """A packet of parameters that is too short, too long, or lacks a byte ends the run; the next one is right."""
    host = await Host.fresh(dut)
    for index, mode in enumerate(("train", "infer", "backward")):
        layer = host.layer(mode, seed=index)
        whole = words_packet(layer.run.parameters)
        for what, error, packet, kept in (
            ("short", "LENGTH", whole[:-4], None),
            ("one word", "LENGTH", whole[:4], None),
            ("long", "LENGTH", whole + bytes(4), None),
            ("two runs in one", "LENGTH", whole + whole, None),
            ("a byte left out", "KEEP", whole, [1] * (len(whole) - 1) + [0]),
        ):
            dut._log.warning("%s: %s", mode, what)
            await host.configure(layer)
            await host.start()
            for source, name in ((host.x, "x"), (host.grad, "grad")):
                for beats in host.frames(name, layer) if name == "x" or layer.run.grad_beats else ():
                    source.send_nowait(AxiStreamFrame(beats))
            host.parameters.send_nowait(AxiStreamFrame(packet, kept))
            await host.failed(error)
            await host.cycles(50)
            assert host.parameters.idle(), "the rest of the packet is dropped"
            await lost(host)
            await host.run(host.layer("train", seed=10 + index))


@cocotb.test()
async def words_without_an_end(dut: Any) -> None:
    """Parameters that never come let the run wait; it can be aborted, also in the middle of their packet."""
    host = await Host.fresh(dut)
    layer = host.layer("train")
    for most in (0, 5):
        await host.configure(layer)
        await host.start()
        for packet in host.frames("x", layer):
            host.x.send_nowait(AxiStreamFrame(packet))
        if most:
            host.parameters.send_nowait(AxiStreamFrame(words_packet(layer.run.parameters)))
        taken = 0
        for _ in range(200):
            await host.edge()
            taken += int(dut.s_axis_param_tvalid.value) and int(dut.s_axis_param_tready.value)
            host.parameters.pause = taken >= most
        assert bool(taken) == bool(most)
        assert not await host.bit("CTRL", "IDLE")
        await host.write("CTRL", host.constants["CTRL_ABORT_MASK"])
        await host.failed("ABORTED")
        host.parameters.pause = False
        await lost(host)
        await host.run(host.layer("backward", seed=1))


@cocotb.test()
async def early_parameters(dut: Any) -> None:
    """Parameters wait for their run; those of the next run stay until it begins."""
    host = await Host.fresh(dut)
    first, second = host.layer("train", seed=1), host.layer("infer", seed=2)
    for layer in (first, second):
        host.parameters.send_nowait(AxiStreamFrame(words_packet(layer.run.parameters)))
    for layer in (first, second):
        await host.cycles(30)
        assert not host.parameters.idle()
        await host.configure(layer)
        await host.start()
        for packet in host.frames("x", layer):
            host.x.send_nowait(AxiStreamFrame(packet))
        await host.done()
        await host.check(layer)
    assert host.parameters.idle()


@cocotb.test()
async def results_never_read(dut: Any) -> None:
    """The run stands still and can be aborted; the word on offer holds until it is taken, then its packet is closed."""
    host = await Host.fresh(dut)
    host.results.pause = True
    layer = host.layer("train")
    await host.configure(layer)
    await host.start()
    host.send(layer)
    await host.cycles(300)
    assert int(dut.m_axis_result_tvalid.value) and not await host.bit("CTRL", "DONE")
    offered = int(dut.m_axis_result_tdata.value)
    await host.write("CTRL", host.constants["CTRL_ABORT_MASK"])
    await host.failed("ABORTED")
    await host.cycles(50)
    assert int(dut.m_axis_result_tvalid.value) and int(dut.m_axis_result_tdata.value) == offered
    await host.write("STATUS", host.constants["STATUS_ERRORS"])
    assert not await host.bit("CTRL", "READY")
    host.results.pause = False
    await host.recover()
    packet = host.results.recv_nowait(compact=False)
    assert len(packet.tdata) == 8 and int.from_bytes(packet.tdata[:4], "little") == offered
    await lost(host)
    await host.run(host.layer("backward"))


@cocotb.test()
async def reset_in_a_run(dut: Any) -> None:
    host = await Host.fresh(dut)
    for after in (10, 40, 70):
        layer = host.layer("train", elements=60)
        await host.configure(layer)
        await host.start()
        host.send(layer)
        await host.cycles(after)
        for source in host.sources:
            source.clear()
        await host.reset()
        for sink in host.sinks:
            while not sink.empty():
                sink.recv_nowait()
        assert not int(dut.m_axis_result_tvalid.value)
        assert await host.read("CTRL") == host.constants["CTRL_IDLE_MASK"] | host.constants["CTRL_READY_MASK"]
        await host.run(host.layer("train", seed=after))


@cocotb.test()
async def python_driver(dut: Any) -> None:
    """All three passes on tensors, in a run each."""
    host = await Host.fresh(dut)
    rng = np.random.default_rng(3)
    x, grad = (rng.standard_normal((2, 8, 5, 3)).astype(np.float32) for _ in range(2))
    given = {name: rng.uniform(0.5, 2, 8).astype(np.float32) for name in ("weight", "bias")}
    running = {name: rng.uniform(0.5, 2, 8).astype(np.float32) for name in ("running_mean", "running_sigma")}

    async def transfer(
        x: Sequence[bytes], grad: Sequence[bytes], outputs: Sequence[int], parameters: bytes, results: int
    ) -> list[bytes]:
        host.parameters.send_nowait(AxiStreamFrame(parameters))
        for source, packets in ((host.x, x), (host.grad, grad)):
            for packet in packets:
                source.send_nowait(AxiStreamFrame(packet))
        received = [bytes((await host.output.recv(compact=False)).tdata) for _ in outputs]
        if results:
            received.append(bytes((await host.results.recv(compact=False)).tdata))
            assert len(received[-1]) == results
        return received

    def program() -> None:
        description = json.loads(Path("machine/lightnorm_axi.json").read_text())
        device = Device(description, resume(host.read_at), resume(host.write_at), resume(transfer), polls=2000)
        spec = device.spec
        got = device.train(x, **given, **running, chunks=3)
        want = forward(x, given["weight"], given["bias"], spec=spec, chunks=3, **running)
        np.testing.assert_array_equal(got.output, want.output)
        for name in ("mean", "sigma"):
            np.testing.assert_array_equal(got.channels[name], getattr(want, name))
            np.testing.assert_array_equal(got.channels[f"new_running_{name}"], getattr(want, f"running_{name}"))
        back = device.backward(x, grad, weight=given["weight"], chunks=3)
        wanted = backward(x, grad, given["weight"], spec=spec, chunks=3)
        np.testing.assert_array_equal(back.output, wanted.grad_input)
        np.testing.assert_array_equal(back.channels["grad_weight"], wanted.grad_weight)
        np.testing.assert_array_equal(back.channels["grad_bias"], wanted.grad_bias)
        inferred = device.infer(x, **given, **running)
        expected = infer(x, given["weight"], given["bias"], *running.values(), spec=spec)
        np.testing.assert_array_equal(inferred.output, expected.output)

    await bridge(program)()
