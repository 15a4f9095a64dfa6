"""The ladder from conventional batch norm to LightNorm, each rung measured in the same way."""

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from .console import PlainTable, Step, number, without_empty
from .designs import Design
from .files import markdown_table, write_json, write_text
from .goals import goal_notes, goal_table, stage_table
from .measure import PAIRS, SCALARS, Job, by_target, failures, measure_all, size_per_lane

__all__ = ["comparison_tables", "details_tables", "kept_designs", "make_comparison"]

Designs = Sequence[Mapping[str, Any]]
HEADER = ("design", "statistic", "format", "lanes", "{unit} per lane", "relative", "MHz", "{unit} at MHz", "pJ fwd",
          "pJ bwd", "bits fwd", "bits bwd", "SNR y, dB", "SNR dx, dB")  # fmt: skip
DETAILS = ("statistic", "format", "lanes")


def kept_designs(path: Path, rungs: Sequence[Design], jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """What compare.json has of these rungs on targets, beside those of the jobs; other configurations' not. Raises
    ValueError."""
    try:
        designs = json.loads(path.read_text())
        complete = all(design.keys() >= {"name", "hash", "target", "error", *SCALARS, *PAIRS} for design in designs)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"--add: {path} cannot be read: {error}") from None
    if not complete:
        raise ValueError(f"--add: {path} is not what this version's lightnorm compare writes")
    known = {(rung.name, rung.facts["hash"]) for rung in rungs}
    measured = {(job.design.name, job.target_name) for job in jobs}
    return [
        design for design in designs
        if (design["name"], design["hash"]) in known and (design["name"], design["target"]) not in measured
    ]  # fmt: skip


def make_comparison(
    jobs: Sequence[Job],
    pool: Executor,
    out_dir: Path,
    *,
    step: Step,
    rungs: Sequence[Design] = (),
    kept: Sequence[dict[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Measure, and write compare.json, compare.md and compare.tex; returns the former, a list of designs.

    A design that fails has its `error` and is in no table. `kept`: what was measured before, to be in the list too, by
    target and there in the order of `rungs`.
    """
    comparison = [*kept, *measure_all(jobs, pool, step=step)]
    if kept:
        targets = list(dict.fromkeys(design["target"] for design in comparison))
        names = [rung.name for rung in rungs]
        comparison.sort(key=lambda design: (targets.index(design["target"]), names.index(design["name"])))
    write_json(out_dir / "compare.json", comparison)
    write_text(out_dir / "compare.md", _markdown(comparison))
    write_text(out_dir / "compare.tex", _latex(comparison))
    return comparison


def comparison_tables(comparison: Designs, *, brief: bool) -> list[PlainTable]:
    """Of each target. Columns without any value are left out, and in `brief` also what a design's name tells."""
    tables = []
    for target, designs in by_target(comparison).items():
        _, unit = size_per_lane(designs[0])
        reference, _ = size_per_lane(_reference(designs))
        rows = [_row(design, reference) for design in designs]
        header = [name.format(unit=unit) for name in HEADER]
        tables.append((target, *without_empty(header, rows, hidden=DETAILS if brief else ())))
    return tables


def _row(design: Mapping[str, Any], reference: float) -> list[str]:
    size, _ = size_per_lane(design)
    energy, bits = design["energy_pj_per_element"], design["bits_per_element"]
    values = (energy["forward"], energy["backward"], bits["forward"], bits["backward"], design["snr_db"],
              design["snr_backward_db"])  # fmt: skip
    facts = (design["name"], design["statistic"], design["format"], str(design["lanes"]))
    clock = (design["fmax_mhz"], design["clocked_area_per_lane_um2"])
    clocked = ("" if value is None else number(round(value)) for value in clock)
    cells = ("" if value is None else f"{value:.1f}" for value in values)
    return [*facts, number(round(size)), f"{size / reference:.2f}", *clocked, *cells]


def details_tables(designs: Designs) -> list[PlainTable]:
    """Of one target: the goals, and where the area goes. Tables without rows are left out."""
    return [table for table in (goal_table(designs), stage_table(designs)) if table[2]]


def _reference(designs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The rung that the others' sizes are relative to: blocks of 16, or the last one."""
    return next((design for design in designs if design["name"] == "bfp16"), designs[-1])


def _notes(comparison: Designs) -> list[str]:
    missing: dict[str, list[str]] = {}
    for target, designs in by_target(comparison).items():
        for design in designs:
            for name, reason in design["missing"].items():
                what = f"{name} is missing on {target}, as {reason}"
                missing.setdefault(what, []).append(design["name"])
    return [
        "Size per lane: all logic, without memories, divided by lanes, mapped for area; relative to blocks of 16. MHz,"
        " and the size at it: mapped for a clock period instead; no wires. Energy: pJ per element of the logic that is"
        " mapped for area, from its activity on real tensors; every output bit was the golden model's. Bits: moved in"
        " and out per element, with per-channel words. SNR: of y and dx on real tensors, end to end.",
        *(f"{what}: {', '.join(names)}" for what, names in sorted(missing.items())),
        *(f"Failed: {failure.splitlines()[0]}" for failure in failures(comparison)),
    ]


def _markdown(comparison: Designs) -> str:
    lines = ["# From conventional batch norm to LightNorm"]
    measured = by_target(comparison)
    for target, header, rows in comparison_tables(comparison, brief=False):
        lines += ["", f"## {target}", "", *markdown_table(header, rows)]
        for title, names, details in details_tables(measured[target]):
            lines += ["", f"### {title}", "", *markdown_table(names, details)]
        lines += [line for note in goal_notes(measured[target]) for line in ("", note)]
    lines += ["", "## Notes"]
    for note in _notes(comparison):
        lines += ["", note]
    return "\n".join([*lines, ""])


def _latex(comparison: Designs) -> str:
    """Tables of each target; needs the package booktabs."""
    lines = ["% Written by lightnorm compare; needs \\usepackage{booktabs}."]
    measured = by_target(comparison)
    for target, header, rows in comparison_tables(comparison, brief=False):
        lines += _latex_table(target, "lll", header, rows)
        for title, names, details in details_tables(measured[target]):
            lines += _latex_table(f"{target}: {title}", "l", names, details)
    return "\n".join([*lines, ""])


def _latex_table(title: str, left: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The first columns left-aligned, the others right."""
    return [
        f"% {title}",
        f"\\begin{{tabular}}{{{left}{'r' * (len(header) - len(left))}}}",
        "\\toprule",
        *(_latex_row(header), "\\midrule", *(_latex_row(row) for row in rows)),
        "\\bottomrule",
        "\\end{tabular}",
    ]


def _latex_row(cells: Sequence[str]) -> str:
    escaped = (cell.replace("um^2", "$\\mu$m$^2$").replace("_", "\\_").replace("%", "\\%") for cell in cells)
    escaped = (re.sub(r"(?<=\d),(?=\d)", r"\\,", cell) for cell in escaped)
    return " & ".join(escaped) + " \\\\"
