"""What the batch norms of a network cost: cycles, utilization, buffer, traffic and energy of a training step."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightnorm.config import Config
from lightnorm_golden.spec import MAX_ELEMENTS

from .console import PlainTable, number
from .files import markdown_table, write_json, write_text
from .layers import NormLayer
from .machine import Machine, Timing, conventional, lightnorm

__all__ = ["DRAM_PJ_PER_BIT", "EnergyPerElement", "check_plan", "make_plan", "plan_notes", "plan_tables", "read_energy"]

DRAM_PJ_PER_BIT = 20.0
"""Of off-chip memory: 1.3 nJ for 64 bits, the lower end of what M. Horowitz gives for DRAM in "Computing's energy
problem (and what we can do about it)", ISSCC 2014, figure 1.1.9."""

MAX_CHANNELS = (1 << 16) - 1
MACHINES = {"lightnorm": "LightNorm", "fp32": "FP32"}
DIRECTIONS = {"train": "forward", "infer": "forward", "backward": "backward"}

EnergyPerElement = Mapping[str, Mapping[str, float]]
"""pJ of the logic, by machine ("lightnorm", "fp32") and direction."""


def read_energy(path: Path, config: Config) -> tuple[EnergyPerElement, str]:
    """Energy per element of the configuration and of FP32 in what `lightnorm compare` wrote, on the first target that
    has both, or the first that has one; and why any is missing."""
    command = "lightnorm compare"
    try:
        entries = json.loads(path.read_text())
        keys = ("target", "name", "hash", "energy_pj_per_element")
        designs = [[entry[key] for key in keys] for entry in entries]
    except FileNotFoundError:
        return {}, f"there is no {path}, which {command} writes"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--compare {path} is not a file that {command} wrote: {error}") from None
    targets: dict[str, dict[str, Mapping[str, float]]] = {}
    for target, design, digest, energy in designs:
        which = "lightnorm" if digest == config.hash else "fp32" if design == "l2-fp32" else None
        if which and all(value is not None for value in energy.values()):
            targets.setdefault(target, {})[which] = energy
    found = max(targets.values(), key=len, default={})
    missing = [name for name in ("lightnorm", "fp32") if name not in found]
    return found, f"{path} has no energy of {' and '.join(missing)}" if missing else ""


def make_plan(
    config: Config,
    description: Mapping[str, Any],
    title: str,
    layers: Sequence[NormLayer],
    out_dir: Path,
    *,
    batch: int,
    energy: EnergyPerElement,
    energy_missing: str,
    dram_pj_per_bit: float = DRAM_PJ_PER_BIT,
) -> dict[str, Any]:
    """Plan a network for the configuration, of which `description` is what `generate` returned, and for conventional
    FP32 with as many lanes and a buffer of as many elements; writes plan.json and plan.md, returns the former."""
    ours, timing = lightnorm(config), Timing.of(description)
    machines = {name: Machine.of(each, timing) for name, each in (("lightnorm", ours), ("fp32", conventional(ours)))}
    modes = [mode for mode in ("train", "backward") if config.has(mode)] or ["infer"]
    rows = []
    for layer in layers:
        elements = layer.elements(batch)
        row: dict[str, Any] = {
            "name": layer.name, "channels": layer.channels, "spatial": list(layer.spatial),
            "elements_per_channel": elements,
        }  # fmt: skip
        for mode in modes:
            row[DIRECTIONS[mode]] = {
                name: _cost(each, mode, layer.channels, elements, energy.get(name, {}), dram_pj_per_bit)
                for name, each in machines.items()
            }
        rows.append(row)
    directions = [DIRECTIONS[mode] for mode in modes]
    plan = {
        "title": title,
        "hash": config.hash,
        "format": str(config.spec.activation),
        "lanes": config.lanes,
        "batch": batch,
        "buffer_elements": config.buffer_beats * config.lanes,
        "dram_pj_per_bit": dram_pj_per_bit,
        "energy_missing": energy_missing,
        "directions": directions,
        "total": {
            direction: {name: _total([row[direction][name] for row in rows], config.lanes) for name in machines}
            for direction in directions
        },
        "layers": rows,
    }
    write_json(out_dir / "plan.json", plan)
    write_text(out_dir / "plan.md", _markdown(plan))
    return plan


def check_plan(layers: Sequence[NormLayer], *, batch: int, dram_pj_per_bit: float) -> None:
    """Raise ValueError for what no machine can do."""
    if batch < 1:
        raise ValueError(f"--batch must be at least 1, not {batch}")
    if not dram_pj_per_bit >= 0:
        raise ValueError(f"--dram must be at least 0 pJ per bit, not {dram_pj_per_bit}")
    for layer in layers:
        elements = layer.elements(batch)
        if elements > MAX_ELEMENTS:
            raise ValueError(
                f"{layer.name} has {elements:,} elements per channel at batch {batch}; the machine takes at most"
                f" {MAX_ELEMENTS:,}"
            )
        if elements < 2:
            raise ValueError(f"{layer.name} has one element per channel; training needs more")
        if layer.channels > MAX_CHANNELS:
            raise ValueError(f"{layer.name} has {layer.channels:,} channels; the machine takes at most {MAX_CHANNELS}")


def _cost(
    machine: Machine, mode: str, channels: int, elements: int, energy: Mapping[str, float], dram_pj_per_bit: float
) -> dict[str, Any]:
    count, per_element = channels * elements, energy.get(DIRECTIONS[mode])
    bits = machine.bits_moved(mode, channels, elements)
    return {
        "passes": 2 if machine.two_pass(mode, elements) else 1,
        "elements": count,
        "cycles": machine.cycles(mode, channels, elements),
        "utilization": machine.utilization(mode, channels, elements),
        "buffer_need_bits": machine.buffer_need(mode, elements),
        "bits_moved": bits,
        "traffic_uj": bits * dram_pj_per_bit * 1e-6,
        "logic_uj": None if per_element is None else count * per_element * 1e-6,
    }


def _total(costs: Sequence[Mapping[str, Any]], lanes: int) -> dict[str, Any]:
    total: dict[str, Any] = {
        key: None if any(cost[key] is None for cost in costs) else sum(cost[key] for cost in costs)
        for key in ("elements", "cycles", "bits_moved", "traffic_uj", "logic_uj")
    }
    total["passes"] = max(cost["passes"] for cost in costs)
    total["utilization"] = total["elements"] / (lanes * total["cycles"])
    total["buffer_need_bits"] = max(cost["buffer_need_bits"] for cost in costs)
    return total


def plan_tables(plan: Mapping[str, Any], *, brief: bool) -> list[PlainTable]:
    """Title, header and rows: of the totals, then of the layers in each direction. `brief` is for a terminal."""
    costs = [(f"{direction}, {label}", plan["total"][direction][name])
             for direction in plan["directions"] for name, label in MACHINES.items()]  # fmt: skip
    labels = ("cycles", "utilization", "buffer, KiB", "MB moved")
    cells = [_cells(cost) for _, cost in costs]
    rows = [[label, *(cell[index] for cell in cells)] for index, label in enumerate(labels)]
    rows.append(["mJ of traffic", *(f"{cost['traffic_uj'] / 1e3:,.2f}" for _, cost in costs)])
    logic = ("?" if cost["logic_uj"] is None else f"{cost['logic_uj'] / 1e3:,.2f}" for _, cost in costs)
    rows.append(["mJ of logic", *logic])
    tables = [(plan["title"], ["", *(label for label, _ in costs)], rows)]
    for direction in plan["directions"]:
        rows = []
        for layer in plan["layers"]:
            ours, fp32 = (_cells(layer[direction][name]) for name in MACHINES)
            shape = "x".join(map(str, (layer["channels"], *layer["spatial"])))
            rows.append([layer["name"], shape, *ours[:2], *(() if brief else (ours[2], fp32[2])), ours[3], fp32[3]])
        held = [] if brief else ["buffer, KiB", "FP32"]
        tables.append((direction, ["layer", "shape", "cycles", "util.", *held, "MB", "FP32"], rows))
    return tables


def _cells(cost: Mapping[str, Any]) -> list[str]:
    """Cycles, starred where a channel needs two passes; utilization; buffer; traffic."""
    cycles = number(cost["cycles"]) + "*" * (cost["passes"] == 2)
    held, moved = f"{cost['buffer_need_bits'] / 8192:,.1f}", f"{cost['bits_moved'] / 8e6:,.2f}"
    return [cycles, f"{cost['utilization']:.1%}", held, moved]


def plan_notes(plan: Mapping[str, Any]) -> list[str]:
    """What must be known to read the rows."""
    energy = f"Energy: {plan['dram_pj_per_bit']:g} pJ per bit moved"
    if plan["energy_missing"]:
        energy += f"; without that of the logic, as {plan['energy_missing']}"
    else:
        energy += ", and the logic's"
    return [
        f"One beat of {plan['lanes']} elements per cycle and a buffer of {number(plan['buffer_elements'])} elements,"
        " for both machines. A star: a channel does not fit the buffer and needs two passes; in a total, any layer."
        " Utilization (util.): elements per cycle and lane. MB: moved in and out.",
        "Buffer: what holds a channel of the layer; in a total, the largest. FP32 is conventional (L2) batch norm,"
        " which in backward holds x and the gradient.",
        f"{energy}.",
    ]


def _markdown(plan: Mapping[str, Any]) -> str:
    lines = [f"# {plan['title']}, on LightNorm {plan['format']} ({plan['hash']})"]
    for title, header, rows in plan_tables(plan, brief=False):
        lines += ["", f"## {title}", ""] * (title != plan["title"]) + [""] * (title == plan["title"])
        lines += markdown_table(header, rows)
    for note in plan_notes(plan):
        lines += ["", note]
    return "\n".join([*lines, ""])
