"""Simulates a configuration's Verilog on tensors and holds every bit against the golden model."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightnorm.config import Config
from lightnorm_golden.forward import check_channels, check_tensor
from lightnorm_sim import STALL_PATTERNS, Ports, build, read_ports
from lightnorm_sim.layer import Layer, Tensors, compare, output_tensor, prepare, speed

from .console import Step
from .files import load_tensor

__all__ = [
    "MODES", "Outcome", "bits_moved", "check_mode", "compare_with_torch", "load_tensors", "prepare_layers", "simulate",
    "torch_layer",
]  # fmt: skip

MODES = {"train": ("train",), "infer": ("infer",), "backward": ("backward",), "step": ("train", "backward")}
"""Runs of each mode of the command; a step is a layer's training step, forward and then backward."""

OPTIONS = {"x": "--input", "grad": "--grad"}


@dataclass(frozen=True)
class Outcome:
    """Of one layer: what simulate.json holds of it, the machine's output, and what was wrong."""

    report: dict[str, Any]
    output: NDArray[Any]
    mismatch: str | None


def check_mode(config: Config, mode: str, files: Mapping[str, Path | None]) -> None:
    """Raise ValueError if the configuration or the files given do not fit the mode."""
    runs = MODES[mode]
    if missing := [name for name in runs if not config.has(name)]:
        built = ", ".join(config.implementation.passes)
        raise ValueError(
            f"--mode {mode} needs {' and '.join(missing)}, which this configuration is built without"
            f" (implementation.passes has {built})"
        )
    if "backward" in runs and files.get("grad") is None:
        raise ValueError(f"--mode {mode} needs the gradient of the layer's output: give --grad FILE")
    if "backward" not in runs and files.get("grad") is not None:
        raise ValueError(f"--mode {mode} takes no --grad; it belongs to backward and step")


def load_tensors(config: Config, files: Mapping[str, Path | None], *, option: str | None = None) -> Tensors:
    """Read and check the arrays; `files` is by the names of `Tensors`. Raises ValueError.

    `option` is the command's option that led to the files; without it each has its own.
    """
    loaded: dict[str, NDArray[Any]] = {}
    for name, path in files.items():
        if path is None:
            continue
        source = option or OPTIONS.get(name, f"--{name.replace('_', '-')}")
        array, named = load_tensor(source, path), f"{source} {path}"
        if name in OPTIONS:
            check_tensor(named, array, loaded["x"].shape if name == "grad" else None)
        else:
            check_channels(named, array, loaded["x"].shape[1], 0.0, config.spec)
        loaded[name] = array
    sigma = loaded.get("running_sigma")
    if sigma is not None and (sigma < 0).any():
        bad = int(np.flatnonzero(sigma < 0)[0])
        named = f"{option or '--running-sigma'} {files['running_sigma']}"
        raise ValueError(f"{named} must not be negative; channel {bad} is {sigma[bad]}")
    return Tensors(**loaded)


def torch_layer(
    checkpoint: Path | None, layer: str | None, files: Mapping[str, Path | None], folder: Path
) -> dict[str, Path]:
    """Files, written to the folder, of a checkpoint's layer, by the names of `Tensors`. Raises ValueError."""
    if checkpoint is None or layer is None:
        raise ValueError("--from-torch and --layer go together: a checkpoint, and the name of a layer in it")
    if given := [name for name in ("weight", "bias", "running_mean", "running_sigma") if files.get(name) is not None]:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"--from-torch already gives what {options} would")
    exported: dict[str, Path] = _torch().export_layer(checkpoint, layer, folder)
    return exported


def compare_with_torch(
    outcomes: Sequence[Outcome], config: Config, tensors: Tensors, *, eps: float, momentum: float, chunks: int
) -> None:
    """Hold every output against the PyTorch layer's: `equals_torch` of its report."""
    runs = [outcome.report["mode"] for outcome in outcomes]
    expected = _torch().run_layer(runs, vars(tensors), config.spec, eps=eps, momentum=momentum, chunks=chunks)
    for outcome, values in zip(outcomes, expected, strict=True):
        outcome.report["equals_torch"] = bool(np.array_equal(outcome.output, values))


def _torch() -> Any:
    """The bridge to PyTorch, which is an optional extra."""
    try:
        from lightnorm_torch import checkpoint
    except ModuleNotFoundError as error:
        raise ValueError(f"--from-torch needs PyTorch, pip install 'lightnorm[torch]': {error}") from None
    return checkpoint


def prepare_layers(
    config: Config, modes: Sequence[str], tensors: Tensors, *, eps: float, momentum: float, chunks: int
) -> list[Layer]:
    return [prepare(config, mode, tensors, eps=eps, momentum=momentum, chunks=chunks) for mode in modes]


def simulate(
    layers: Sequence[Layer],
    machine: Path,
    *,
    simulator: str = "verilator",
    stalls: str = "none",
    seed: int = 0,
    waves: bool = False,
    gates: Path | None = None,
    step: Step = lambda message: None,
) -> list[Outcome]:
    """Run the layers back to back on the Verilog in the folder `machine`, or on its netlist `gates`.

    Takes two steps. With `waves` the folder gets waves.vcd. Raises ToolError, and SimulationError if the machine breaks
    a rule of its streams.
    """
    if stalls not in STALL_PATTERNS:
        raise ValueError(f"--stalls must be {', '.join(STALL_PATTERNS)}, not {stalls!r}")
    step(f"compiling the {'netlist' if gates else 'Verilog'} with {simulator}")
    ports = read_ports(machine / "lightnorm.json")
    built = build(gates or machine / "lightnorm.v", ports, simulator, machine / "sim", waves=waves)
    beats = sum(layer.run.output_beats for layer in layers)
    step(f"simulating {beats:,} beats with {simulator}")
    directory = machine / "sim" / "waves" if waves else None
    results = built.run(
        [layer.run for layer in layers],
        stalls=STALL_PATTERNS[stalls],
        seed=seed,
        timeout=600 + beats / 50,
        directory=directory,
    )
    if directory is not None:
        (directory / "waves.vcd").replace(machine / "waves.vcd")
        shutil.rmtree(directory)
    outcomes = []
    for layer, result in zip(layers, results, strict=True):
        mismatch = compare(layer, result)
        report = {
            "bit_exact": mismatch is None,
            "mode": layer.mode,
            "simulator": simulator,
            "stalls": stalls,
            "seed": seed,
            "shape": list(layer.shape),
            "channels": layer.channels,
            **asdict(speed(layer, result)),
            "bits_per_element": bits_moved(layer, ports) / (layer.elements * layer.channels),
            "two_pass": layer.two_pass,
            "mismatch": mismatch,
            "results": _results(layer, result.results),
        }
        outcomes.append(Outcome(report, output_tensor(layer, result), mismatch))
    return outcomes


def bits_moved(layer: Layer, ports: Ports) -> int:
    """Bits of a run, in and out: beats as long as they are (an output beat as its format is), per-channel words."""
    run, fmt = layer.run, layer.blocks.format
    bits = run.output_beats * layer.lanes // fmt.block_size * fmt.block_bits
    bits += 32 * (len(run.parameters) + run.result_words)
    for name, words in (("i_x__payload", run.x_beats), ("i_grad__payload", run.grad_beats)):
        bits += len(words) * ports[name][1] if words else 0
    return bits


def _results(layer: Layer, words: Sequence[int]) -> dict[str, list[float]]:
    """The machine's result words by name, a value per channel."""
    if not layer.results:
        return {}
    values = np.array(words, np.uint32).view(np.float32).reshape(layer.channels, -1)
    return {name: [float(value) for value in values[:, index]] for index, name in enumerate(layer.results)}
