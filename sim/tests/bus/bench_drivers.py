"""The drivers; the bus models are their DMA."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.task import bridge, resume
from cocotbext.axi import AxiStreamFrame
from drivers import READ, START_DMA, WRITE, Bus, LayerWords
from host import Host

from lightnorm_driver import Device, DeviceError
from lightnorm_golden import backward, forward, infer
from lightnorm_sim.layer import Layer


@cocotb.test()
async def c_driver(dut: Any) -> None:
    """A C program drives a training step; its DMA is the bus models."""
    host = await Host.fresh(dut)
    library = ctypes.CDLL(str(Path("driver.so").resolve()))
    train, backward = host.layer("train", channels=4, elements=60), host.layer("backward", channels=4, elements=60)
    read = resume(host.read_at)
    write = resume(host.write_at)

    async def send(mode: int) -> None:
        host.send(backward if mode == host.constants["MODE_BACKWARD"] else train)

    def floats(words: list[int]) -> Any:
        return (ctypes.c_uint32 * len(words))(*words)

    def values(layer: Layer, names: tuple[str, ...]) -> list[int]:
        """Words of all channels, a channel after the other."""
        columns = [np.asarray(layer.results[name], np.float32).view(np.uint32) for name in names]
        return [int(word) for row in zip(*columns, strict=True) for word in row]

    run = train.run
    words = LayerWords(run.channels, run.elements, run.chunk_blocks, run.inv_count, run.range_gain, run.eps,
                       run.momentum)  # fmt: skip
    bus = Bus(READ(lambda _, offset: read(offset)), WRITE(lambda _, offset, word: write(offset, word)), None)
    dma = START_DMA(resume(send))
    statistics = values(train, ("mean", "sigma", "new_running_mean", "new_running_sigma"))
    gradients = values(backward, ("grad_bias", "grad_weight"))

    def program() -> int:
        given = floats(list(run.parameters)), floats(statistics), floats(gradients)
        return int(library.training_step(bus, dma, ctypes.byref(words), *given))

    found = await bridge(program)()
    assert found == 0, f"training_step.c, line {found}"
    assert not int(dut.irq.value) or await host.read("ISR")
    output = []
    for _ in range(2 * train.channels):
        output.append(bytes(host.output.recv_nowait(compact=False).tdata))
    assert host.output.empty()
    for layer, packets in ((train, output[: train.channels]), (backward, output[train.channels :])):
        assert b"".join(packets) == host.expected(layer)


@cocotb.test()
async def python_driver(dut: Any) -> None:
    """The Python driver on tensors: more channels than the window holds, all three passes, and errors."""
    host = await Host.fresh(dut)
    rng = np.random.default_rng(3)
    x, grad = (rng.standard_normal((2, 8, 5, 3)).astype(np.float32) for _ in range(2))
    given = {name: rng.uniform(0.5, 2, 8).astype(np.float32) for name in ("weight", "bias")}
    running = {name: rng.uniform(0.5, 2, 8).astype(np.float32) for name in ("running_mean", "running_sigma")}
    lose = False

    async def transfer(x: Sequence[bytes], grad: Sequence[bytes], outputs: Sequence[int]) -> list[bytes]:
        for packet in x:
            host.x.send_nowait(AxiStreamFrame(packet[: -host.constants["X_BEAT_BYTES"]] if lose else packet))
        for packet in grad:
            host.grad.send_nowait(AxiStreamFrame(packet))
        if lose:
            return []
        packets = [bytes((await host.output.recv(compact=False)).tdata) for _ in outputs]
        assert [len(packet) for packet in packets] == list(outputs)
        return packets

    def program() -> None:
        nonlocal lose
        description = json.loads(Path("machine/lightnorm_axi.json").read_text())
        read, write, move = resume(host.read_at), resume(host.write_at), resume(transfer)
        device = Device(description, read, write, move, polls=2000)
        spec = device.spec
        got = device.train(x, **given, **running, chunks=3, eps=1e-3, momentum=0.2)
        want = forward(x, given["weight"], given["bias"], spec=spec, chunks=3, eps=1e-3, momentum=0.2, **running)
        np.testing.assert_array_equal(got.output, want.output)
        for name in ("mean", "sigma"):
            np.testing.assert_array_equal(got.channels[name], getattr(want, name))
            np.testing.assert_array_equal(got.channels[f"new_running_{name}"], getattr(want, f"running_{name}"))
        back = device.backward(x, grad, weight=given["weight"], chunks=3, eps=1e-3)
        wanted = backward(x, grad, given["weight"], spec=spec, chunks=3, eps=1e-3)
        np.testing.assert_array_equal(back.output, wanted.grad_input)
        np.testing.assert_array_equal(back.channels["grad_weight"], wanted.grad_weight)
        np.testing.assert_array_equal(back.channels["grad_bias"], wanted.grad_bias)
        inferred = device.infer(x, **given, **running)
        np.testing.assert_array_equal(
            inferred.output, infer(x, given["weight"], given["bias"], *running.values(), spec=spec).output
        )
        assert device.counters()["cycles"] > 0

        with pytest.raises(ValueError, match=r"^weight must be an array of .* of shape \(8,\), not float32 \(3,\)$"):
            device.train(x, weight=np.ones(3, np.float32))
        with pytest.raises(TypeError, match="^infer takes no gain$"):
            device.infer(x, gain=given["weight"])
        lose = True
        with pytest.raises(DeviceError, match=r"^the run ended with length; recover\(\) before the next$"):
            device.infer(x, **given)
        with pytest.raises(DeviceError, match=r"^the block is not ready \(status: length"):
            device.infer(x, **given)
        lose = False
        device.recover()
        with pytest.raises(DeviceError, match="^the run ended with illegal_run"):
            device.backward(x, grad, chunks=4)
        device.recover()
        with pytest.raises(DeviceError, match="^the block has configuration"):
            Device(description | {"hash": "00000000"}, read, write, move)
        with pytest.raises(DeviceError, match="^there is no LightNorm at this address"):
            Device(description, lambda offset: 0, write, move)
        np.testing.assert_array_equal(device.train(x, **given, **running, chunks=3).output,
                                      forward(x, given["weight"], given["bias"], spec=spec, chunks=3).output)

    await bridge(program)()
