"""A testbench for any simulator: what it sends, and what the golden model says must come back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightnorm.bus import RegisterMap
from lightnorm.bus.registers import ERRORS, WORD_BYTES
from lightnorm.config import PASSES, Config
from lightnorm.datapath.program import PARAMETERS, RESULTS
from lightnorm_sim.layer import Layer, Tensors, pack_beats, prepare

__all__ = ["TESTBENCH", "vectors"]

TESTBENCH = Path(__file__).with_name("testbench.v")
CHANNELS = 3
POLLS = 10_000


def vectors(config: Config, description: Mapping[str, Any], registers: RegisterMap) -> str:
    """The Verilog include file of `testbench.v`: constants, and the beats and words of a run of each pass."""
    sizes: Mapping[str, int] = description["beat_bytes"]
    layers = [_layer(config, mode) for mode in PASSES if config.has(mode)]
    memories = [_Memory(f"{name}_beats", f"{name}_end", 8 * size + 1) for name, size in sizes.items()]
    memories += [_Memory("writes", "writes_end", 64)]
    if registers.channels:
        memories += [_Memory("results", "results_end", 64)]
    else:
        memories += [_Memory(f"{name}_words", f"{name}_end", 33) for name in ("parameter", "result")]
    for layer in layers:
        run, per_packet = layer.run, layer.beats_per_channel
        given = {name: getattr(run, name) for name in (
            "mode", "channels", "elements", "chunk_blocks", "inv_count", "range_gain", "eps", "momentum")}  # fmt: skip
        made = [np.asarray(layer.results[name], np.float32).view(np.uint32) for name in RESULTS[layer.mode]]
        results = [int(word) for row in zip(*made, strict=True) for word in row]
        values = {
            "x_beats": _marked(run.x_beats, per_packet, 8 * sizes["x"]),
            "output_beats": _marked(_output(layer), per_packet, 8 * sizes["output"]),
            "writes": [_pair(registers[name.upper()].offset, value) for name, value in given.items()],
            "parameter_words": _marked(run.parameters, len(run.parameters), 32),
            "result_words": _marked(results, len(results), 32),
        }
        if "grad" in sizes:
            values["grad_beats"] = _marked(run.grad_beats, per_packet, 8 * sizes["grad"])
        if registers.channels:
            values["writes"] += _records(registers, PARAMETERS[layer.mode], run.parameters)
            values["results"] = list(_records(registers, RESULTS[layer.mode], results))
        for memory in memories:
            memory.runs.append(values[memory.name])
    lines = [f"// LightNorm, configuration {config.hash}. Generated: change the configuration, not this file."]
    lines += ["`define LIGHTNORM_BACKWARD"] * config.has("backward")
    lines += ["`define LIGHTNORM_STREAMS"] * (not registers.channels)
    lines += [f"localparam {name} = {value};" for name, value in _constants(registers, sizes, len(layers))]
    lines += [line for memory in memories for line in memory.declarations()]
    filled = [f"    {line}" for memory in memories for line in memory.assignments()]
    return "\n".join([*lines, "initial begin", *filled, "end"]) + "\n"


@dataclass
class _Memory:
    """Values of all runs, and where each run's end."""

    name: str
    ends: str
    bits: int
    runs: list[list[str]] = field(default_factory=list)

    def declarations(self) -> list[str]:
        count = sum(map(len, self.runs))
        return [
            f"reg [{self.bits - 1}:0] {self.name} [0:{max(count, 1) - 1}];",
            f"integer {self.ends} [0:{len(self.runs) - 1}];",
        ]

    def assignments(self) -> Iterator[str]:
        for index, value in enumerate(value for run in self.runs for value in run):
            yield f"{self.name}[{index}] = {value};"
        for index in range(len(self.runs)):
            yield f"{self.ends}[{index}] = {sum(map(len, self.runs[: index + 1]))};"


def _layer(config: Config, mode: str) -> Layer:
    """A run of three channels whose last beat is not full. Numbers of 16 bits, the same on every machine."""
    elements = 2 * config.lanes + config.lanes // 2 + 1

    def numbers(shape: tuple[int, ...], start: int) -> NDArray[np.float32]:
        count = int(np.prod(shape))
        mixed = [(index + start) * 40503 % 65521 for index in range(count)]
        return ((np.array(mixed).reshape(shape) - 32768) / 8192).astype(np.float32)

    shape = (1, CHANNELS, elements)
    vector = (CHANNELS,)
    tensors = Tensors(
        x=numbers(shape, 1), weight=numbers(vector, 7), bias=numbers(vector, 11), running_mean=numbers(vector, 13),
        running_sigma=abs(numbers(vector, 17)), grad=numbers(shape, 5) if mode == "backward" else None,
    )  # fmt: skip
    return prepare(config, mode, tensors, chunks=min(2, config.implementation.max_chunks))


def _output(layer: Layer) -> list[int]:
    """The golden model's output beats."""
    return [beat for channel in pack_beats(layer.blocks, layer.lanes) for beat in channel]


def _constants(registers: RegisterMap, sizes: Mapping[str, int], runs: int) -> Iterator[tuple[str, str]]:
    yield "RUNS", str(runs)
    yield "POLLS", str(POLLS)
    yield "ADDRESS_BITS", str(registers.address_bits)
    for name, size in sizes.items():
        yield f"{name.upper()}_BITS", str(8 * size)
    for name in ("CTRL", "STATUS", "ID", "CONFIG_HASH"):
        yield f"{name}_OFFSET", f"32'h{registers[name].offset:x}"
    for name in ("ID", "CONFIG_HASH"):
        yield f"{name}_VALUE", f"32'h{registers[name].reset:x}"
    masks = {field.name: field.mask for field in registers["CTRL"].fields}
    yield "CTRL_START_MASK", f"32'h{masks['start']:x}"
    yield "CTRL_DONE_MASK", f"32'h{masks['done']:x}"
    errors = sum(field.mask for field in registers["STATUS"].fields if field.name in ERRORS)
    yield "STATUS_ERRORS", f"32'h{errors:x}"


def _marked(beats: Sequence[int], per_packet: int, bits: int) -> list[str]:
    """Beats of so many bits, with TLAST above them."""
    last = 1 << bits
    return [f"{bits + 1}'h{beat | last * (index % per_packet == per_packet - 1):x}" for index, beat in enumerate(beats)]


def _records(registers: RegisterMap, names: Sequence[str], words: Sequence[int]) -> Iterator[str]:
    """Words of a run, those of channel 0 first, with their places in the window."""
    slots = {name: slot for slot, name, _ in registers.slots}
    for index, word in enumerate(words):
        channel, position = divmod(index, len(names))
        yield _pair(registers.window + (channel * registers.record + slots[names[position]]) * WORD_BYTES, word)


def _pair(offset: int, word: int) -> str:
    return f"{{32'h{offset:x}, 32'h{word:x}}}"
