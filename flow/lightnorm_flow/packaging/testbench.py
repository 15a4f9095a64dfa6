"""A testbench for any simulator: what it sends, and what the golden model says must come back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    slots = {name: WORD_BYTES * slot for slot, name, _ in registers.slots}
    layers = [_layer(config, mode) for mode in PASSES if config.has(mode)]
    beats: dict[str, list[list[str]]] = {name: [] for name in sizes}
    words: dict[str, list[list[str]]] = {"writes": [], "results": []}
    for layer in layers:
        run = layer.run
        given = {name: getattr(run, name) for name in (
            "mode", "channels", "elements", "chunk_blocks", "inv_count", "range_gain", "eps", "momentum")}  # fmt: skip
        expected = _output(layer)
        for name, stream in (("x", run.x_beats), ("grad", run.grad_beats), ("output", expected)):
            if name in sizes:
                beats[name].append(_marked(stream, layer.beats_per_channel, 8 * sizes[name]))
        words["writes"].append([
            *(_pair(registers[name.upper()].offset, value) for name, value in given.items()),
            *_records(registers, slots, PARAMETERS[layer.mode], run.parameters),
        ])  # fmt: skip
        made = [np.asarray(layer.results[name], np.float32).view(np.uint32) for name in RESULTS[layer.mode]]
        results = [int(word) for row in zip(*made, strict=True) for word in row]
        words["results"].append(list(_records(registers, slots, RESULTS[layer.mode], results)))
    lines = [f"// LightNorm, configuration {config.hash}. Generated: change the configuration, not this file."]
    lines += ["`define LIGHTNORM_BACKWARD"] * config.has("backward")
    lines += [f"localparam {name} = {value};" for name, value in _constants(config, registers, sizes, len(layers))]
    filled = []
    for name, per_run in beats.items():
        declared, values = _memory(f"{name}_beats", f"{name}_end", 8 * sizes[name] + 1, per_run)
        lines += declared
        filled += values
    for name, per_run in words.items():
        declared, values = _memory(name, f"{name}_end", 64, per_run)
        lines += declared
        filled += values
    return "\n".join([*lines, "initial begin", *(f"    {line}" for line in filled), "end"]) + "\n"


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


def _constants(
    config: Config, registers: RegisterMap, sizes: Mapping[str, int], runs: int
) -> Iterator[tuple[str, str]]:
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
    return [
        f"{bits + 1}'h{beat | last * (index % per_packet == per_packet - 1):x}" for index, beat in enumerate(beats)
    ]


def _records(
    registers: RegisterMap, slots: Mapping[str, int], names: Sequence[str], words: Sequence[int]
) -> Iterator[str]:
    """Words of a run, those of channel 0 first, with their places in the window."""
    for index, word in enumerate(words):
        channel, position = divmod(index, len(names))
        yield _pair(registers.window + channel * registers.record * WORD_BYTES + slots[names[position]], word)


def _pair(offset: int, word: int) -> str:
    return f"{{32'h{offset:x}, 32'h{word:x}}}"


def _memory(name: str, ends: str, bits: int, per_run: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """Declarations and assignments of the values of all runs, and of where each run's end."""
    values = [value for run in per_run for value in run]
    declared = [
        f"reg [{bits - 1}:0] {name} [0:{max(len(values), 1) - 1}];",
        f"integer {ends} [0:{len(per_run) - 1}];",
    ]
    filled = [f"{name}[{index}] = {value};" for index, value in enumerate(values)]
    total = 0
    for index, run in enumerate(per_run):
        total += len(run)
        filled.append(f"{ends}[{index}] = {total};")
    return declared, filled
