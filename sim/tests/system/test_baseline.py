"""The conventional machines' Verilog against their model, every output bit and result word."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lightnorm.baseline import Baseline, Design, generate_baseline, ladder
from lightnorm.baseline.program import operations, schedule
from lightnorm_golden.baseline import FloatNormSpec
from lightnorm_golden.formats import FloatFormat
from lightnorm_sim import RunResult, build, lint, read_ports
from lightnorm_sim.baseline import BaselineLayer, compare_baseline, decode_output, prepare_baseline

from .cases import BUILD_DIR, NO_STALLS, STALLS, Stalls

ALL = ("train", "infer", "backward")
RUNGS = {design.name: design for design in ladder()}
OTHERS = {
    "l2-mixed": Design("l2-mixed", FloatNormSpec("l2", FloatFormat(4, 3), FloatFormat(5, 2), 16, 5)),
    "range-wide": Design("range-wide", FloatNormSpec("range", FloatFormat(8, 12), FloatFormat(3, 14), 23, 15)),
}
DESIGNS = RUNGS | OTHERS
# lanes, beats of buffer, passes, stalls
MACHINES: dict[str, tuple[int, int, tuple[str, ...], str]] = {
    "l2-fp32": (2, 16, ALL, "random"),
    "l2-bf16": (8, 5, ALL, "bursts"),
    "range-fp32": (4, 16, ALL, "slow words"),
    "range-fp16": (2, 0, ALL, "slow source"),
    "range-fp10": (8, 8, ALL, "all different"),
    "l2-mixed": (3, 1, ALL, "slow sink"),
    "range-wide": (5, 7, ALL, "lazy"),
}
PARTIAL = {
    "l2-fp32": (2, 3, ("train",)),
    "l2-bf16": (4, 0, ("train", "infer")),
    "range-fp16": (4, 3, ("train", "infer")),
    "range-fp10": (4, 8, ("backward",)),
    "l2-mixed": (4, 2, ("infer",)),
}


def tensor(rng: np.random.Generator, channels: int, elements: int, fmt: FloatFormat) -> NDArray[np.float64]:
    """(1, channels, elements): every channel of another kind."""
    x = rng.standard_normal((1, channels, elements))
    for channel, kind in enumerate(rng.integers(0, 8, channels)):
        row = x[0, channel]
        if kind == 1:  # every exponent, subnormals and overflow among them
            row[:] = np.ldexp(row, rng.integers(fmt.min_exponent - 3, fmt.max_exponent + 2, elements))
        elif kind == 2:  # small integers: ties of extrema
            row[:] = rng.integers(-2, 3, elements)
        elif kind == 3:  # mostly zero
            row[:] = rng.choice([0, 0, 0, 1.0, -3.0], elements)
        elif kind == 4:  # far from zero: the variance cancels, and y against the shift
            row[:] = row * 2.0**-6 + 3.0
        elif kind == 5:
            row[:] = rng.standard_normal()
        elif kind == 6:  # exponents grow along the channel: accumulators are shifted again and again
            row[:] = np.ldexp(row, np.linspace(-12, 3, elements).astype(int))
        elif kind == 7:
            row[:] = np.ldexp(row, fmt.max_exponent // 2)
    return x


def make(
    design: Design, mode: str, channels: int, elements: int, rng: np.random.Generator, *, lanes: int, buffer: int,
    chunks: int = 16,
) -> BaselineLayer:  # fmt: skip
    spec = design.spec
    weight = rng.standard_normal(channels) * np.exp2(rng.integers(-3, 3, channels))
    return prepare_baseline(
        spec, mode, tensor(rng, channels, elements, spec.activation), tensor(rng, channels, elements, spec.gradient),
        lanes=lanes, buffer_beats=buffer, weight=np.where(rng.random(channels) < 0.1, 0.0, weight),
        bias=rng.standard_normal(channels), running_mean=rng.standard_normal(channels),
        running_spread=np.exp2(rng.integers(-9, 9, channels)) * rng.random(channels),
        eps=float(rng.choice([1e-5, 1e-3, 0.0, 1.0])), momentum=float(rng.choice([0.1, 0.0, 1.0])), chunks=chunks,
        padding_seed=int(rng.integers(1 << 30)),
    )  # fmt: skip


@functools.cache
def emitted(design: Design, lanes: int, buffer: int, passes: tuple[str, ...]) -> Path:
    folder = Path(_directory().name) / f"{design.name}-{lanes}-{buffer}-{'-'.join(passes)}"
    generate_baseline(design, folder, lanes=lanes, buffer_beats=buffer, passes=passes)
    return folder


@functools.cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="lightnorm-baseline-")


def simulate(
    folder: Path, layers: Sequence[BaselineLayer], simulator: str, stalls: Stalls = NO_STALLS, seed: int = 0
) -> list[RunResult]:
    ports = read_ports(folder / "baseline.json")
    compiled = build(folder / "baseline.v", ports, simulator, BUILD_DIR, module="baseline")
    results = compiled.run([layer.run for layer in layers], stalls=stalls, seed=seed)
    for index, (layer, result) in enumerate(zip(layers, results, strict=True)):
        problem = compare_baseline(layer, result, word_bits=output_bits(folder, layer))
        assert problem is None, f"{folder.name}, {simulator}, run {index} {layer.shape}, seed {seed}: {problem}"
    return results


def output_bits(folder: Path, layer: BaselineLayer) -> int:
    return (read_ports(folder / "baseline.json")["o__payload"][1] - 1) // layer.lanes


def lengths(lanes: int, buffer: int) -> list[int]:
    """Around beats and around the buffer's end, and long ones."""
    return [2, lanes, lanes + 1, 5 * lanes - 1, max(2, buffer * lanes), buffer * lanes + 1, 40 * lanes, 33 * lanes - 1]


def run_machine(design: Design, lanes: int, buffer: int, passes: tuple[str, ...], stalls: str) -> list[BaselineLayer]:
    rng = np.random.default_rng(list(design.name.encode()))
    modes = cycle(passes)
    layers = [
        make(design, next(modes), 1 + index % 5, max(2, elements), rng, lanes=lanes, buffer=buffer,
             chunks=(1, 2, 5, 16)[index % 4])
        for index, elements in enumerate(lengths(lanes, buffer) * 2)
    ]  # fmt: skip
    folder = emitted(design, lanes, buffer, passes)
    for kind in dict.fromkeys(("none", stalls)):
        simulate(folder, layers, "verilator", STALLS[kind], seed=len(design.name))
    return layers


def some(*quick: str, of: Iterable[str]) -> list[Any]:
    """Parameters, of which only `quick` run in every test run."""
    return [pytest.param(name, marks=() if name in quick else (pytest.mark.slow,)) for name in of]


@pytest.mark.parametrize("name", some("l2-mixed", "range-fp10", of=MACHINES))
def test_machine(name: str) -> None:
    lanes, buffer, passes, stalls = MACHINES[name]
    run_machine(DESIGNS[name], lanes, buffer, passes, stalls)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTIAL)
def test_builds_with_fewer_passes(name: str) -> None:
    run_machine(DESIGNS[name], *PARTIAL[name], "random")


@pytest.mark.parametrize("name", some("l2-mixed", of=["l2-mixed", "range-fp10"]))
def test_both_simulators(name: str) -> None:
    lanes, buffer, passes, stalls = MACHINES[name]
    rng = np.random.default_rng(5)
    layers = [make(DESIGNS[name], mode, 2, 7 * lanes + 1, rng, lanes=lanes, buffer=buffer) for mode in passes]
    found = [simulate(emitted(DESIGNS[name], lanes, buffer, passes), layers, simulator, STALLS[stalls], seed=1)
             for simulator in ("verilator", "icarus")]  # fmt: skip
    assert found[0] == found[1], "words or cycles differ between the simulators"


@pytest.mark.slow
@pytest.mark.parametrize("stalls", STALLS)
@pytest.mark.parametrize("name", ["l2-fp32", "range-fp10"])
def test_stalls_change_no_bit(name: str, stalls: str) -> None:
    lanes, buffer, passes, _ = MACHINES[name]
    rng = np.random.default_rng(1)
    layers = [make(DESIGNS[name], mode, 3, n, rng, lanes=lanes, buffer=buffer)
              for n in lengths(lanes, buffer) for mode in passes]  # fmt: skip
    for seed in range(3):
        simulate(emitted(DESIGNS[name], lanes, buffer, passes), layers, "verilator", STALLS[stalls], seed=seed)


@pytest.mark.parametrize("name", some("l2-bf16", of=["l2-bf16", "range-fp10"]))
def test_full_speed(name: str) -> None:
    """One beat per cycle, without a bubble between channels of 32 beats, in every mode and across modes."""
    lanes, design, rng = 4, DESIGNS[name], np.random.default_rng(3)
    for beats in (32, 45):
        layers = [make(design, mode, 24, beats * lanes, rng, lanes=lanes, buffer=256)
                  for mode in ("train", "infer", "train", "backward", "backward", "infer")]  # fmt: skip
        for layer, result in zip(layers, simulate(emitted(design, lanes, 256, ALL), layers, "verilator"), strict=True):
            out = result.transfers["o"]
            assert out.last - out.first + 1 == 24 * beats, (layer.mode, beats)


def test_two_passes_take_twice_the_cycles() -> None:
    lanes, buffer, passes, _ = MACHINES["l2-mixed"]
    rng = np.random.default_rng(4)
    layers = [make(DESIGNS["l2-mixed"], mode, 4, 300 * lanes, rng, lanes=lanes, buffer=buffer)
              for mode in ("train", "backward")]  # fmt: skip
    for layer, result in zip(layers, simulate(emitted(DESIGNS["l2-mixed"], lanes, buffer, passes), layers, "verilator"),
                             strict=True):  # fmt: skip
        assert layer.two_pass and len(layer.run.x_beats) == 2 * 4 * 300
        x = result.transfers["x"]
        assert 2 * 4 * 300 / (x.last - x.first + 1) > 0.9


def test_comparison_sees_wrong_bits() -> None:
    lanes, buffer, passes, _ = MACHINES["l2-mixed"]
    design, rng = DESIGNS["l2-mixed"], np.random.default_rng(6)
    folder = emitted(design, lanes, buffer, passes)
    layer = make(design, "train", 2, 7, rng, lanes=lanes, buffer=buffer)
    (result,) = simulate(folder, [layer], "verilator")
    bits = output_bits(folder, layer)
    assert np.array_equal(decode_output(layer, result, word_bits=bits)[0], layer.output)
    for beat in range(len(result.output)):
        for bit in range(lanes * bits):
            output = list(result.output)
            output[beat] ^= 1 << bit
            assert compare_baseline(layer, replace(result, output=output), word_bits=bits) is not None
    for word in range(len(result.results)):
        words = list(result.results)
        words[word] ^= 1
        assert compare_baseline(layer, replace(result, results=words), word_bits=bits) is not None
    wrong = replace(result, last=[not last for last in result.last])
    assert "`last`" in str(compare_baseline(layer, wrong, word_bits=bits))
    assert "two passes" in str(compare_baseline(layer, replace(result, two_pass=False), word_bits=bits))


@pytest.mark.parametrize("name", some("l2-bf16", of=RUNGS))
def test_files(name: str, tmp_path: Path) -> None:
    """Same bytes every time, lint-clean, a program short enough for channels of 32 beats."""
    design = RUNGS[name]
    described = [generate_baseline(design, tmp_path / str(index), lanes=4, buffer_beats=8) for index in range(2)]
    assert described[0] == described[1]
    for file in ("baseline.v", "baseline.json"):
        assert len({(tmp_path / str(index) / file).read_bytes() for index in range(2)}) == 1
    assert lint(tmp_path / "0" / "baseline.v") == []
    assert f"// Configuration {described[0]['hash']}: conventional batch norm {name}" in (
        tmp_path / "0" / "baseline.v").read_text()  # fmt: skip
    assert max(described[0]["latency"]["coefficients"].values()) <= 33


@pytest.mark.parametrize("statistic", ["l2", "range"])
def test_programs_keep_values_apart(statistic: str) -> None:
    """Every operand is, when it is read, what its operation made: the schedule played on symbols."""
    pinned = {"spread": 0, "scale": 1, "slope": 1, "shift": 2, "term": 2}
    pinned |= {"grad_scale": 3} if statistic == "l2" else {"grad_scale": 1, "at_max": 3, "at_min": 4}
    for mode in ALL:
        program = schedule(statistic, mode, pinned)
        made = {operation.result for operation in operations(statistic, mode)}
        held: dict[int, str] = {}
        for slot in program.slots:
            if slot.start:
                for operand in slot.start.operands:
                    if operand in slot.registers:
                        assert held[slot.registers[operand]] == operand
                    else:
                        assert operand not in made
            if slot.load:
                held[slot.registers[slot.load]] = slot.load
            if slot.write:
                held[slot.registers[slot.write.result]] = slot.write.result


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lanes": 1}, "lanes must be between 2 and 64, not 1"),
        ({"passes": ("train", "train")}, "passes must be one or more of infer, train, backward, each once"),
        ({"buffer_beats": -1}, "buffer_beats must be at least 0, not -1"),
    ],
)
def test_what_cannot_be_built(given: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"lanes": 4, "buffer_beats": 4} | given
    with pytest.raises(ValueError, match=message):
        Baseline(RUNGS["l2-fp32"].spec, **arguments)  # type: ignore[arg-type]
