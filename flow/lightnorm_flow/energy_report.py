"""The energy of a configuration on real activations and gradients, logic, memories and traffic each by itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightnorm.config import Config
from lightnorm.generate import TOP, generate
from lightnorm_sim import RunResult, SimulationError, read_ports
from lightnorm_sim.layer import Layer, compare

from .console import Step
from .energy import KINDS, Assumptions, measure_energy
from .files import write_json
from .report import CHUNKS, EPS, FILES, MODES
from .simulate import bits_moved, load_tensors, prepare_layers

__all__ = ["energy_rows", "energy_steps", "make_energy", "stage_rows"]


def energy_steps(config: Config) -> int:
    """How many steps `make_energy` takes."""
    return 4 + sum(config.has(mode) for mode in MODES)


def make_energy(
    config: Config, out_dir: Path, *, data: Path, library: Path, given: Assumptions, traffic_pj: float, step: Step
) -> dict[str, Any]:
    """Generate, map, simulate and measure into `out_dir`; writes energy.json and returns it.

    `traffic_pj` is the energy off chip, per bit in or out. Raises ValueError, ToolError, SimulationError.
    """
    if not 0 <= traffic_pj < float("inf"):
        raise ValueError(f"traffic_pj_per_bit must be a number of at least 0, not {traffic_pj}")
    tensors = load_tensors(config, {key: data / file for key, file in FILES.items()}, option="--data")
    modes = [mode for mode in MODES if config.has(mode)]
    prepared = prepare_layers(config, modes, tensors, eps=EPS, momentum=0.1, chunks=CHUNKS)
    layers = dict(zip(modes, prepared, strict=True))
    step("generating the Verilog")
    description = generate(config, out_dir)
    ports = read_ports(out_dir / f"{TOP}.json")
    result = measure_energy(
        out_dir / f"{TOP}.v",
        ports=ports,
        top=TOP,
        library=library,
        lanes=config.lanes,
        runs={mode: layer.run for mode, layer in layers.items()},
        check=_checker(layers),
        out_dir=out_dir / "gates",
        build_dir=out_dir / "sim",
        given=given,
        step=step,
    )
    for mode, run in result["runs"].items():
        run["bits_per_element"] = bits_moved(layers[mode], ports) / run["elements"]
        run["traffic_pj_per_element"] = run["bits_per_element"] * traffic_pj
    result = {
        "hash": description["hash"],
        "config": description["config"],
        "lanes": config.lanes,
        "data": str(data),
        "traffic_pj_per_bit": traffic_pj,
        **result,
    }
    write_json(out_dir / "energy.json", result)
    return result


def energy_rows(result: dict[str, Any]) -> list[list[str]]:
    """A row for each part, a column for each run: pJ per element."""
    runs = result["runs"].values()
    rows = [[f"logic: {kind}", *(f"{run['logic_pj_per_element'][kind]:.4g}" for run in runs)] for kind in KINDS]
    rows.append(["logic", *(f"{run['logic_pj_per_element']['total']:.3f}" for run in runs)])
    rows.append(["of it clock", *(f"{run['clock_pj_per_element']:.3f}" for run in runs)])
    rows.append(["memories (estimate)", *(f"{run['memory_pj_per_element']:.3f}" for run in runs)])
    rows.append(["traffic (estimate)", *(f"{run['traffic_pj_per_element']:.1f}" for run in runs)])
    rows.append(["cycles", *(f"{run['cycles']:,}" for run in runs)])
    return rows


def stage_rows(result: dict[str, Any]) -> list[list[str]]:
    """A row for each stage, the largest first, a column for each run: pJ per element of its logic."""
    runs = list(result["runs"].values())
    totals = {stage: [run["stages"][stage]["total"] for run in runs] for stage in runs[0]["stages"]}
    ordered = sorted(totals.items(), key=lambda item: -sum(item[1]))
    return [[stage, *(f"{value:.3f}" for value in values)] for stage, values in ordered]


def _checker(layers: dict[str, Layer]) -> Callable[[str, RunResult], None]:
    def check(mode: str, result: RunResult) -> None:
        if mismatch := compare(layers[mode], result):
            raise SimulationError(mismatch)

    return check
