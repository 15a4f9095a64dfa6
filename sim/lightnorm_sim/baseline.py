"""One layer as a run of a conventional machine: tensors to words, and what comes out against its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightnorm.baseline.program import PARAMETERS, RESULTS
from lightnorm.datapath.coefficients import MODES
from lightnorm_golden.baseline import (
    FloatNormSpec,
    backward_lanes,
    coefficients,
    decode_floats,
    encode_floats,
    float_constants,
    forward_lanes,
    gradient_coefficients,
    reduce_lanes,
)
from lightnorm_golden.block import Float64, Int
from lightnorm_golden.formats import FloatFormat
from lightnorm_golden.wide import round_wide
from lightnorm_sim.outcome import RunResult
from lightnorm_sim.runner import Run

__all__ = ["BaselineLayer", "compare_baseline", "decode_output", "prepare_baseline"]

DEFAULTS = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_spread": 1.0}
SINGLE = FloatFormat(8, 23)


@dataclass(frozen=True, kw_only=True)
class BaselineLayer:
    """A run, and what must come out of it."""

    mode: str
    shape: tuple[int, ...]
    lanes: int
    two_pass: bool
    run: Run = field(repr=False)
    format: FloatFormat
    output: Float64 = field(repr=False)  # (C, elements)
    results: dict[str, Float64] = field(repr=False)

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


def prepare_baseline(
    spec: FloatNormSpec,
    mode: str,
    x: NDArray[Any],
    grad: NDArray[Any] | None = None,
    *,
    lanes: int,
    buffer_beats: int,
    weight: NDArray[Any] | None = None,
    bias: NDArray[Any] | None = None,
    running_mean: NDArray[Any] | None = None,
    running_spread: NDArray[Any] | None = None,
    eps: float = 1e-5,
    momentum: float = 0.1,
    chunks: int = 16,
    padding_seed: int | None = None,
) -> BaselineLayer:
    """The run of tensors (N, C, *spatial) in `mode` "train", "infer" or "backward", and what the model makes of it.

    `chunks` is for range statistics. Backward gets mean and invstd as training makes them. With `padding_seed`, random
    bits stand behind each channel's last element: the machine must ignore them. Raises ValueError for another mode, or
    backward without gradients.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be {', '.join(MODES)}, not {mode!r}")
    if mode == "backward" and grad is None:
        raise ValueError("backward needs the gradient of the layer's output")
    channels = x.shape[1]
    given = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_spread": running_spread}
    words = {
        name: round_wide(np.broadcast_to(DEFAULTS[name] if value is None else np.asarray(value), (channels,)) * 1.0,
                         spec.coef)
        for name, value in given.items()
    }  # fmt: skip
    eps, momentum = (float(round_wide(np.asarray(value), spec.coef)) for value in (eps, momentum))
    flat = _flat(x, spec.activation)
    elements = flat.shape[1]
    constants = float_constants(elements, chunks, lanes, spec)
    beats = -(-elements // lanes)
    two_pass = mode != "infer" and beats > buffer_beats

    statistics = None
    if mode != "infer":
        statistics = reduce_lanes(flat, None, lanes=lanes, chunk_beats=constants.chunk_beats, spec=spec)
    found = coefficients(statistics, constants, *words.values(), eps=eps, momentum=momentum, spec=spec)
    rng = None if padding_seed is None else np.random.default_rng(padding_seed)
    x_beats = _beats(flat, spec.activation, lanes, rng)
    grad_beats: list[list[int]] = []
    if mode == "backward":
        assert grad is not None
        flat_grad = _flat(grad, spec.gradient)
        statistics = reduce_lanes(flat, flat_grad, lanes=lanes, chunk_beats=constants.chunk_beats, spec=spec)
        words |= {"mean": found["mean"], "invstd": found["invstd"]}
        found = gradient_coefficients(statistics, constants, words["mean"], words["invstd"], words["weight"], spec=spec)
        output, fmt = backward_lanes(flat, flat_grad, found, statistics, spec), spec.gradient
        grad_beats = _beats(flat_grad, spec.gradient, lanes, rng)
    else:
        output, fmt = forward_lanes(flat, found, spec), spec.activation
    twice_x = two_pass and (mode == "train" or spec.statistic == "l2")
    run = Run(
        mode=MODES[mode],
        channels=channels,
        elements=elements,
        chunk_blocks=constants.chunk_beats if spec.statistic == "range" and mode != "infer" else 0,
        inv_count=_word(constants.inv_count),
        range_gain=_word(constants.range_gain),
        eps=_word(eps),
        momentum=_word(momentum),
        x_beats=[word for channel in x_beats for word in channel * (1 + twice_x)],
        grad_beats=[word for channel in grad_beats for word in channel * (1 + two_pass)],
        parameters=_words([words[name] for name in PARAMETERS[mode]]),
        output_beats=channels * beats,
        result_words=channels * len(RESULTS[mode]),
    )
    return BaselineLayer(
        mode=mode, shape=x.shape, lanes=lanes, two_pass=two_pass, run=run, format=fmt, output=output,
        results={name: found[name] for name in RESULTS[mode]},
    )  # fmt: skip


def compare_baseline(layer: BaselineLayer, result: RunResult, *, word_bits: int) -> str | None:
    """None if the machine did, bit for bit, what the model does; else where first. `word_bits`: of an output word."""
    if result.two_pass is not None and result.two_pass != layer.two_pass:
        return f"{layer.mode}: hardware says two passes is {result.two_pass}, not {layer.two_pass}"
    got = _output_words(layer, result, word_bits)
    padded = np.pad(encode_floats(layer.output, layer.format),
                    ((0, 0), (0, -layer.elements % layer.lanes)))  # fmt: skip
    if (got != padded).any():
        channel, element = (int(index) for index in np.argwhere(got != padded)[0])
        kind = " (padding)" if element >= layer.elements else ""
        values = [float(decode_floats(words[channel, element : element + 1], layer.format)[0])
                  for words in (got, padded)]  # fmt: skip
        return (
            f"{layer.mode}: {np.count_nonzero(got != padded)} of {got.size} words differ; the first is channel"
            f" {channel}, element {element}{kind}: hardware {int(got[channel, element]):x} ({values[0]:.9g}),"
            f" model {int(padded[channel, element]):x} ({values[1]:.9g})"
        )
    ends = [(index + 1) % layer.beats_per_channel == 0 for index in range(len(result.last))]
    if result.last != ends:
        first = [last == end for last, end in zip(result.last, ends, strict=True)].index(False)
        return f"{layer.mode}: `last` is wrong at beat {first}"
    wanted = _words(list(layer.results.values()))
    for index, (word, want) in enumerate(zip(result.results, wanted, strict=True)):
        if word != want:
            channel, name = divmod(index, len(layer.results))
            return f"{layer.mode}: {list(layer.results)[name]} of channel {channel} is {word:08x}, not {want:08x}"
    return None


def decode_output(layer: BaselineLayer, result: RunResult, *, word_bits: int) -> Float64:
    """The tensor (N, C, *spatial) that the machine put out."""
    flat = decode_floats(_output_words(layer, result, word_bits), layer.format)[:, : layer.elements]
    batch, channels, *spatial = layer.shape
    return np.ascontiguousarray(np.moveaxis(flat.reshape(channels, batch, *spatial), 0, 1))


def _flat(tensor: NDArray[Any], fmt: FloatFormat) -> Float64:
    """(C, elements), rounded to the format."""
    return round_wide(np.moveaxis(np.asarray(tensor, np.float64), 1, 0).reshape(tensor.shape[1], -1), fmt)


def _beats(values: Float64, fmt: FloatFormat, lanes: int, rng: np.random.Generator | None) -> list[list[int]]:
    """The beats of each channel."""
    channels, elements = values.shape
    words = np.pad(encode_floats(values, fmt), ((0, 0), (0, -elements % lanes)))
    if rng is not None:
        words[:, elements:] = rng.integers(0, 1 << fmt.bits, words[:, elements:].shape)
    bits = (words.reshape(channels, -1, lanes, 1) >> np.arange(fmt.bits) & 1).astype(np.uint8)
    packed = np.packbits(bits.reshape(channels, -1, lanes * fmt.bits), axis=-1, bitorder="little")
    return [[int.from_bytes(word.tobytes(), "little") for word in channel] for channel in packed]


def _output_words(layer: BaselineLayer, result: RunResult, word_bits: int) -> Int:
    """(C, elements and padding)."""
    mask = (1 << word_bits) - 1
    words = [word >> lane * word_bits & mask for word in result.output for lane in range(layer.lanes)]
    return np.array(words, np.int64).reshape(layer.channels, -1)


def _word(value: float) -> int:
    return int(encode_floats(np.asarray(value), SINGLE))


def _words(columns: Sequence[Float64]) -> list[int]:
    """float32 words, those of channel 0 first."""
    return [_word(float(value)) for row in zip(*columns, strict=True) for value in row]
