"""The cycles and bits that `lightnorm plan` counts against the emitted Verilog."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lightnorm.config import PIPELINES, Config
from lightnorm_flow.machine import Machine, Timing, lightnorm
from lightnorm_flow.models import model_layers
from lightnorm_flow.simulate import bits_moved
from lightnorm_golden import BlockFormat
from lightnorm_sim import RunResult, StallPattern
from lightnorm_sim.layer import Layer

from .cases import Shape, description, machine, make_layer, simulate

ALL = ("train", "infer", "backward")
BATCH = 2
MOST_CHANNELS = 12  # of a layer; the others would pass in the same way
CONFIG = machine(5, 4, 16, buffer=256, passes=ALL, gradient=BlockFormat(6, 3, 16), max_chunks=16)
SAMPLES = {
    "features.0.1": "two passes",
    "features.3.conv.1.1": "two passes, a buffer longer than half a channel",
    "features.4.conv.3": "one pass, several channels in the buffer",
    "features.7.conv.3": "less than 32 beats, the last one not full",
    "features.18.1": "less than 32 beats, in the shadow of the coefficients",
}


def check(config: Config, shapes: list[Shape]) -> list[tuple[Layer, RunResult]]:
    """Cycles and bits of every run, each simulated by itself, must be what the model says."""
    rng = np.random.default_rng(8)
    model, found = Machine.of(lightnorm(config), Timing.of(description(config))), []
    for shape in shapes:
        layer = make_layer(config, shape, rng)
        (result,) = simulate(config, [layer], "verilator")
        cycles = model.cycles(shape.mode, shape.channels, shape.elements)
        assert cycles == result.cycles, f"{shape}: {cycles} cycles planned, {result.cycles} simulated"
        found.append((layer, result))
    return found


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_latencies_of_the_description(pipeline: str) -> None:
    """Seen on runs of a single channel, where nothing waits for another one."""
    rng = np.random.default_rng(7)
    config = replace(CONFIG, implementation=replace(CONFIG.implementation, pipeline=pipeline))
    lanes, found = config.lanes, dict(description(config)["latency"])
    shapes = [Shape("infer", 1, 4 * lanes), Shape("train", 1, 4 * lanes), Shape("infer", 1, 200 * lanes)]
    infer, train, slow = (
        simulate(config, [make_layer(config, shape, rng)], "verilator", stalls={"x": StallPattern.random(rests)})[0]
        for shape, rests in zip(shapes, (0, 0, 0.9), strict=True)
    )
    # the program begins a cycle after the descriptor's
    found["apply"] = infer.transfers["o"].first - infer.start - 1 - found["coefficients"]["infer"]
    # of a source so slow that the buffer is empty in the end
    found["buffer"] = slow.transfers["o"].last - slow.transfers["x"].last - found["apply"] + 1
    waited = train.transfers["o"].first - train.transfers["x"].last
    found["reduce"] = waited - found["coefficients"]["train"] - found["apply"]
    assert description(config)["latency"] == found


@pytest.mark.parametrize("name", SAMPLES)
def test_layers_of_a_network(name: str) -> None:
    """MobileNetV2 at batch 2, most layers with fewer channels than they have."""
    (sample,) = [layer for layer in model_layers("mobilenet_v2", 224) if layer.name == name]
    shapes = [Shape(mode, min(sample.channels, MOST_CHANNELS), sample.elements(BATCH)) for mode in ALL]
    ran = check(CONFIG, shapes)
    model = lightnorm(CONFIG)
    for shape, (layer, _) in zip(shapes, ran, strict=True):
        assert model.two_pass(shape.mode, shape.elements) == layer.two_pass
    assert ("two passes" in SAMPLES[name]) == ran[0][0].two_pass
    assert ("less than 32 beats" in SAMPLES[name]) == (model.beats(sample.elements(BATCH)) < 32)


@pytest.mark.parametrize(("buffer", "pipeline"), [(0, "short"), (64, "deep")])
def test_lengths_around_the_buffer(buffer: int, pipeline: str) -> None:
    """Channels shorter than the coefficients' program, as long as the buffer, and longer."""
    config = machine(4, 3, 4, buffer=buffer, passes=ALL, gradient=BlockFormat(5, 2, 4), pipeline=pipeline)
    lengths = (1, 31, 40, 62, 64, 65)
    check(config, [Shape(mode, 7, 4 * beats - 1) for mode in ALL for beats in lengths])


def test_bits_moved_are_those_of_the_simulation() -> None:
    model, rng = lightnorm(CONFIG), np.random.default_rng(9)
    ports = {name: (port["direction"], port["width"]) for name, port in description(CONFIG)["ports"].items()}
    for mode in ALL:
        for elements in (98, 4096, 6272):
            layer = make_layer(CONFIG, Shape(mode, 3, elements), rng)
            assert model.bits_moved(mode, 3, elements) == bits_moved(layer, ports), (mode, elements)
