"""The study's plots, from the rows of `summary`: SVG files whose bytes depend on the numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .statistics import MOST_WIDTH

__all__ = ["draw"]

_COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#7d5ba6")
_FOREST = ("main", "near", "formats", "inference", "gains", "authors", "dropped")


def draw(sections: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Write what can be drawn of the sections: differences.svg, batches.svg, scales.svg."""
    by_name = {section["name"]: section for section in sections}
    figures: dict[str, Figure] = {}
    if shown := [by_name[name] for name in _FOREST if name in by_name]:
        figures["differences"] = _differences(shown)
    if "batches" in by_name:
        figures["batches"] = _curves(by_name["batches"], "batch", "batch size")
    if "scales" in by_name:
        figures["scales"] = _curves(by_name["scales"], "loss_scale", "loss scale")
    files = []
    # a salt and no date: the same numbers make the same file
    with matplotlib.rc_context({"svg.hashsalt": "lightnorm", "svg.fonttype": "none"}):
        for name, figure in figures.items():
            folder.mkdir(parents=True, exist_ok=True)
            files.append(folder / f"{name}.svg")
            figure.savefig(files[-1], format="svg", metadata={"Date": None}, bbox_inches="tight")
    return files


def _differences(sections: Sequence[dict[str, Any]]) -> Figure:
    """A line for each row, a panel for each cell: mean difference and its interval."""
    lines: dict[str, tuple[dict[str, Any], int]] = {}
    for section in sections:
        for row in section["rows"]:
            if "difference" in row["cells"][0]:
                lines.setdefault(row["label"], (row, section["seeds"]))
    columns = list(dict.fromkeys(_cell_name(cell) for row, _ in lines.values() for cell in row["cells"]))
    figure = Figure(figsize=(2.6 * len(columns) + 3.2, 0.26 * len(lines) + 1.2))
    panels = figure.subplots(1, len(columns), sharex=True, sharey=True, squeeze=False)[0]
    for panel, column in zip(panels, columns, strict=True):
        panel.axvspan(-MOST_WIDTH / 2, MOST_WIDTH / 2, color="0.93")
        panel.axvline(0, color="0.5", linewidth=0.8)
        for place, (row, _) in enumerate(lines.values()):
            for cell in row["cells"]:
                if _cell_name(cell) == column:
                    d = cell["difference"]
                    colour = _COLOURS[0] if d["low"] <= 0 <= d["high"] else _COLOURS[1]
                    panel.plot([d["low"], d["high"]], [place, place], color=colour, linewidth=2)
                    panel.plot(d["mean"], place, "o", color=colour, markersize=4)
        panel.set_title(column, fontsize=9)
        panel.set_xscale("symlog", linthresh=1)
        low, high = panel.get_xlim()
        panel.set_xticks(_ticks(low, high, factor=4), minor=False)
        panel.set_xlabel("points of accuracy", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.xaxis.set_major_formatter("{x:g}")
    panels[0].set_yticks(range(len(lines)), [f"{label} ({seeds})" for label, (_, seeds) in lines.items()])
    panels[0].invert_yaxis()
    return figure


def _curves(section: dict[str, Any], x_name: str, x_label: str) -> Figure:
    """Difference over a setting of the training, a line for each normalization."""
    columns = list(dict.fromkeys(_cell_name(cell) for row in section["rows"] for cell in row["cells"]))
    figure = Figure(figsize=(3.6 * len(columns) + 1, 3))
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for panel, column in zip(panels, columns, strict=True):
        curves: dict[str, list[tuple[float, dict[str, Any]]]] = {}
        for row in section["rows"]:
            for cell in row["cells"]:
                if _cell_name(cell) == column and "difference" in cell:
                    name = row["label"].partition(": ")[2]
                    curves.setdefault(name, []).append((cell["training"][x_name], cell["difference"]))
        for colour, (name, points) in zip(_COLOURS, curves.items(), strict=False):
            _curve(panel, sorted(points, key=lambda point: point[0]), name, colour)
        panel.axhline(0, color="0.5", linewidth=0.8)
        panel.set_xscale("log", base=2)
        panel.set_yscale("symlog", linthresh=1)
        panel.set_yticks(_ticks(*panel.get_ylim()), minor=False)
        panel.yaxis.set_major_formatter("{x:g}")
        panel.set_title(column, fontsize=9)
        panel.set_xlabel(x_label, fontsize=8)
        panel.tick_params(labelsize=8)
    panels[0].set_ylabel("points of accuracy against FP32", fontsize=8)
    panels[-1].legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _curve(panel: Axes, points: Sequence[tuple[float, dict[str, Any]]], name: str, colour: str) -> None:
    x = [value for value, _ in points]
    panel.fill_between(x, [d["low"] for _, d in points], [d["high"] for _, d in points], color=colour, alpha=0.2)
    panel.plot(x, [d["mean"] for _, d in points], "o-", color=colour, label=name, markersize=4)


def _ticks(low: float, high: float, factor: int = 2) -> list[float]:
    """Of an axis that is linear from -1 to 1 and logarithmic beyond, where ticks are `factor` apart."""
    beyond = [float(factor**power) for power in range(1, 7)]
    ticks = [*(-value for value in reversed(beyond)), -1, -0.5, 0, 0.5, 1, *beyond]
    return [value for value in ticks if low <= value <= high]


def _cell_name(cell: dict[str, Any]) -> str:
    return f"{cell['training']['data']}, {cell['training']['network']}"
