"""The emitted Verilog against the golden model, every output bit and result word, in both simulators."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from lightnorm.config import Config
from lightnorm_sim import SIMULATORS, build
from lightnorm_sim.layer import compare, output_tensor, speed

from .cases import BUILD_DIR, STALLS, Shape, emitted, machine, make_layer, simulate

MACHINES: dict[str, tuple[Config, str]] = {
    "e5m4 in 16, like default": (machine(5, 4, 16, buffer=32), "none"),
    "e4m3 in 4, like tiny": (machine(4, 3, 4, buffer=64), "random"),
    "e5m4 in 4, 4 per beat, like paper": (machine(5, 4, 4, beat=4, buffer=16), "bursts"),
    "e2m1 alone, no buffer, narrowest": (machine(2, 1, 1, coef=8, scale=1), "slow source"),
    "e8m10 in 3, 2 per beat, widest": (machine(8, 10, 3, beat=2, buffer=5, coef=23, scale=23), "slow sink"),
    "e8m1 in 4, 3 per beat, train only": (machine(8, 1, 4, beat=3, buffer=4, passes=("train",)), "lazy"),
    "e2m10 in 16, infer only, no buffer": (machine(2, 10, 16, passes=("infer",)), "all different"),
    "e3m7 in 8, 2 per beat, buffer of a beat": (machine(3, 7, 8, beat=2, buffer=1, gain="rangebn"), "slow words"),
    "e6m9 alone, 4 per beat": (machine(6, 9, 1, beat=4, buffer=3, coef=11, gain="lightnorm"), "all different"),
    "e5m10 alone, scale as wide as coefficients": (machine(5, 10, 1, buffer=8, scale=15), "random"),
    "e7m2 in 5, 3 per beat, no buffer, train only": (machine(7, 2, 5, beat=3, passes=("train",)), "slow words"),
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
        if mode == "train" and elements == 1:
            if not config.has("infer"):
                continue
            mode = "infer"
        momentum, eps = (0.1, 0.0, 1.0)[index % 3], (1e-5, 1e-3, 0.0, 1.0)[index % 4]
        yield Shape(mode, 1 + index % 5, elements, chunks, index % 3 == 2, eps, momentum)
        if config.has("train") and elements > 1:  # the same in the other mode, many channels back to back
            yield Shape("train", 6, elements, chunks, index % 4 == 3, eps, momentum)


@pytest.mark.parametrize("name", MACHINES)
def test_machine(name: str) -> None:
    config, stalls = MACHINES[name]
    rng = np.random.default_rng(list(name.encode()))
    layers = [make_layer(config, shape, rng) for shape in grid(config)]
    outcomes = [
        simulate(config, layers, simulator, stalls=STALLS[kind], seed=len(name))
        for simulator, kind in (("verilator", stalls), ("icarus", stalls))
    ]
    assert outcomes[0] == outcomes[1], "words or cycles differ between the simulators"
    if stalls != "none":
        simulate(config, layers, "verilator")


@pytest.mark.parametrize("stalls", STALLS)
def test_stalls_change_no_bit(stalls: str) -> None:
    config, _ = MACHINES["e4m3 in 4, like tiny"]
    rng = np.random.default_rng(1)
    layers = [make_layer(config, shape, rng) for shape in grid(config)]
    for seed in range(3):
        simulate(config, layers, "verilator", stalls=STALLS[stalls], seed=seed)


def random_config(rng: np.random.Generator) -> Config:
    beat, coef = int(rng.choice([1, 1, 2, 3, 4])), int(rng.choice([15, 15, 15, 8, 11, 23]))
    passes = [("train", "infer"), ("train", "infer"), ("infer",), ("train",)][rng.integers(0, 4)]
    return machine(
        int(rng.integers(2, 9)),
        int(rng.integers(1, 11)),
        int(rng.choice([1, 2, 3, 4, 7, 8, 16])),
        beat=beat,
        buffer=int(rng.choice([0, 1, 3, 4, 16])),
        coef=coef,
        scale=int(rng.choice([7, min(7, coef), coef, 3, 1])),
        gain=str(rng.choice(["d2", "rangebn", "lightnorm"])),
        passes=passes,
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
    config = machine(5, 4, block_size, buffer=8)
    rng = np.random.default_rng(block_size)
    simulate(config, [make_layer(config, shape, rng) for shape in grid(config)], simulator, stalls=STALLS["random"])


def test_implementation_changes_no_bit() -> None:
    small, large = machine(5, 4, 2), machine(5, 4, 2, beat=3, buffer=64)
    outcomes = []
    for config in (small, large):
        rng = np.random.default_rng(2)
        shapes = (Shape("train", 3, 100), Shape("infer", 3, 100), Shape("train", 2, 7, 1), Shape("train", 4, 333, 5))
        layers = []
        for shape in shapes:
            layers.append(make_layer(config, shape, rng))
            rng = np.random.default_rng(int(shape.elements))  # how much padding was drawn depends on the lanes
        results = simulate(config, layers, "icarus")
        tensors = [output_tensor(layer, result).tobytes() for layer, result in zip(layers, results, strict=True)]
        outcomes.append((tensors, [result.results for result in results]))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("beats", [32, 98])
def test_full_speed(beats: int) -> None:
    config = machine(5, 4, 16, buffer=256)
    rng = np.random.default_rng(3)
    modes = ("train", "infer", "train", "infer", "infer", "train", "train")
    layers = [make_layer(config, Shape(mode, 64, beats * config.lanes), rng) for mode in modes]
    results = simulate(config, layers, "verilator")
    for layer, result in zip(layers, results, strict=True):
        found = speed(layer, result)
        assert found.beats == 64 * beats
        assert found.beats_per_cycle == 1.0 if layer.mode == "infer" or beats == 32 else found.beats_per_cycle >= 0.99
    for before, after in zip(results, results[1:], strict=False):
        assert after.transfers["run"].offered <= before.transfers["run"].last + 1
        assert after.transfers["x"].first < before.transfers["o"].last, "the machine drained between two runs"


def test_two_passes_take_twice_the_cycles() -> None:
    config = machine(5, 4, 16, buffer=256)
    layer = make_layer(config, Shape("train", 8, 300 * config.lanes), np.random.default_rng(4))
    assert layer.two_pass
    (result,) = simulate(config, [layer], "verilator")
    source = result.transfers["x"]
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
