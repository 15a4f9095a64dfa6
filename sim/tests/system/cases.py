"""Machines, tensors that sit on the edges of a format, and the comparison of a simulated machine with the model."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightnorm.config import Config, Implementation
from lightnorm.generate import generate
from lightnorm_golden import BlockFormat, NormSpec, decode, unpack
from lightnorm_sim import Ports, RunResult, StallPattern, build, read_ports
from lightnorm_sim.layer import Layer, Tensors, compare, prepare

BUILD_DIR = Path(__file__).parents[3] / "build" / "sim"
GRADIENT = BlockFormat(6, 3, 1)

Stalls = StallPattern | Mapping[str, StallPattern]
NO_STALLS = StallPattern.none()

STALLS: dict[str, Stalls] = {
    "none": StallPattern.none(),
    "random": StallPattern.random(0.5),
    "bursts": StallPattern.bursts(0.05, 3, 60),
    "lazy": StallPattern.lazy(),
    "slow source": {"x": StallPattern.bursts(0.3, 1, 9), "grad": StallPattern.lazy()},
    "slow sink": {"o": StallPattern.bursts(0.3, 1, 9)},
    "slow words": {"parameters": StallPattern.random(0.95), "results": StallPattern.random(0.95)},
    "all different": {
        "x": StallPattern.random(0.3),
        "grad": StallPattern.bursts(0.1, 1, 20),
        "o": StallPattern.bursts(0.05, 5, 40),
        "results": StallPattern.lazy(),
        "parameters": StallPattern.bursts(0.1, 50, 150),
    },
}


def machine(
    exp_bits: int,
    man_bits: int,
    block_size: int,
    *,
    beat: int = 1,
    buffer: int = 0,
    coef: int = 15,
    scale: int = 7,
    gain: str = "d2",
    passes: tuple[str, ...] = ("train", "infer"),
    gradient: BlockFormat = GRADIENT,
    max_chunks: int = 64,
    pipeline: str = "short",
) -> Config:
    """A configuration with `beat` blocks per beat and a buffer of `buffer` beats."""
    spec = NormSpec(BlockFormat(exp_bits, man_bits, block_size), gradient, coef, scale, gain)
    return Config(spec, Implementation(passes, beat, buffer * beat, max_chunks, pipeline=pipeline))


@dataclass(frozen=True)
class Shape:
    """A run without its data. `raw`: arbitrary bits for a tensor instead of what `quantize` makes."""

    mode: str
    channels: int
    elements: int
    chunks: int = 16
    raw: bool = False
    eps: float = 1e-5
    momentum: float = 0.1


def tensor(rng: np.random.Generator, channels: int, elements: int, fmt: BlockFormat) -> NDArray[Any]:
    """(1, channels, elements): every channel of another kind, drawn anew."""
    x = rng.standard_normal((1, channels, elements))
    top = fmt.max_shared_exp - fmt.bias + 1
    for channel, kind in enumerate(rng.integers(0, 9, channels)):
        row = x[0, channel]
        if kind == 1:  # all shared exponents and beyond; significands that round up to the next power
            row[:] = np.ldexp(rng.choice([-1, 1], elements) * rng.choice([1, 1.5, 1.999, 1.0001], elements),
                              rng.integers(-top - 8, top + 3, elements))  # fmt: skip
        elif kind == 2:  # small integers: ties of the extrema and of the roundings
            row[:] = np.ldexp(rng.integers(-3, 4, elements) * 1.0, int(rng.integers(-4, 4)))
        elif kind == 3:  # mostly zero
            row[:] = rng.choice([0, 0, 1.0, -1.0, 2.0], elements)
        elif kind == 4:  # far from zero: cancels against the shift
            row[:] = row * 2.0 ** rng.integers(-20, 3) + 2.0 ** rng.integers(-4, 8)
        elif kind == 5:  # constant
            row[:] = rng.standard_normal()
        elif kind == 6:  # block maxima are negative powers of two, each block with another exponent
            power = np.repeat(rng.integers(-top, top + 1, -(-elements // fmt.block_size)), fmt.block_size)[:elements]
            row[:] = np.ldexp(rng.uniform(-0.99, 0.99, elements), power)
            row[:: fmt.block_size] = -np.ldexp(1.0, power[:: fmt.block_size])
        elif kind == 7:  # below the smallest normal exponent
            row[:] = np.ldexp(row, fmt.min_exponent + int(rng.integers(-2, fmt.man_bits + 1)))
        elif kind == 8:  # at the top, saturated or not
            row[:] = np.ldexp(row, top - int(rng.integers(0, 3)))
    return x.astype(np.float32 if fmt.exp_bits < 8 else np.float64)


def parameters(rng: np.random.Generator, channels: int, fmt: BlockFormat) -> NDArray[Any]:
    """Per-channel values: ordinary ones, zeros, extremes of float32, and such as move outputs to a format's ends."""
    values = rng.standard_normal(channels) * np.exp2(rng.integers(-3, 3, channels))
    kind = rng.integers(0, 12, channels)
    values = np.where(kind == 0, 0.0, values)
    values = np.where(kind == 1, values * np.exp2(rng.integers(-120, 120, channels)), values)
    top = min(fmt.max_shared_exp - fmt.bias, 120)
    values = np.where(kind == 2, np.ldexp(values, top), values)
    values = np.where(kind == 3, np.ldexp(values, max(fmt.min_exponent, -120) + 2), values)
    return values.astype(np.float32)


def make_layer(config: Config, shape: Shape, rng: np.random.Generator) -> Layer:
    """The run of `shape` with data from `rng`; what lies behind a channel's last element is garbage."""
    fmt, channels = config.spec.activation, shape.channels
    backward = shape.mode == "backward"
    sources = {"x": fmt, "grad": config.spec.gradient} if backward else {"x": fmt}
    values, words = {}, {}
    for name, source in sources.items():
        if shape.raw:
            values[name], words[name] = _raw_tensor(rng, config.lanes, source, shape)
        else:
            values[name] = tensor(rng, channels, shape.elements, source)
    running_mean = parameters(rng, channels, fmt)
    meets = rng.random(channels) < 0.3  # inference: the mean is an element, which then cancels to the bias
    running_mean = np.where(meets, np.clip(values["x"][0, :, 0], -1e30, 1e30), running_mean).astype(np.float32)
    tensors = Tensors(
        **values,
        weight=parameters(rng, channels, fmt),
        bias=parameters(rng, channels, fmt),
        running_mean=running_mean,
        running_sigma=np.abs(parameters(rng, channels, fmt)),
    )
    layer = prepare(
        config,
        shape.mode,
        tensors,
        eps=shape.eps,
        momentum=shape.momentum,
        chunks=min(shape.chunks, config.implementation.max_chunks) if backward else shape.chunks,
        padding_seed=int(rng.integers(1 << 30)),
    )
    beats = layer.beats_per_channel
    for name, raw in words.items():
        field = f"{name}_beats"
        twice = layer.two_pass and (name == "grad" or not backward)
        sent = [word for first in range(0, len(raw), beats) for word in raw[first : first + beats] * (1 + twice)]
        assert len(sent) == len(getattr(layer.run, field))
        layer = replace(layer, run=replace(layer.run, **{field: sent}))
    return layer


def _raw_tensor(
    rng: np.random.Generator, lanes: int, fmt: BlockFormat, shape: Shape
) -> tuple[NDArray[Any], list[int]]:
    """Arbitrary beats, and the tensor they stand for: unnormalized blocks, negative zeros, garbage as padding."""
    per_beat = lanes // fmt.block_size
    blocks = -(-shape.elements // lanes) * per_beat
    bits = rng.integers(0, 2, (shape.channels, blocks, fmt.block_bits)).astype(np.uint8)
    kind = rng.integers(0, 6, (shape.channels, blocks, 1))
    field = np.arange(fmt.block_bits)
    in_element = (field - fmt.exp_bits) % fmt.element_bits
    significand = (field >= fmt.exp_bits) & (in_element <= fmt.man_bits)
    bits[(kind == 0) & significand] = 0  # zeros of both signs under any exponent
    bits[(kind == 1) & significand & (in_element > 0)] = 0  # last bits only: far from normalized
    bits[(kind == 2) & (field < fmt.exp_bits)] = 0
    bits[(kind == 3) & (field < fmt.exp_bits)] = 1
    bits[(kind == 3) & significand] = 1  # the largest magnitude
    x = decode(unpack(bits, fmt), shape.elements)[None]
    words = np.packbits(bits.reshape(shape.channels * blocks // per_beat, -1), axis=1, bitorder="little")
    return x, [int.from_bytes(word.tobytes(), "little") for word in words]


@functools.cache
def emitted(config: Config) -> tuple[Path, Ports]:
    """The configuration's Verilog, written once per process."""
    directory = Path(_directory().name) / config.hash
    generate(config, directory)
    return directory / "lightnorm.v", read_ports(directory / "lightnorm.json")


def description(config: Config) -> dict[str, Any]:
    """What `generate` says of the configuration."""
    verilog, _ = emitted(config)
    content: dict[str, Any] = json.loads(verilog.with_suffix(".json").read_text())
    return content


@functools.cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="lightnorm-system-")


def simulate(
    config: Config, layers: Sequence[Layer], simulator: str, *, stalls: Stalls = NO_STALLS, seed: int = 0
) -> list[RunResult]:
    """The layers, back to back, on the emitted Verilog; every bit that comes out must be the golden model's."""
    verilog, ports = emitted(config)
    compiled = build(verilog, ports, simulator, BUILD_DIR)
    results = compiled.run([layer.run for layer in layers], stalls=stalls, seed=seed)
    for index, (layer, result) in enumerate(zip(layers, results, strict=True)):
        problem = compare(layer, result)
        what = f"{simulator}, run {index} ({layer.channels} x {layer.elements}), seed {seed}"
        assert problem is None, f"{what}: {problem}"
    return results
