"""The emitted Verilog against the golden model, every output bit and result word, in both simulators."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lightnorm.config import PIPELINES, Config
from lightnorm_golden import BlockFormat
from lightnorm_golden.spec import MAX_ELEMENTS
from lightnorm_sim import SIMULATORS, StallPattern, build
from lightnorm_sim.layer import Layer, Tensors, compare, output_tensor, prepare, speed

from .cases import BUILD_DIR, STALLS, Shape, emitted, machine, make_layer, simulate

ALL = ("train", "infer", "backward")
MACHINES: dict[str, tuple[Config, str]] = {
    "e5m4 in 16, like default": (machine(5, 4, 16, buffer=32, passes=ALL, gradient=BlockFormat(6, 3, 16)), "none"),
    "e4m3 in 4, like tiny": (machine(4, 3, 4, buffer=64, passes=ALL, gradient=BlockFormat(5, 2, 4)), "random"),
    "e5m4 in 4, 4 per beat, like paper": (
        machine(5, 4, 4, beat=4, buffer=16, passes=ALL, gradient=BlockFormat(6, 3, 4)),
        "bursts",
    ),
    "e5m4 in 16, forward only": (machine(5, 4, 16, buffer=32), "random"),
    "e2m1 alone, no buffer, narrowest": (
        machine(2, 1, 1, coef=8, scale=1, passes=ALL, gradient=BlockFormat(2, 1, 1)),
        "slow source",
    ),
    "e8m10 in 3, 2 per beat, widest, deep": (
        machine(
            8, 10, 3, beat=2, buffer=5, coef=23, scale=23, passes=ALL, gradient=BlockFormat(8, 10, 2), pipeline="deep"
        ),
        "slow sink",
    ),
    "e8m1 in 4, 3 per beat, train only": (machine(8, 1, 4, beat=3, buffer=4, passes=("train",)), "lazy"),
    "e2m10 in 16, infer only, no buffer": (machine(2, 10, 16, passes=("infer",)), "all different"),
    "e3m7 in 8, 2 per beat, buffer of a beat, deep": (
        machine(3, 7, 8, beat=2, buffer=1, gain="rangebn", passes=ALL, gradient=BlockFormat(4, 9, 16), pipeline="deep"),
        "slow words",
    ),
    "e6m9 alone, 4 per beat, deep": (
        machine(6, 9, 1, beat=4, buffer=3, coef=11, gain="lightnorm", pipeline="deep"),
        "all different",
    ),
    "e5m10 alone, scale as wide as coefficients": (machine(5, 10, 1, buffer=8, scale=15), "random"),
    "e7m2 in 5, 3 per beat, no buffer, backward only, deep": (
        machine(7, 2, 5, beat=3, passes=("backward",), gradient=BlockFormat(3, 8, 3), max_chunks=5, pipeline="deep"),
        "slow words",
    ),
}


def grid(config: Config) -> Iterator[Shape]:
    """Runs of all lengths that matter to this machine; neighbours differ in mode where the machine has both."""
    lanes, buffer, block = config.lanes, config.buffer_beats, config.spec.activation.block_size
    lengths = [
        (1, 1),  # inference only
        (2, 1),
        (2, 16),
        (lanes, 1),  # a beat
        (lanes + 1, 3),
        (max(2, block - 1), 2),  # short last block
        (5 * lanes - 1, 5 * lanes),  # a chunk is a block
        (7 * lanes + block // 2 + 1, 4),
        (max(1, buffer - 1) * lanes, 16),  # smaller than the buffer, of its size, larger by one value, much larger
        (max(1, buffer) * lanes, 2),
        (buffer * lanes + 1, 16),
        (min(3 * buffer + 20, 120) * lanes + 1, 16),
        (40 * lanes, 1),
        (33 * lanes - 1, 64),
    ]
    modes = cycle(config.implementation.passes)
    for index, (elements, chunks) in enumerate(lengths):
        mode = next(modes)
        if mode != "infer" and elements == 1:
            if not config.has("infer"):
                continue
            mode = "infer"
        momentum, eps = (0.1, 0.0, 1.0)[index % 3], (1e-5, 1e-3, 0.0, 1.0)[index % 4]
        yield Shape(mode, 1 + index % 5, elements, chunks, index % 3 == 2, eps, momentum)
        for other in ("train", "backward"):  # the same in other modes, many channels back to back
            if config.has(other) and elements > 1:
                yield Shape(other, 6, elements, chunks, index % 4 == 3, eps, momentum)


@pytest.mark.parametrize("name", MACHINES)
def test_machine(name: str) -> None:
    config, stalls = MACHINES[name]
    rng = np.random.default_rng(list(name.encode()))
    layers = [make_layer(config, shape, rng) for shape in grid(config)]
    for kind in dict.fromkeys(("none", stalls)):
        simulate(config, layers, "verilator", stalls=STALLS[kind], seed=len(name))
    some = [layers[index] for index in rng.permutation(len(layers))[:12]]  # Icarus takes its time
    outcomes = [simulate(config, some, simulator, stalls=STALLS[stalls], seed=1) for simulator in SIMULATORS]
    assert outcomes[0] == outcomes[1], "words or cycles differ between the simulators"


@pytest.mark.parametrize("stalls", STALLS)
def test_stalls_change_no_bit(stalls: str) -> None:
    config, _ = MACHINES["e4m3 in 4, like tiny"]
    rng = np.random.default_rng(1)
    layers = [make_layer(config, shape, rng) for shape in grid(config)]
    for seed in range(3):
        simulate(config, layers, "verilator", stalls=STALLS[stalls], seed=seed)


def random_config(rng: np.random.Generator) -> Config:
    beat, coef = int(rng.choice([1, 1, 2, 3, 4])), int(rng.choice([15, 15, 15, 8, 11, 23]))
    passes = [ALL, ALL, ("train", "backward"), ("backward",), ("train", "infer"), ("infer",)][rng.integers(0, 6)]
    block_size = int(rng.choice([1, 2, 3, 4, 7, 8, 16]))
    while block_size * beat > 48:
        beat -= 1
    whole = [size for size in range(1, 65) if block_size * beat % size == 0]
    return machine(
        int(rng.integers(2, 9)),
        int(rng.integers(1, 11)),
        block_size,
        beat=beat,
        buffer=int(rng.choice([0, 1, 3, 4, 16])),
        coef=coef,
        scale=int(rng.choice([7, min(7, coef), coef, 3, 1])),
        gain=str(rng.choice(["d2", "rangebn", "lightnorm"])),
        passes=passes,
        gradient=BlockFormat(int(rng.integers(2, 9)), int(rng.integers(1, 11)), int(rng.choice(whole))),
        max_chunks=int(rng.choice([1, 2, 5, 16])),
        pipeline=str(rng.choice(PIPELINES)),
    )


def random_shape(config: Config, rng: np.random.Generator) -> Shape:
    lanes = config.lanes
    edges = [2, 3, lanes, lanes + 1, config.buffer_beats * lanes, config.buffer_beats * lanes + 1]
    elements = max(2, int(rng.choice([*edges, *rng.integers(2, 40 * lanes, 3)])))
    return Shape(
        str(rng.choice(config.implementation.passes)),
        int(rng.integers(1, 6)),
        elements,
        int(rng.choice([1, 2, 4, 16, elements])),
        bool(rng.integers(0, 2)),
        float(rng.choice([0, 1e-5, 1e-3, 1.0])),
        float(rng.choice([0, 0.1, 1])),
    )


def check_random(seed: int, simulator: str) -> None:
    rng = np.random.default_rng(seed)
    config = random_config(rng)
    layers = [make_layer(config, random_shape(config, rng), rng) for _ in range(16)]
    for stalls in ("none", str(rng.choice(list(STALLS)))):
        try:
            simulate(config, layers, simulator, stalls=STALLS[stalls], seed=seed)
        except Exception as error:
            error.add_note(f"{stalls}, {config}")
            raise


@pytest.mark.parametrize("seed", range(8))
def test_random_machine(seed: int) -> None:
    check_random(seed, "verilator")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 160))
def test_many_random_machines(seed: int) -> None:
    check_random(seed, "verilator" if seed % 4 else "icarus")


@pytest.mark.slow
@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("block_size", [33, 64])
def test_large_blocks(block_size: int, simulator: str) -> None:
    config = machine(5, 4, block_size, buffer=8, passes=ALL, gradient=BlockFormat(6, 3, block_size))
    rng = np.random.default_rng(block_size)
    simulate(config, [make_layer(config, shape, rng) for shape in grid(config)], simulator, stalls=STALLS["random"])


def backward_layer(config: Config, x: NDArray[Any], grad: NDArray[Any], chunks: int) -> Layer:
    """(channels, elements) each."""
    return prepare(config, "backward", Tensors(x=x[None], grad=grad[None]), chunks=chunks, padding_seed=1)


@pytest.mark.parametrize("block_size", [1, 2, 4])
def test_ties_in_every_position(block_size: int) -> None:
    """A chunk of eight elements, a channel for every set of them that shares the maximum, and the minimum."""
    config = machine(5, 4, block_size, beat=4 // block_size, buffer=8, passes=ALL, gradient=BlockFormat(6, 3, 4))
    rng = np.random.default_rng(7)
    subsets = np.arange(1, 256)[:, None] >> np.arange(8) & 1
    layers = []
    for first in (0, 8):  # the chunk is the first of its channel, or the second
        for sign in (1.0, -1.0):
            x = rng.integers(-2, 3, (255, 16)) * 1.0
            x[:, first : first + 8] = sign * np.where(subsets, 3.0, rng.integers(-3, 3, (255, 8)))
            layers.append(backward_layer(config, x, rng.standard_normal((255, 16)), 2))
    constant = np.broadcast_to(rng.integers(-1, 2, (16, 1)) * 1.0, (16, 21))
    random = rng.standard_normal((16, 21))
    layers += [
        backward_layer(config, constant, random, 3),  # every chunk's maximum is its minimum
        backward_layer(config, np.where(rng.random((16, 21)) < 0.5, 0.0, -0.0), random, 3),
        backward_layer(config, random, np.zeros((16, 21)), 3),
        backward_layer(config, random, random, 16),  # chunks as short as can be: an element where blocks are
    ]
    for simulator in SIMULATORS:
        simulate(config, layers, simulator)
    simulate(config, layers, "verilator", stalls=STALLS["random"])


def corner_layers(config: Config) -> list[Layer]:
    """The largest channels, of the largest magnitudes: every accumulator comes as close to its end as it can."""
    spec, elements = config.spec, MAX_ELEMENTS
    largest = (2.0 - 2.0**-spec.activation.man_bits) * 2.0 ** (spec.activation.max_shared_exp - spec.activation.bias)
    grad = (2.0 - 2.0**-spec.gradient.man_bits) * 2.0 ** (spec.gradient.max_shared_exp - spec.gradient.bias)
    layers = []
    for x_sign, grad_sign in ((1, 1), (1, -1), (-1, 1)):
        x = np.full((1, elements), x_sign * largest, np.float32)
        x[0, elements // 2] = 0  # or it would be a constant channel, whose gradients are 0 whatever the sums are
        layers.append(backward_layer(config, x, np.full((1, elements), grad_sign * grad, np.float32), 1))
    alternating = np.full((1, elements), largest, np.float32)
    alternating[0, ::2] *= -1
    chunks = elements // spec.activation.block_size
    layers += [prepare(config, "train", Tensors(x=x[None]), chunks=chunks) for x in (alternating, -alternating)]
    return layers


@pytest.mark.slow
def test_accumulators_hold_the_largest_channel() -> None:
    """2^24 elements: total, grad_total and product_total at both ends, range_total with 2^23 largest ranges."""
    config = machine(2, 1, 2, beat=16, passes=("train", "backward"), gradient=BlockFormat(2, 1, 32), max_chunks=1)
    for layer in corner_layers(config):
        simulate(config, [layer], "verilator")


def test_implementation_changes_no_bit() -> None:
    small = machine(5, 4, 2, passes=ALL, gradient=BlockFormat(6, 3, 2))
    large = machine(5, 4, 2, beat=3, buffer=64, passes=ALL, gradient=BlockFormat(6, 3, 2))
    outcomes = []
    for config in (small, large):
        rng = np.random.default_rng(2)
        shapes = (
            Shape("train", 3, 100), Shape("infer", 3, 100), Shape("train", 2, 7, 1), Shape("train", 4, 333, 5),
            Shape("backward", 3, 100), Shape("backward", 2, 333, 5),
        )  # fmt: skip
        layers = []
        for shape in shapes:
            layers.append(make_layer(config, shape, rng))
            rng = np.random.default_rng(int(shape.elements))  # how much padding was drawn depends on the lanes
        results = simulate(config, layers, "icarus")
        tensors = [output_tensor(layer, result).tobytes() for layer, result in zip(layers, results, strict=True)]
        outcomes.append((tensors, [result.results for result in results]))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(("beats", "pipeline"), [(32, "short"), (99, "short"), (99, "deep")])
def test_full_speed(beats: int, pipeline: str) -> None:
    config = machine(
        5, 4, 16, buffer=256, passes=ALL, gradient=BlockFormat(6, 3, 16), max_chunks=16, pipeline=pipeline
    )
    rng = np.random.default_rng(3)
    modes = ("train", "infer", "train", "backward", "backward", "infer", "infer", "backward", "train", "train")
    layers = [make_layer(config, Shape(mode, 64, beats * config.lanes), rng) for mode in modes]
    results = simulate(config, layers, "verilator")
    for layer, result in zip(layers, results, strict=True):
        found = speed(layer, result)
        assert found.beats == 64 * beats
        assert found.beats_per_cycle == 1.0
    for before, after in zip(results, results[1:], strict=False):
        assert after.transfers["run"].offered <= before.transfers["run"].last + 1
        assert after.transfers["x"].first < before.transfers["o"].last, "the machine drained between two runs"


@pytest.mark.parametrize("pipeline", ["short", "deep"])
def test_coefficients_wait_for_apply(pipeline: str) -> None:
    """Several channels in the buffer, and a sink so slow that a program could begin before its last one's are taken."""
    config = machine(5, 4, 4, buffer=256, passes=ALL, gradient=BlockFormat(6, 3, 4), max_chunks=16, pipeline=pipeline)
    rng = np.random.default_rng(9)
    layers = [make_layer(config, Shape(mode, 8, 40 * config.lanes), rng) for mode in ("train", "backward", "infer")]
    simulate(config, layers, "verilator", stalls={"o": StallPattern.bursts(0.3, 5, 30)})


@pytest.mark.parametrize("mode", ["train", "backward"])
def test_two_passes_take_twice_the_cycles(mode: str) -> None:
    config = machine(5, 4, 16, buffer=256, passes=ALL, gradient=BlockFormat(6, 3, 16), max_chunks=16)
    layer = make_layer(config, Shape(mode, 8, 300 * config.lanes), np.random.default_rng(4))
    assert layer.two_pass
    (result,) = simulate(config, [layer], "verilator")
    source = result.transfers["x" if mode == "train" else "grad"]
    assert 2 * 300 * 8 / (source.last - source.first + 1) > 0.9
    assert speed(layer, result).beats_per_cycle > 0.45


def test_comparison_sees_every_wrong_bit() -> None:
    config, _ = MACHINES["e4m3 in 4, like tiny"]
    layer = make_layer(config, Shape("train", 2, 21), np.random.default_rng(5))
    (result,) = simulate(config, [layer], "icarus")
    for beat in range(len(result.output)):
        for bit in range(config.spec.activation.block_bits):
            output = list(result.output)
            output[beat] ^= 1 << bit
            assert compare(layer, replace(result, output=output)) is not None
    for word in range(len(result.results)):
        for bit in range(32):
            words = list(result.results)
            words[word] ^= 1 << bit
            assert compare(layer, replace(result, results=words)) is not None
    assert compare(layer, replace(result, last=[not last for last in result.last])) is not None
    assert compare(layer, replace(result, two_pass=True)) is not None


MUTATIONS = {" + ": " - ", " ? ": " == 0 ? ", " & ": " | ", " < ": " <= ", "<<": ">>", " ^ ": " & ", "1'h1;": "1'h0;"}


@pytest.mark.slow
def test_broken_verilog_is_found(tmp_path: Path) -> None:
    """One operator wrong at a time. Some leave the function as it is, so not every mutant can be told."""
    config = machine(3, 2, 2, beat=2, buffer=4)
    verilog, ports = emitted(config)
    text = verilog.read_text()
    rng = np.random.default_rng(6)
    layers = [make_layer(config, shape, rng) for shape in grid(config)]
    places = [
        (at, old) for old in MUTATIONS for at in range(len(text)) if text.startswith(old, at)
        and text[text.rfind("\n", 0, at) + 1 :].lstrip().startswith("assign")
    ]  # fmt: skip
    missed = []
    chosen = rng.choice(len(places), 60, replace=False)
    for at, old in (places[index] for index in chosen):
        mutant = tmp_path / "mutant.v"
        mutant.write_text(text[:at] + MUTATIONS[old] + text[at + len(old) :])
        try:
            results = build(mutant, ports, "icarus", BUILD_DIR).run([layer.run for layer in layers], patience=3000)
            if all(compare(layer, result) is None for layer, result in zip(layers, results, strict=True)):
                missed.append(text[text.rfind("\n", 0, at) + 1 : text.find("\n", at)].strip())
        except Exception as error:  # a broken handshake, undefined bits, Verilog that is refused
            assert str(error)
    assert len(missed) <= 15, "\n".join(missed)
