"""The report as one HTML file, which needs nothing else: text, tables, figures, styles.

What it shows comes from report.json and from what other commands have written; a section without its data says which
command makes it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from .compare import comparison_tables, details_tables
from .console import number
from .explore import bits_of_step, exploration_tables
from .figures import THEME, Drawing, bars, error_histogram, scatter, stacked_bars, treemap
from .files import write_text
from .goals import goal_notes, sizes_by_stage
from .measure import by_target, failures, size_per_lane
from .plan import plan_notes, plan_tables
from .report import SIZES, UNITS

__all__ = ["read_results", "write_page"]

Results = Mapping[str, Any]
DARK = {
    "ink": "#e6e8ec", "muted": "#a0a6b0", "line": "#3a3f48", "paper": "#14161a",
    "blue": "#4aa8e0", "orange": "#f08a4b", "green": "#3cc79f", "sky": "#2f6f9c", "yellow": "#d9a733",
}  # fmt: skip
"""The colours of `figures.THEME` on a dark page."""

MODE_NAMES = {"train": "forward, training", "backward": "backward", "infer": "forward, inference"}
STATISTIC_COLORS = {"l2": "orange", "range": "sky"}


def read_results(command: str, path: Path, keys: Sequence[str]) -> Any:
    """What a command wrote: a list of designs, or an object that may have one. Every design has an `error`, and every
    entry of the list, or the object, these keys. None if there is no such file. Raises ValueError."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    entries = content if isinstance(content, list) and content else [content]
    designs = content.get("designs", []) if isinstance(content, dict) else entries
    if not (_have(entries, keys) and _have(designs, ["error"])):
        raise ValueError(f"{path} is not what this version's lightnorm {command} writes")
    return content


def _have(entries: Sequence[Any], keys: Sequence[str]) -> bool:
    return all(isinstance(entry, dict) and all(key in entry for key in keys) for entry in entries)


def write_page(
    result: Results,
    out_dir: Path,
    *,
    compare: Sequence[Results] | None = None,
    explore: Results | None = None,
    plan: Results | None = None,
    energy: Results | None = None,
    pnr: Results | None = None,
    timing: Results | None = None,
) -> None:
    """Write report.html and, in the folder figures, every figure as SVG and PDF.

    The keywords are what the commands of their names have written; plan and energy of another configuration are left
    out.
    """
    plan, energy = (each if each and each["hash"] == result["hash"] else None for each in (plan, energy))
    environment = Environment(
        loader=PackageLoader("lightnorm_flow", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    )  # fmt: skip
    environment.filters["number"] = number
    drawings: list[Drawing] = []

    def draw(drawing: Drawing) -> str:
        drawings.append(drawing)
        return drawing.svg()

    text = environment.get_template("page.html.jinja").render(
        result=result,
        light=THEME,
        dark=DARK,
        cards=_cards(result),
        runs=_runs(result),
        areas=[
            (synth, draw(_stages(synth, index)), _sizes(synth), _stage_rows(synth))
            for index, synth in enumerate(result["synth"])
        ],
        ladder=_ladders(compare, result, draw) if compare else [],
        failures=failures(compare or []),
        fronts=[(table, [draw(each) for each in _fronts(explore, table[0], index)])
                for index, table in enumerate(exploration_tables(explore))] if explore else [],
        errors=[(run, draw(_histogram(run))) for run in result["simulate"]],
        paths=[(each["fmax_mhz"], each.get("part") or each["target"], _path_rows(each["critical_path"]))
               for each in (timing, pnr) if each],
        energy=energy,
        energy_figures=[draw(each) for each in _energy(energy)] if energy else [],
        traffic=[draw(each) for each in _traffic(result)],
        plan=plan,
        plan_tables=plan_tables(plan, brief=False) if plan else [],
        plan_notes=plan_notes(plan) if plan else [],
        plan_figure=draw(_plan(plan)) if plan else "",
    )  # fmt: skip
    write_text(out_dir / "report.html", text)
    for drawing in drawings:
        drawing.save(out_dir / "figures")


def _cards(result: Results) -> list[tuple[str, str, str]]:
    """The most important numbers: value, unit, and what it is."""
    runs = {run["mode"]: run for run in result["simulate"]}
    exact = all(run["bit_exact"] for run in runs.values())
    elements = sum(run["elements"] for run in runs.values())
    cards = [("all" if exact else "NOT all", "bits", f"of {number(elements)} elements equal to the golden model")]
    sized = [synth for synth in result["synth"] if "logic_area_per_lane_um2" in synth]
    cards += [
        (number(round(synth["logic_area_per_lane_um2"])), "µm² per lane", f"logic on {synth['target']}")
        for synth in sized[:1]
    ]
    for mode, name in (("train", "y"), ("backward", "dx")):
        if mode in runs:
            run = runs[mode]
            cards.append((f"{run['bits_per_element']:.1f}", "bits per element", f"moved in {MODE_NAMES[mode]}"))
            cards.append((f"{run['snr_db']:.1f}", "dB", f"signal to noise of {name}, end to end"))
    cards.append((f"{min(run['beats_per_cycle'] for run in runs.values()):.2f}", "beats per cycle", "sustained"))
    return cards


def _runs(result: Results) -> tuple[list[str], list[list[str]]]:
    runs = result["simulate"]
    rows = [
        ["bits equal to the golden model", *("all" if run["bit_exact"] else "NOT all" for run in runs)],
        ["elements", *(number(run["elements"]) for run in runs)],
        ["cycles", *(number(run["cycles"]) for run in runs)],
        ["latency of the first beat, cycles", *(number(run["latency"]) for run in runs)],
        ["beats per cycle", *(f"{run['beats_per_cycle']:.3f}" for run in runs)],
        ["bits moved per element", *(f"{run['bits_per_element']:.2f}" for run in runs)],
        ["signal to noise, end to end, dB", *(f"{run['snr_db']:.2f}" for run in runs)],
        ["signal to noise of the arithmetic, dB", *(f"{run['arithmetic_snr_db']:.2f}" for run in runs)],
    ]
    return ["", *(MODE_NAMES[run["mode"]] for run in runs)], rows


def _sizes(synth: Results) -> list[list[str]]:
    return [[label, number(synth[key])] for key, label in SIZES.items() if key in synth]


def _stage_rows(synth: Results) -> list[list[str]]:
    ordered = sorted(synth["stages"].items(), key=lambda item: -item[1])
    return [[stage, number(round(size))] for stage, size in ordered]


def _stages(synth: Results, index: int) -> Drawing:
    unit = UNITS[synth["stage_unit"]].replace("um^2", "µm²")
    return treemap(f"stages_{index}", synth["stages"], unit)


def _ladders(comparison: Sequence[Results], result: Results, draw: Callable[[Drawing], str]) -> list[dict[str, Any]]:
    """Of each target: tables, figures, and what must be said of the goals."""
    measured = by_target(comparison)
    return [
        {
            "table": table,
            "figures": [draw(each) for each in _ladder(measured[table[0]], result, table[0], index)],
            "details": details_tables(measured[table[0]]),
            "notes": goal_notes(measured[table[0]]),
        }
        for index, table in enumerate(comparison_tables(comparison, brief=False))
    ]


def _ladder(designs: Sequence[Results], result: Results, target: str, index: int) -> list[Drawing]:
    """Size, energy where it is known, and bits of every rung; that of this report in its own colour."""
    colors = {
        design["name"]: "blue" if design["hash"] == result["hash"] else STATISTIC_COLORS[design["statistic"]]
        for design in designs
    }
    unit = size_per_lane(designs[0])[1].replace("um^2", "µm²")
    sizes = {design["name"]: size_per_lane(design)[0] for design in designs}
    alt = f"{unit} per lane on {target}: " + ", ".join(f"{name} {size:.0f}" for name, size in sizes.items())
    drawings = [bars(f"ladder_{index}", alt, sizes, f"{unit} per lane", colors)]
    if stages := sizes_by_stage(designs):
        parts = {name: _largest_and_rest(sizes) for name, sizes in stages.items()}
        drawings.append(stacked_bars(f"ladder_stages_{index}", "Where the area goes", parts, f"{unit} per lane"))
    kinds = [("energy", "energy_pj_per_element", "pJ per element"), ("bits", "bits_per_element", "bits per element")]
    for kind, key, what in kinds[: 1 if index else None]:  # bits are the same on every target
        for direction in ("forward", "backward"):
            values = {design["name"]: design[key][direction] for design in designs}
            if known := {name: value for name, value in values.items() if value is not None}:
                alt = f"{what} {direction}: " + ", ".join(f"{name} {value:.2f}" for name, value in known.items())
                drawings.append(bars(f"{kind}_{direction}_{index}", alt, known, f"{what}, {direction}", colors))
    return drawings


def _largest_and_rest(sizes: Mapping[str, float]) -> dict[str, float]:
    """As many parts as a figure has colours."""
    shown = {stage: sizes.get(stage, 0.0) for stage in ("reduce", "apply", "pack", "coefficients")}
    return shown | {"rest": sum(sizes.values()) - sum(shown.values())}


def _fronts(exploration: Results, target: str, index: int) -> list[Drawing]:
    designs = by_target(exploration["designs"])[target]
    unit = size_per_lane(designs[0])[1].replace("um^2", "µm²")
    labels = _short_names([design["name"] for design in designs])

    def points(front: str, value: Any) -> list[dict[str, Any]]:
        return [
            {"x": size_per_lane(design)[0], "y": value(design), "label": label, "front": design["pareto"][front],
             "color": "blue"}
            for design, label in zip(designs, labels, strict=True)
        ]  # fmt: skip

    return [
        scatter(
            f"front_snr_{index}", f"Size on {target} against signal to noise of y",
            points("size_snr", lambda design: design["snr_db"]), f"{unit} per lane", "SNR of y, dB", rising=True,
        ),
        scatter(
            f"front_bits_{index}", f"Size on {target} against bits moved", points("size_bits", bits_of_step),
            f"{unit} per lane", "bits per element of a step", rising=False,
        ),
    ]  # fmt: skip


def _short_names(names: Sequence[str]) -> list[str]:
    """Without the parts that all of them have."""
    parts = [name.split("_") for name in names]
    differ = [index for index in range(len(parts[0])) if len({part[index] for part in parts}) > 1]
    return [" ".join(part[index] for index in differ) or name for part, name in zip(parts, names, strict=True)]


def _histogram(run: Results) -> Drawing:
    alt = f"Errors of {MODE_NAMES[run['mode']]}: {run['snr_db']:.1f} dB"
    return error_histogram(f"errors_{run['mode']}", alt, run["errors"])


def _path_rows(path: Results) -> list[list[str]]:
    """What is known of a critical path."""
    labels = {"ns": "ns", "routing_ns": "of it routing, ns", "levels": "levels", "from": "from", "to": "to"}
    rows = [[label, str(path[key])] for key, label in labels.items() if key in path]
    return rows + ([["through", ", ".join(path["through"])]] if path.get("through") else [])


def _energy(energy: Results) -> list[Drawing]:
    """pJ per element of the logic, by kind and by stage."""
    runs = {MODE_NAMES[mode]: run for mode, run in energy["runs"].items()}
    kinds = {name: {kind: value for kind, value in run["logic_pj_per_element"].items() if kind != "total"}
             for name, run in runs.items()}  # fmt: skip
    stages: dict[str, float] = {}
    for run in runs.values():
        for stage, spent in run["stages"].items():
            stages[stage] = stages.get(stage, 0.0) + spent["total"] / len(runs)
    alt = ", ".join(f"{name} {run['logic_pj_per_element']['total']:.2f}" for name, run in runs.items())
    ordered = dict(sorted(stages.items(), key=lambda item: -item[1]))
    label = "pJ per element, mean of the runs"
    return [
        stacked_bars("energy_kinds", f"pJ per element: {alt}", kinds, "pJ per element"),
        bars("energy_stages", label, ordered, label, dict.fromkeys(ordered, "blue")),
    ]


def _traffic(result: Results) -> list[Drawing]:
    drawings = []
    for mode in dict.fromkeys(entry["mode"] for entry in result["traffic"]):
        rows = {
            f"{entry['machine']}, {entry['passes']} pass{'es' if entry['passes'] > 1 else ''}": entry["bits"]
            for entry in sorted(result["traffic"], key=lambda entry: entry["passes"])
            if entry["mode"] == mode
        }
        alt = ", ".join(f"{name} {sum(bits.values()):.1f}" for name, bits in rows.items())
        label = f"bits per element, {MODE_NAMES[mode]}"
        drawings.append(stacked_bars(f"traffic_{mode}", f"{label}: {alt}", rows, label))
    return drawings


def _plan(plan: Results) -> Drawing:
    values, colors = {}, {}
    for direction in plan["directions"]:
        for name, label, color in (("lightnorm", "LightNorm", "blue"), ("fp32", "FP32", "orange")):
            bar = f"{label}, {direction}"
            values[bar] = plan["total"][direction][name]["bits_moved"] / 8e6
            colors[bar] = color
    alt = ", ".join(f"{name} {value:.0f}" for name, value in values.items())
    return bars("plan", f"Megabytes moved: {alt}", values, "MB moved", colors)
