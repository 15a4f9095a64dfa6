"""One layer as a run of the machine: tensors to words, and the words that come out against the golden model.

A beat is whole blocks, the first lowest; a channel begins with a beat of its own, and what is missing in its last beat
is zero. Per-channel words are float32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightnorm.config import Config
from lightnorm.datapath.coefficients import MODES
from lightnorm.datapath.program import PARAMETERS, RESULTS
from lightnorm_golden import (
    BlockFormat,
    Blocks,
    NormSpec,
    backward,
    decode,
    forward,
    host_constants,
    infer,
    quantize,
    unpack,
)
from lightnorm_golden import pack as pack_blocks
from lightnorm_golden.block import Float64
from lightnorm_golden.forward import check_channels, check_scalar, check_tensor
from lightnorm_sim.outcome import RunResult
from lightnorm_sim.runner import Run

__all__ = ["Layer", "Speed", "Tensors", "compare", "output_tensor", "pack_beats", "prepare", "speed", "unpack_beats"]

MAX_CHANNELS = (1 << 16) - 1
DEFAULTS = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_sigma": 1.0}
GOLDEN_NAMES = {"new_running_mean": "running_mean", "new_running_sigma": "running_sigma"}


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """What a layer works on; `x` and `grad` are (N, C, *spatial), the rest (C,) or None (1, 0, 0, 1)."""

    x: NDArray[Any]
    weight: NDArray[Any] | None = None
    bias: NDArray[Any] | None = None
    running_mean: NDArray[Any] | None = None
    running_sigma: NDArray[Any] | None = None
    grad: NDArray[Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A run, and what must come out of it."""

    mode: str
    shape: tuple[int, ...]
    lanes: int
    two_pass: bool
    run: Run = field(repr=False)
    blocks: Blocks = field(repr=False)
    results: Mapping[str, Float64] = field(repr=False)  # by name, a value per channel

    @property
    def channels(self) -> int:
        return self.shape[1]

    @property
    def elements(self) -> int:
        """Per channel."""
        return self.run.elements

    @property
    def beats_per_channel(self) -> int:
        return -(-self.elements // self.lanes)


@dataclass(frozen=True)
class Speed:
    """How fast a run was.

    `cycles` are all from its descriptor to its last word. `latency` is from its first beat in to its first beat out.
    `beats_per_cycle` is the sustained rate: output beats over the cycles from the first to the last of them, both
    included; the wait for the first channel's statistics is latency and does not count. 1.0 is the most there is (in
    two passes half of it, as the source sends everything twice).
    """

    elements: int
    beats: int
    cycles: int
    latency: int
    beats_per_cycle: float


def prepare(
    config: Config,
    mode: str,
    tensors: Tensors,
    *,
    eps: float = 1e-5,
    momentum: float = 0.1,
    chunks: int = 16,
    padding_seed: int | None = None,
) -> Layer:
    """The run of a layer in `mode` "train", "infer" or "backward", and what the golden model makes of it.

    With `padding_seed`, random bits stand behind each channel's last element instead of zeros: the machine must ignore
    them. Raises ValueError for a mode that is not built and for what the golden model refuses.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be {', '.join(MODES)}, not {mode!r}")
    if not config.has(mode):
        built = ", ".join(config.implementation.passes)
        raise ValueError(f"this configuration is built without {mode} (implementation.passes has {built})")
    spec, x = config.spec, check_tensor("x", tensors.x)
    channels = x.shape[1]
    if channels > MAX_CHANNELS:
        raise ValueError(f"x must have at most {MAX_CHANNELS} channels, not {channels}")
    elements = x.size // channels
    beats = -(-elements // config.lanes)
    two_pass = mode != "infer" and beats > config.buffer_beats
    values = {
        name: check_channels(name, getattr(tensors, name), channels, default, spec)
        for name, default in DEFAULTS.items()
    }
    expected, found = _golden(spec, mode, tensors, eps, momentum, chunks)

    rng = None if padding_seed is None else np.random.default_rng(padding_seed)
    x_beats = _tensor_beats(x, spec.activation, config.lanes, rng)
    grad_beats: list[list[int]] = []
    if mode == "backward":
        grad_beats = _tensor_beats(check_tensor("grad", tensors.grad, x.shape), spec.gradient, config.lanes, rng)
    constants: dict[str, int] = {"eps": _word(check_scalar("eps", eps, 0.0, np.inf, spec))}
    if mode != "infer":
        host = host_constants(elements, chunks, spec)
        _check_chunks(config, mode, elements, host.chunk_blocks)
        constants |= {
            "chunk_blocks": host.chunk_blocks,
            "inv_count": _word(host.inv_count),
            "range_gain": _word(host.range_gain),
            "momentum": _word(check_scalar("momentum", momentum, 0.0, 1.0, spec)),
        }
    run = Run(
        mode=MODES[mode],
        channels=channels,
        elements=elements,
        **constants,
        x_beats=_in_order(x_beats, twice=two_pass and mode == "train"),
        grad_beats=_in_order(grad_beats, twice=two_pass),
        parameters=_words([values[name] for name in PARAMETERS[mode]]),
        output_beats=channels * beats,
        result_words=channels * len(RESULTS[mode]),
    )
    return Layer(
        mode=mode, shape=x.shape, lanes=config.lanes, two_pass=two_pass, run=run, blocks=expected, results=found
    )


def _check_chunks(config: Config, mode: str, elements: int, chunk_blocks: int) -> None:
    made = -(-elements // (chunk_blocks * config.spec.activation.block_size))
    most = config.implementation.max_chunks
    if mode == "backward" and made > most:
        raise ValueError(
            f"chunks must make at most {most} chunks of a channel in backward (implementation.max_chunks), not {made}"
        )


def compare(layer: Layer, result: RunResult) -> str | None:
    """None if the machine did, bit for bit, what the golden model does; else where first, with both values."""
    if result.two_pass is not None and result.two_pass != layer.two_pass:
        passes = {False: "one pass", True: "two passes"}
        return f"{layer.mode}: hardware takes {passes[result.two_pass]} for this run, not {passes[layer.two_pass]}"
    return _compare_blocks(layer, result) or _compare_last(layer, result) or _compare_results(layer, result)


def output_tensor(layer: Layer, result: RunResult) -> NDArray[Any]:
    """The tensor (N, C, *spatial) that the machine put out, every value exact."""
    fmt = layer.blocks.format
    values = decode(_actual_blocks(layer, result), layer.elements)
    batch, channels, *spatial = layer.shape
    ordered = np.moveaxis(values.reshape(channels, batch, *spatial), 0, 1)
    return np.ascontiguousarray(ordered, np.float32 if fmt.exp_bits < 8 else np.float64)


def speed(layer: Layer, result: RunResult) -> Speed:
    """How fast the run was."""
    out, beats = result.transfers["o"], layer.run.output_beats
    source = result.transfers["x"]
    return Speed(
        elements=layer.elements * layer.channels,
        beats=beats,
        cycles=result.cycles,
        latency=out.first - source.first,
        beats_per_cycle=beats / (out.last - out.first + 1),
    )


def pack_beats(blocks: Blocks, lanes: int) -> list[list[int]]:
    """The beats of each channel."""
    blocks_per_beat = lanes // blocks.format.block_size
    return _to_words(_whole_beats(pack_blocks(blocks), blocks_per_beat), blocks_per_beat)


def unpack_beats(words: Sequence[int], fmt: BlockFormat, lanes: int, channels: int) -> Blocks:
    """Inverse of `pack_beats`, the blocks of padding included."""
    blocks_per_beat = lanes // fmt.block_size
    width = blocks_per_beat * fmt.block_bits
    count = (width + 7) // 8
    data = np.frombuffer(b"".join(word.to_bytes(count, "little") for word in words), np.uint8).reshape(-1, count)
    bits = np.unpackbits(data, axis=1, bitorder="little")[:, :width]
    return unpack(bits.reshape(channels, -1, fmt.block_bits), fmt)


def _golden(
    spec: NormSpec, mode: str, given: Tensors, eps: float, momentum: float, chunks: int
) -> tuple[Blocks, dict[str, Float64]]:
    """The golden model's output and its result words."""
    made: Any
    if mode == "train":
        made = forward(
            given.x, given.weight, given.bias, spec=spec, eps=eps, momentum=momentum, chunks=chunks,
            running_mean=given.running_mean, running_sigma=given.running_sigma,
        )  # fmt: skip
    elif mode == "infer":
        made = infer(given.x, given.weight, given.bias, given.running_mean, given.running_sigma, spec=spec, eps=eps)
    else:
        if given.grad is None:
            raise ValueError("backward needs the gradient of the layer's output")
        made = backward(given.x, given.grad, given.weight, spec=spec, eps=eps, chunks=chunks)
    return made.blocks, {name: getattr(made, GOLDEN_NAMES.get(name, name)) for name in RESULTS[mode]}


def _tensor_beats(
    tensor: NDArray[Any], fmt: BlockFormat, lanes: int, rng: np.random.Generator | None
) -> list[list[int]]:
    """The beats of each channel of a tensor (N, C, *spatial)."""
    channels = tensor.shape[1]
    flat = np.moveaxis(tensor, 1, 0).reshape(channels, -1)
    bits = _whole_beats(pack_blocks(quantize(flat, fmt)), lanes // fmt.block_size)
    if rng is not None:
        blocks = -(-flat.shape[1] // fmt.block_size)
        used = flat.shape[1] - (blocks - 1) * fmt.block_size
        bits[:, blocks:] = rng.integers(0, 2, bits[:, blocks:].shape)
        behind = bits[:, blocks - 1, fmt.exp_bits + used * fmt.element_bits :]
        behind[...] = rng.integers(0, 2, behind.shape)
    return _to_words(bits, lanes // fmt.block_size)


def _whole_beats(bits: NDArray[np.uint8], blocks_per_beat: int) -> NDArray[np.uint8]:
    """Bits (C, blocks, block_bits) with blocks of zeros behind, up to whole beats."""
    return np.pad(bits, ((0, 0), (0, -bits.shape[1] % blocks_per_beat), (0, 0)))


def _to_words(bits: NDArray[np.uint8], blocks_per_beat: int) -> list[list[int]]:
    """Bits (C, blocks, block_bits) of whole beats -> integers, the first bit lowest."""
    channels, blocks, block_bits = bits.shape
    beats = bits.reshape(channels, blocks // blocks_per_beat, blocks_per_beat * block_bits)
    data = np.packbits(beats, axis=-1, bitorder="little")
    return [[int.from_bytes(word.tobytes(), "little") for word in channel] for channel in data]


def _in_order(channels: list[list[int]], *, twice: bool) -> list[int]:
    return [word for channel in channels for word in (channel * 2 if twice else channel)]


def _word(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def _words(columns: Sequence[Float64]) -> list[int]:
    """float32 words, those of channel 0 first."""
    return [_word(value) for row in zip(*columns, strict=True) for value in row]


def _actual_blocks(layer: Layer, result: RunResult) -> Blocks:
    return unpack_beats(result.output, layer.blocks.format, layer.lanes, layer.channels)


def _compare_blocks(layer: Layer, result: RunResult) -> str | None:
    fmt = layer.blocks.format
    blocks_per_beat = layer.lanes // fmt.block_size
    wanted = unpack(_whole_beats(pack_blocks(layer.blocks), blocks_per_beat), fmt)
    actual = _actual_blocks(layer, result)
    lanes_differ = (actual.sign != wanted.sign) | (actual.significand != wanted.significand)
    exponents_differ = actual.shared_exp != wanted.shared_exp
    blocks_differ = exponents_differ | lanes_differ.any(axis=-1)
    if not blocks_differ.any():
        return None
    channel, block = (int(index) for index in np.argwhere(blocks_differ)[0])
    bad_lanes = np.flatnonzero(lanes_differ[channel, block])
    lane = int(bad_lanes[0]) if bad_lanes.size else int(wanted.significand[channel, block].argmax())
    element = block * fmt.block_size + lane
    kind = " (padding)" if element >= layer.elements else ""
    what = f"lane {lane}, element {element}{kind}" if bad_lanes.size else f"shared_exp (shown with lane {lane})"
    counted = np.count_nonzero(blocks_differ)
    return (
        f"{layer.mode}: {counted} of {blocks_differ.size} blocks differ from the golden model; the first is in"
        f" channel {channel}, block {block}, {what} (beat {block // blocks_per_beat}, {fmt})\n"
        f"    hardware: {_decoded(actual, channel, block, lane)}\n"
        f"    golden:   {_decoded(wanted, channel, block, lane)}"
    )


def _decoded(blocks: Blocks, channel: int, block: int, lane: int) -> str:
    sign = int(blocks.sign[channel, block, lane])
    significand = int(blocks.significand[channel, block, lane])
    shared_exp = int(blocks.shared_exp[channel, block])
    value = (-1) ** sign * significand * 2.0 ** (shared_exp + blocks.format.min_exponent)
    return f"sign {sign}, significand {significand}, shared_exp {shared_exp}: {value:.9g}"


def _compare_last(layer: Layer, result: RunResult) -> str | None:
    for index, last in enumerate(result.last):
        channel, beat = divmod(index, layer.beats_per_channel)
        if last != (beat == layer.beats_per_channel - 1):
            state = "set" if last else "not set"
            end = layer.beats_per_channel - 1
            return f"{layer.mode}: channel {channel}: `last` is {state} at beat {beat}; the last beat is {end}"
    return None


def _compare_results(layer: Layer, result: RunResult) -> str | None:
    wanted = _words(list(layer.results.values()))
    names = list(layer.results)
    for index, (got, want) in enumerate(zip(result.results, wanted, strict=True)):
        if got != want:
            channel, word = divmod(index, len(names))
            return (
                f"{layer.mode}: result word {names[word]} of channel {channel} differs from the golden model\n"
                f"    hardware: {_decoded_word(got)}\n    golden:   {_decoded_word(want)}"
            )
    return None


def _decoded_word(word: int) -> str:
    value = float(np.uint32(word).view(np.float32))
    sign, exponent, fraction = word >> 31, word >> 23 & 0xFF, word & 0x7FFFFF
    significand = fraction | (exponent > 0) << 23
    return f"{word:08x}: sign {sign}, significand {significand:#x}, exponent {exponent}: {value:.9g}"
