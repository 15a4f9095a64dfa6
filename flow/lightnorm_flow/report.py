"""The report of a configuration: is it right, how fast, how precise, how large."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightnorm.config import Config
from lightnorm.generate import TOP, generate
from lightnorm_golden import BlockFormat, NormSpec, decode, quantize
from lightnorm_golden.reference import range_batch_norm, range_batch_norm_backward, signal_to_noise_db
from lightnorm_sim.layer import Tensors

from .console import Step, number
from .files import write_json, write_text
from .machine import conventional, lightnorm
from .simulate import Outcome, load_tensors, prepare_layers, simulate
from .synth import synthesize

__all__ = ["CHUNKS", "EPS", "FILES", "MOMENTUM", "exact_output", "make_report", "report_rows", "report_steps", "snr_db"]

CHUNKS, EPS, MOMENTUM = 16, 1e-5, 0.1
FILES = {
    "x": "activation.npy",
    "weight": "weight.npy",
    "bias": "bias.npy",
    "running_mean": "running_mean.npy",
    "running_sigma": "running_sigma.npy",
    "grad": "grad_output.npy",
}
"""What the report takes of the folder of activations and gradients."""

MODES = ("train", "backward", "infer")
ERROR_BINS = 61

UNITS = {"logic_area_um2": "um^2", "luts": "LUTs", "transistors": "transistors"}
SIZES = {
    "cells": "cells",
    "ffs": "flip-flops",
    "logic_area_um2": "logic area, um^2",
    "logic_area_per_lane_um2": "logic area per lane, um^2",
    "transistors": "transistors (estimate)",
    "luts": "LUTs",
    "dsps": "DSPs",
    "brams": "block RAMs",
    "buffer_bits": "memory bits",
}


def report_steps(targets: list[str]) -> int:
    """How many steps `make_report` takes."""
    return 3 + len(targets)


def make_report(
    config: Config, name: str, out_dir: Path, *, data: Path, targets: list[str], simulator: str, step: Step
) -> dict[str, Any]:
    """Generate, simulate and synthesize into `out_dir`; writes report.md and report.json, returns the latter."""
    tensors = load_tensors(config, {key: data / file for key, file in FILES.items()}, option="--data")
    modes = [mode for mode in MODES if config.has(mode)]
    layers = prepare_layers(config, modes, tensors, eps=EPS, momentum=MOMENTUM, chunks=CHUNKS)
    step("generating the Verilog")
    description = generate(config, out_dir)
    outcomes = simulate(layers, out_dir, simulator=simulator, step=step)
    if wrong := [outcome.mismatch for outcome in outcomes if outcome.mismatch]:
        raise ValueError("\n".join(wrong))
    synths = []
    for target in targets:
        step(f"synthesizing for {Path(target).name}")
        folder = out_dir / "synth" / Path(target).name.removesuffix(".gz").removesuffix(".lib")
        folder.mkdir(parents=True, exist_ok=True)
        synths.append(synthesize(out_dir / f"{TOP}.v", top=TOP, target=target, out_dir=folder, lanes=config.lanes))
    fmt = config.spec.activation
    result = {
        "name": name,
        "hash": description["hash"],
        "config": description["config"],
        "format": str(fmt),
        "bits_per_element": fmt.bits_per_element,
        "lanes": config.lanes,
        "step_cycles": _step_cycles(outcomes),
        "data": str(data),
        "simulate": [
            {
                **_without(outcome.report, "results", "mismatch"),
                "snr_db": snr_db(config.spec, tensors, outcome.report["mode"], outcome.output),
                "arithmetic_snr_db": snr_db(
                    config.spec, _quantized(config, tensors), outcome.report["mode"], outcome.output
                ),
                "errors": _errors(config, tensors, outcome),
            }
            for outcome in outcomes
        ],
        "traffic": _traffic(config, modes),
        "synth": [_without(synth, "modules", "memories") for synth in synths],
        "tools": description["tools"],
    }
    write_json(out_dir / "report.json", result)
    write_text(out_dir / "report.md", _markdown(result))
    return result


def report_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The result as a table of two columns."""
    rows = [
        ("format", f"{result['format']}, {result['bits_per_element']:g} bits per element"),
        ("lanes", str(result["lanes"])),
    ]
    for run in result["simulate"]:
        mode = run["mode"]
        rows += [
            (f"{mode}: bits equal to the golden model", "all" if run["bit_exact"] else "NO"),
            (f"{mode}: elements", number(run["elements"])),
            (f"{mode}: beats", number(run["beats"])),
            (f"{mode}: cycles, first beat's latency", f"{number(run['cycles'])}, {number(run['latency'])}"),
            (f"{mode}: beats per cycle", f"{run['beats_per_cycle']:.4f}"),
            (f"{mode}: bits moved per element", f"{run['bits_per_element']:.2f}"),
            (f"{mode}: signal to noise, end to end", f"{run['snr_db']:.2f} dB"),
            (f"{mode}: signal to noise of the quantized input", f"{run['arithmetic_snr_db']:.2f} dB"),
        ]
    if result["step_cycles"]:
        rows.append(("training step (train, then backward): cycles", number(result["step_cycles"])))
    for synth in result["synth"]:
        rows += [(f"{synth['target']}: {SIZES[key]}", number(synth[key])) for key in SIZES if key in synth]
    return rows


def _traffic(config: Config, modes: list[str]) -> list[dict[str, Any]]:
    """Bits per element of every stream, of a channel that fits the buffer and of one that does not; beside FP32."""
    ours = lightnorm(config)
    return [
        {"machine": name, "mode": mode, "passes": passes, "bits": each.stream_bits(mode, passes)}
        for mode in modes
        for passes in ((1, 2) if mode != "infer" else (1,))
        for name, each in (("LightNorm", ours), ("FP32", conventional(ours)))
    ]


def _step_cycles(outcomes: list[Outcome]) -> int | None:
    """Cycles of a training step, None in a build that cannot take one."""
    cycles = {outcome.report["mode"]: outcome.report["cycles"] for outcome in outcomes}
    return cycles["train"] + cycles["backward"] if {"train", "backward"} <= cycles.keys() else None


def _without(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in keys}


def _quantized(config: Config, tensors: Tensors) -> Tensors:
    """The tensors as the machine gets them, in its formats."""

    def rounded(x: NDArray[Any], fmt: BlockFormat) -> NDArray[np.float64]:
        by_channel = np.moveaxis(x, 1, 0)
        flat = by_channel.reshape(len(by_channel), -1)
        values = decode(quantize(flat, fmt), flat.shape[1])
        return np.moveaxis(values.reshape(by_channel.shape), 0, 1)

    assert tensors.grad is not None  # FILES has all of them
    spec = config.spec
    return replace(tensors, x=rounded(tensors.x, spec.activation), grad=rounded(tensors.grad, spec.gradient))


def snr_db(spec: NormSpec, tensors: Tensors, mode: str, output: NDArray[Any]) -> float:
    """Signal to noise of an output against range batch norm of the tensors in float64, or its derivative."""
    return signal_to_noise_db(exact_output(spec, tensors, mode), output.astype(np.float64))


def exact_output(spec: NormSpec, tensors: Tensors, mode: str) -> NDArray[np.float64]:
    """Range batch norm in float64, or its derivative."""
    x = tensors.x.astype(np.float64)
    weight, bias = _float64(tensors.weight), _float64(tensors.bias)
    settings: Any = {"block_size": spec.activation.block_size, "chunks": CHUNKS, "eps": EPS, "gain": spec.gain}
    if mode == "train":
        return range_batch_norm(x, weight, bias, **settings)
    if mode == "backward":
        return range_batch_norm_backward(x, _float64(tensors.grad), weight, **settings)
    shape = (1, -1, *[1] * (x.ndim - 2))
    scale = weight / (_float64(tensors.running_sigma) + EPS)
    centered: NDArray[np.float64] = x - _float64(tensors.running_mean).reshape(shape)
    return centered * scale.reshape(shape) + bias.reshape(shape)


def _errors(config: Config, tensors: Tensors, outcome: Outcome) -> dict[str, Any]:
    """How often an error of the output is how large, in units of the exact output's root mean square: counts of equal
    bins over `limit` to both sides; larger errors are in the outermost bins."""
    spec, mode = config.spec, outcome.report["mode"]
    errors, limit = {}, 0.0
    for name, given in (("end_to_end", tensors), ("arithmetic", _quantized(config, tensors))):
        exact = exact_output(spec, given, mode)
        errors[name] = (outcome.output - exact) / np.sqrt(np.mean(exact**2))
        limit = max(limit, 4 * float(np.std(errors[name])))
    edges = np.linspace(-limit, limit, ERROR_BINS + 1)
    counts = {name: np.histogram(np.clip(error, -limit, limit), edges)[0] for name, error in errors.items()}
    return {"limit": limit, **{name: [int(count) for count in each] for name, each in counts.items()}}


def _float64(values: NDArray[Any] | None) -> NDArray[np.float64]:
    assert values is not None  # FILES has all of them
    return values.astype(np.float64)


def _markdown(result: dict[str, Any]) -> str:
    shape = " x ".join(map(str, result["simulate"][0]["shape"])) if result["simulate"] else ""
    lines = [
        f"# LightNorm `{result['name']}` ({result['hash']})",
        "",
        "| | |",
        "|---|---:|",
        *(f"| {label} | {value} |" for label, value in report_rows(result)),
        "",
        f"Simulated: the emitted Verilog, on the tensors of `{result['data']}` ({shape}), every output bit compared"
        " with the golden model. Beats per cycle: output beats over the cycles from the first to the last one. Bits"
        " moved: all beats and words in and out. Signal to noise: against range batch norm and its derivative in"
        f" float64 ({CHUNKS} chunks). Memories"
        " (the buffer) are not in the logic; their bits are counted apart, and FPGA targets map them to block RAM.",
    ]
    for synth in result["synth"]:
        unit = UNITS[synth["stage_unit"]]
        total = sum(synth["stages"].values()) or 1
        ordered = sorted(synth["stages"].items(), key=lambda item: -item[1])
        lines += [
            "",
            f"## Stages on {synth['target']} ({synth['tool']})",
            "",
            f"| stage | {unit} | share |",
            "|---|---:|---:|",
            *(f"| {stage} | {number(size)} | {size / total:.1%} |" for stage, size in ordered),
        ]
    tools = ", ".join(f"{name} {version}" for name, version in result["tools"].items())
    return "\n".join([*lines, "", f"Made by {tools}.", ""])
