"""Runs the golden model and the oracle on a `Case` and finds the first public result in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import oracle
from numpy.typing import NDArray
from stimulus import Case, case, to_columns

from lightnorm_golden import BlockFormat, Blocks, NormSpec, backward, decode, forward, host_constants, infer, quantize

Fields = dict[str, NDArray[Any]]


def exact_float(value: Fraction) -> float:
    """A rational that must be a float64, as one."""
    number = float(value)
    assert Fraction(number) == value, f"{value} is no float64"
    return number


def exact_floats(values: Sequence[Fraction]) -> NDArray[np.float64]:
    return np.array([exact_float(value) for value in values])


def oracle_format(fmt: BlockFormat) -> oracle.Format:
    return oracle.Format(fmt.exp_bits, fmt.man_bits, fmt.block_size)


def oracle_of(spec: NormSpec) -> oracle.Oracle:
    return oracle.Oracle(
        oracle_format(spec.activation), oracle_format(spec.gradient), spec.coef_man_bits, spec.scale_man_bits, spec.gain
    )


def expected_blocks(prefix: str, channels: Sequence[Sequence[oracle.Block]]) -> Fields:
    return {
        f"{prefix} shared_exp": np.array([[block.shared_exp for block in blocks] for blocks in channels]),
        f"{prefix} sign": np.array([[block.sign for block in blocks] for blocks in channels], bool),
        f"{prefix} significand": np.array([[block.significand for block in blocks] for blocks in channels]),
    }


def actual_blocks(prefix: str, blocks: Blocks) -> Fields:
    return {
        f"{prefix} shared_exp": blocks.shared_exp,
        f"{prefix} sign": blocks.sign,
        f"{prefix} significand": blocks.significand,
    }


FORWARD = ("mean", "sigma", "invstd", "scale", "shift", "running_mean", "running_sigma")
INFERENCE = ("invstd", "scale", "shift")


@cache
def expected(seed: int) -> Fields:
    """The oracle's results for the case of a seed, per channel; range_gain first."""
    layer = case(seed)
    reference = oracle_of(layer.spec)
    rows = zip(to_columns(layer.x), to_columns(layer.grad_output), strict=True)
    host = [layer.weight, layer.bias, layer.running_mean, layer.running_sigma]
    trained, inferred, differentiated = [], [], []
    for (x, grad_output), weight, bias, mean, sigma in zip(rows, *(map(float, values) for values in host), strict=True):
        column = [float(value) for value in x]
        trained.append(
            reference.forward(
                column, weight, bias, eps=layer.eps, momentum=layer.momentum, chunks=layer.chunks, running_mean=mean,
                running_sigma=sigma,
            )
        )  # fmt: skip
        inferred.append(reference.infer(column, weight, bias, mean, sigma, eps=layer.eps))
        differentiated.append(
            reference.backward(column, [float(g) for g in grad_output], weight, eps=layer.eps, chunks=layer.chunks)
        )
    first = trained[0]
    return {
        "range_gain": np.array(exact_float(first.range_gain)),
        "inv_count": np.array(exact_float(first.inv_count)),
        "chunk_blocks": np.array(first.chunk_blocks),
        "chunks": np.array(first.chunk_count),
        **expected_blocks("input", [channel.input_blocks for channel in trained]),
        **expected_blocks("grad_output", [channel.grad_output_blocks for channel in differentiated]),
        **{f"forward {name}": exact_floats([getattr(channel, name) for channel in trained]) for name in FORWARD},
        **expected_blocks("forward", [channel.blocks for channel in trained]),
        "forward output": np.array([exact_floats(channel.output) for channel in trained]),
        **{f"infer {name}": exact_floats([getattr(channel, name) for channel in inferred]) for name in INFERENCE},
        **expected_blocks("infer", [channel.blocks for channel in inferred]),
        "infer output": np.array([exact_floats(channel.output) for channel in inferred]),
        "backward grad_weight": exact_floats([channel.grad_weight for channel in differentiated]),
        "backward grad_bias": exact_floats([channel.grad_bias for channel in differentiated]),
        **expected_blocks("backward", [channel.blocks for channel in differentiated]),
        "backward grad_input": np.array([exact_floats(channel.grad_input) for channel in differentiated]),
    }


def actual(layer: Case) -> Fields:
    """The golden model's results for a case, under the same names."""
    spec = layer.spec
    host = host_constants(layer.x.size // layer.x.shape[1], layer.chunks, spec)
    running: dict[str, Any] = {"running_mean": layer.running_mean, "running_sigma": layer.running_sigma}
    settings: dict[str, Any] = {"eps": layer.eps, "momentum": layer.momentum, "chunks": layer.chunks}
    trained = forward(layer.x, layer.weight, layer.bias, spec=spec, **settings, **running)
    inferred = infer(layer.x, layer.weight, layer.bias, **running, spec=spec, eps=layer.eps)
    grads = backward(layer.x, layer.grad_output, layer.weight, spec=spec, eps=layer.eps, chunks=layer.chunks)
    return {
        "range_gain": np.array(host.range_gain),
        "inv_count": np.array(host.inv_count),
        "chunk_blocks": np.array(host.chunk_blocks),
        "chunks": np.array(host.chunks),
        **actual_blocks("input", quantize(to_columns(layer.x), spec.activation)),
        **actual_blocks("grad_output", quantize(to_columns(layer.grad_output), spec.gradient)),
        **{f"forward {name}": getattr(trained, name) for name in FORWARD},
        **actual_blocks("forward", trained.blocks),
        "forward output": to_columns(trained.output),
        **{f"infer {name}": getattr(inferred, name) for name in INFERENCE},
        **actual_blocks("infer", inferred.blocks),
        "infer output": to_columns(inferred.output),
        "backward grad_weight": grads.grad_weight,
        "backward grad_bias": grads.grad_bias,
        **actual_blocks("backward", grads.blocks),
        "backward grad_input": to_columns(grads.grad_input),
    }


def differences(got: NDArray[Any], want: NDArray[Any]) -> NDArray[np.bool_]:
    """Where two results differ; a negative zero is a difference, for nothing may emit one."""
    if np.issubdtype(got.dtype, np.floating):
        return np.asarray((got != want) | (np.signbit(got) & (got == 0)))
    return np.asarray(got != want)


@dataclass(frozen=True)
class Mismatch:
    """The first difference of a case, `field` by its name in `expected`."""

    field: str
    message: str


def block_line(name: str, fields: Fields, prefix: str, fmt: BlockFormat, channel: int, block: int) -> str:
    """One block with its decoded values."""
    at = slice(channel, channel + 1), slice(block, block + 1)
    words = Blocks(fmt, *(fields[f"{prefix} {part}"][at] for part in ("shared_exp", "sign", "significand")))
    return f"  {name:6} block: shared_exp {int(words.shared_exp[0, 0])}, values {decode(words)[0].tolist()}"


def describe(layer: Case, field: str, got: Fields, want: Fields, bad: NDArray[np.intp]) -> str:
    """What a failure prints: the words that differ, the channel they are in, and for a block its decoded values."""
    index = tuple(map(int, bad[0]))
    lines = [
        f"{field} differs at {len(bad)} of {want[field].size} places, the first is {index}:",
        f"  model  {got[field][index]!r}",
        f"  oracle {want[field][index]!r}",
        str(layer),
    ]
    if index:
        channel = index[0]
        host = {
            name: float(getattr(layer, name)[channel]) for name in ("weight", "bias", "running_mean", "running_sigma")
        }
        lines.append(f"  channel {channel} ({layer.kinds[channel]}): {host}")
        lines.append(f"  oracle { ({name: float(want[f'forward {name}'][channel]) for name in FORWARD}) }")
    if len(index) == 3:
        prefix = field.split()[0]
        fmt = layer.spec.gradient if prefix in ("grad_output", "backward") else layer.spec.activation
        lines += [
            block_line(name, fields, prefix, fmt, *index[:2]) for name, fields in (("model", got), ("oracle", want))
        ]
    return "\n".join(lines)


def first_mismatch(layer: Case, want: Fields) -> Mismatch | None:
    """None, or the first field that differs."""
    with np.errstate(all="raise", under="ignore"):  # the model may not lean on overflow or on an invalid operation
        got = actual(layer)
    for field, values in want.items():
        if got[field].shape != values.shape:
            return Mismatch(field, f"{field}: shape {got[field].shape}, oracle {values.shape}\n{layer}")
        bad = np.argwhere(differences(got[field], values))
        if len(bad):
            return Mismatch(field, describe(layer, field, got, want, bad))
    return None
