"""LightNorm's goals beside what was measured, by how much they are missed, and where the area goes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .console import PlainTable, number

__all__ = ["goal_notes", "goal_table", "sizes_by_stage", "stage_table"]

Design = Mapping[str, Any]
OURS = ("bfp16", "bfp16-deep")
AREA_GOALS = {"l2-fp32": 12.0, "l2-bf16": 4.0}
"""How many times the logic per lane of the machines in OURS each of these must have."""
ENERGY_GOALS = {"l2-fp32": 12.0, "l2-bf16": None}
BITS_GOALS = {"forward": 13.0, "backward": 18.0}
"""Moved per element, in a single pass: at most these."""
ROOTS = ("baseline", "lightnorm")

Value = Callable[[Design], float | None]


def goal_table(designs: Sequence[Design]) -> PlainTable:
    """Of one target: how many times as much a conventional machine needs as each of ours; no rows where either was not
    measured."""
    by_name = {design["name"]: design for design in designs}
    ours = [by_name[name] for name in OURS if name in by_name]
    rows = []
    for label, value, goals in _ratios():
        for reference, goal in goals.items():
            if reference in by_name:
                cells = [_ratio(value(by_name[reference]), value(design), goal) for design in ours]
                rows.append([f"{label}, {reference} /", f"at least {goal:g}" if goal else "", *cells])
    for direction, most in BITS_GOALS.items():
        cells = [_at_most(design["bits_per_element"][direction], most) for design in ours]
        rows.append([f"bits per element, {direction}", f"at most {most:g}", *cells])
    rows = [row for row in rows if any(row[2:])]
    return "Goals", ["", "goal", *(design["name"] for design in ours)], rows if ours else []


def goal_notes(designs: Sequence[Design]) -> list[str]:
    """By how much an area is too large for its goal."""
    by_name = {design["name"]: design for design in designs}
    notes = []
    for design in (by_name[name] for name in OURS if name in by_name):
        for reference, goal in AREA_GOALS.items():
            if reference in by_name and (conventional := _area(by_name[reference])) and (area := _area(design)):
                if area > conventional / goal:
                    most, name = round(conventional / goal), design["name"]
                    notes.append(
                        f"{name} has {number(round(area))} um^2 per lane, {number(round(area) - most)} too many for"
                        f" {goal:g} times less than {reference} ({number(most)})."
                    )
    return notes


def sizes_by_stage(designs: Sequence[Design]) -> dict[str, dict[str, float]]:
    """um^2 per lane of each stage, of the machines that the goals are about, by name; only of those with an area."""
    found: dict[str, dict[str, float]] = {}
    for design in designs:
        if design["name"] in (*AREA_GOALS, *OURS) and _area(design):
            stages = found[design["name"]] = {}
            for stage, size in design["stages"].items():
                name = "top" if stage in ROOTS else stage
                stages[name] = stages.get(name, 0.0) + size / design["lanes"]
    return found


def stage_table(designs: Sequence[Design]) -> PlainTable:
    """Where the area goes: a row for each stage, the largest of the last machine first."""
    columns = sizes_by_stage(designs)
    largest = {stage: -size for column in columns.values() for stage, size in column.items()}
    rows = [
        [stage, *(number(round(column[stage])) if stage in column else "" for column in columns.values())]
        for stage in sorted(largest, key=lambda stage: largest[stage])
    ]
    rows.append(["all", *(number(round(sum(column.values()))) for column in columns.values())])
    return "Where the area goes", ["stage, um^2 per lane", *columns], rows if columns else []


def _ratios() -> list[tuple[str, Value, Mapping[str, float | None]]]:
    return [
        ("logic area per lane", _area, AREA_GOALS),
        ("logic area per lane, mapped for the clock", lambda design: design["clocked_area_per_lane_um2"], AREA_GOALS),
        ("energy per element, forward", lambda design: design["energy_pj_per_element"]["forward"], ENERGY_GOALS),
        ("energy per element, backward", lambda design: design["energy_pj_per_element"]["backward"], ENERGY_GOALS),
        ("energy with memories, forward", lambda design: _with_memory(design, "forward"), {"l2-fp32": None}),
        ("energy with memories, backward", lambda design: _with_memory(design, "backward"), {"l2-fp32": None}),
        ("bits of memory", lambda design: design.get("buffer_bits"), dict.fromkeys(AREA_GOALS)),
    ]


def _area(design: Design) -> float | None:
    area: float | None = design["logic_area_per_lane_um2"]
    return area


def _with_memory(design: Design, direction: str) -> float | None:
    """Energy of logic and memories, that of the latter an estimate per bit."""
    parts = [design[key][direction] for key in ("energy_pj_per_element", "memory_pj_per_element")]
    return None if None in parts else sum(parts)


def _ratio(reference: float | None, value: float | None, goal: float | None) -> str:
    if not reference or not value:
        return ""
    ratio = reference / value
    missed = f", {1 - ratio / goal:.0%} short" if goal and ratio < goal else ""
    return f"{ratio:.2f}{missed}"


def _at_most(value: float | None, most: float) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" + (f", {value / most - 1:.0%} over" if value > most else "")
