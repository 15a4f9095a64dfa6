"""The ladder from conventional batch norm to LightNorm, each rung measured in the same way."""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from .console import PlainTable, Step, number, without_empty
from .files import markdown_table, write_json, write_text
from .measure import Job, by_target, failures, measure_all, size_per_lane

__all__ = ["comparison_tables", "make_comparison"]

Designs = Sequence[Mapping[str, Any]]
HEADER = ("design", "statistic", "format", "lanes", "{unit} per lane", "relative", "MHz", "pJ fwd", "pJ bwd",
          "bits fwd", "bits bwd", "SNR y, dB", "SNR dx, dB")  # fmt: skip
DETAILS = ("statistic", "format", "lanes")


def make_comparison(jobs: Sequence[Job], pool: Executor, out_dir: Path, *, step: Step) -> list[dict[str, Any]]:
    """Measure, and write compare.json, compare.md and compare.tex; returns the former, a list of designs.

    A design that fails has its `error` and is in no table.
    """
    comparison = measure_all(jobs, pool, step=step)
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
    values = (design["fmax_mhz"], energy["forward"], energy["backward"], bits["forward"], bits["backward"],
              design["snr_db"], design["snr_backward_db"])  # fmt: skip
    facts = (design["name"], design["statistic"], design["format"], str(design["lanes"]))
    cells = ("" if value is None else f"{value:.1f}" for value in values)
    return [*facts, number(round(size)), f"{size / reference:.2f}", *cells]


def _reference(designs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The rung that the others' sizes are relative to: blocks of 16, or the last one."""
    return next((design for design in designs if design["name"] == "bfp16"), designs[-1])


def _notes(comparison: Designs) -> list[str]:
    missing = {
        f"{name} is missing: {reason}"
        for designs in by_target(comparison).values()
        for design in designs
        for name, reason in design["missing"].items()
    }
    return [
        "Size per lane: all logic, without memories, divided by lanes; relative to blocks of 16. Energy: pJ per"
        " element. Bits: moved in and out per element, with per-channel words. SNR: of y and dx on real tensors, end to"
        " end.",
        *sorted(missing),
        *(f"Failed: {failure.splitlines()[0]}" for failure in failures(comparison)),
    ]


def _markdown(comparison: Designs) -> str:
    lines = ["# From conventional batch norm to LightNorm"]
    for target, header, rows in comparison_tables(comparison, brief=False):
        lines += ["", f"## {target}", "", *markdown_table(header, rows)]
    for note in _notes(comparison):
        lines += ["", note]
    return "\n".join([*lines, ""])


def _latex(comparison: Designs) -> str:
    """A table per target; needs the package booktabs."""
    lines = ["% Written by lightnorm compare; needs \\usepackage{booktabs}."]
    for target, header, rows in comparison_tables(comparison, brief=False):
        lines += [
            f"% {target}",
            f"\\begin{{tabular}}{{lll{'r' * (len(header) - 3)}}}",
            "\\toprule",
            *(_latex_row(header), "\\midrule", *(_latex_row(row) for row in rows)),
            "\\bottomrule",
            "\\end{tabular}",
        ]
    return "\n".join([*lines, ""])


def _latex_row(cells: Sequence[str]) -> str:
    escaped = (cell.replace("um^2", "$\\mu$m$^2$").replace("_", "\\_") for cell in cells)
    escaped = (re.sub(r"(?<=\d),(?=\d)", r"\\,", cell) for cell in escaped)
    return " & ".join(escaped) + " \\\\"
