"""Figures of the report, for the page (SVG whose colours follow the page's theme) and for papers (SVG, PDF).

Needs matplotlib, which the extra `report` installs.
"""

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .console import number

__all__ = ["THEME", "Drawing", "bars", "error_histogram", "scatter", "stacked_bars", "treemap"]

# Series: the colour-blind safe palette of Okabe and Ito (2008).
THEME = {
    "ink": "#1c1e22", "muted": "#63676f", "line": "#d4d7dc", "paper": "#ffffff",
    "blue": "#0072b2", "orange": "#d55e00", "green": "#009e73", "sky": "#56b4e9", "yellow": "#e69f00",
}  # fmt: skip
"""Names of the page's colours, and what they are on paper."""

STYLE: Any = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    "font.size": 8.5,
    "text.color": THEME["ink"],
    "axes.labelcolor": THEME["muted"],
    "axes.edgecolor": THEME["line"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": THEME["line"],
    "grid.linewidth": 0.5,
    "xtick.color": THEME["line"],
    "ytick.color": THEME["line"],
    "xtick.labelcolor": THEME["muted"],
    "ytick.labelcolor": THEME["muted"],
    "legend.frameon": False,
    "legend.labelcolor": THEME["ink"],
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
WIDTH = 4.3  # inches: a phone shows it at its own size, a column of a paper too


Box = tuple[float, float, float, float]
"""x, y, width, height."""


@dataclass(frozen=True)
class Drawing:
    """A figure by its file name, with what it shows in words."""

    name: str
    alt: str
    figure: Figure

    def svg(self) -> str:
        """For the page: no size of its own, colours by name, no identifier that another figure has."""
        text = self.files["svg"].decode()
        text = text[text.index("<svg") :]
        text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text))
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r"font: (?:[\d.]+ )?([\d.]+px)[^;\"]*", r"font-size: \1", text)
        for name, value in THEME.items():
            text = text.replace(value, f"var(--{name})")
        for found in sorted(set(re.findall(r'\bid="([^"]+)"', text)), key=len, reverse=True):
            text = re.sub(rf'(id="|href="#|url\(#){re.escape(found)}(?=["\)])', rf"\g<1>{self.name}-{found}", text)
        return text.replace("<svg", f'<svg role="img" aria-label="{escape(self.alt)}"', 1).strip()

    def save(self, folder: Path) -> None:
        """For papers: name.svg and name.pdf."""
        folder.mkdir(parents=True, exist_ok=True)
        for kind, content in self.files.items():
            (folder / f"{self.name}.{kind}").write_bytes(content)

    @cached_property
    def files(self) -> dict[str, bytes]:
        """By kind; the same bytes for the same data."""
        made = {}
        for kind, dates in (("svg", {"Date": None}), ("pdf", {"CreationDate": None})):
            buffer = io.BytesIO()
            with rc_context({**STYLE, "svg.hashsalt": self.name}):
                self.figure.savefig(buffer, format=kind, metadata=dates)
            made[kind] = buffer.getvalue()
        return made


def _draw(name: str, alt: str, height: float, draw: Callable[[Axes], None]) -> Drawing:
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.add_subplot())
    return Drawing(name, alt, figure)


def treemap(name: str, sizes: Mapping[str, float], unit: str) -> Drawing:
    """An area per entry, the largest first."""
    ordered = sorted(((size, label) for label, size in sizes.items() if size > 0), reverse=True)
    total = sum(size for size, _ in ordered)
    aspect = 1.5

    def draw(axes: Axes) -> None:
        for (size, label), (x, y, width, height) in zip(ordered, _squares(ordered, total, aspect), strict=True):
            share = size / total
            axes.add_patch(Rectangle((x, y), width, height, facecolor=THEME["blue"], alpha=0.18 + 0.5 * share, lw=0))
            axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=THEME["paper"], linewidth=2))
            lines = [label, f"{number(round(size))} {unit}", f"{share:.0%}"]
            fits = max(len(line) for line in lines) * 0.026 < width and height > 0.2
            if fits:
                axes.text(x + 0.025, y + height - 0.03, lines[0], va="top", weight="bold")
                axes.text(x + 0.025, y + height - 0.1, "\n".join(lines[1:]), va="top", color=THEME["muted"])
            elif max(len(label), 4) * 0.0205 + 0.03 < width and height > 0.07:
                short = f"{label}\n{share:.1%}" if height > 0.12 else label
                axes.text(x + 0.02, y + height - 0.02, short, va="top", size=7.5)
        axes.set(xlim=(0, aspect), ylim=(0, 1))
        axes.set_aspect("equal")
        axes.axis("off")

    shares = ", ".join(f"{label} {size / total:.0%}" for size, label in ordered)
    return _draw(name, f"Treemap of {unit}: {shares}", WIDTH / aspect, draw)


def _squares(ordered: Sequence[tuple[float, str]], total: float, aspect: float) -> list[Box]:
    """Rectangles that fill `aspect` x 1, nearly square.

    Bruls, Huizing and van Wijk, Squarified Treemaps (2000): a row grows while that makes its worst rectangle squarer.
    """
    areas = [size / total * aspect for size, _ in ordered]
    x, y, width, height = 0.0, 0.0, aspect, 1.0
    made: list[Box] = []

    def worst(row: Sequence[float], side: float) -> float:
        depth = sum(row) / side
        return max(max(depth / (area / depth), (area / depth) / depth) for area in row)

    while areas:
        side = min(width, height)
        count = 1
        while count < len(areas) and worst(areas[: count + 1], side) <= worst(areas[:count], side):
            count += 1
        row, areas = areas[:count], areas[count:]
        depth, place = sum(row) / side, 0.0
        for area in row:
            length = area / depth
            if width >= height:
                made.append((x, y + height - place - length, depth, length))
            else:
                made.append((x + place, y + height - depth, length, depth))
            place += length
        if width >= height:
            x, width = x + depth, width - depth
        else:
            height -= depth
    return made


def bars(name: str, alt: str, values: Mapping[str, float], xlabel: str, colors: Mapping[str, str]) -> Drawing:
    """A horizontal bar per entry, the first on top; `colors` are names of THEME."""

    def draw(axes: Axes) -> None:
        labels = list(values)
        drawn = axes.barh(labels, list(values.values()), color=[THEME[colors[label]] for label in labels], height=0.68)
        axes.bar_label(drawn, _lengths(values.values()), padding=3, color=THEME["ink"])
        _as_list(axes, xlabel)
        axes.margins(x=0.16)

    return _draw(name, alt, 0.75 + 0.27 * len(values), draw)


def stacked_bars(name: str, alt: str, rows: Mapping[str, Mapping[str, float]], xlabel: str) -> Drawing:
    """A horizontal bar per row, of one part per key."""
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))

    def draw(axes: Axes) -> None:
        labels = list(rows)
        left = [0.0] * len(labels)
        for part, color in zip(parts, ("blue", "yellow", "green", "orange", "sky"), strict=False):
            widths = [row.get(part, 0.0) for row in rows.values()]
            drawn = axes.barh(labels, widths, left=left, label=part, color=THEME[color], height=0.68)
            left = [before + width for before, width in zip(left, widths, strict=True)]
        axes.bar_label(drawn, _lengths(left), padding=3, color=THEME["ink"])
        columns = len(parts) if len(parts) < 5 else 3
        axes.legend(ncols=columns, loc="lower left", bbox_to_anchor=(0, 1), handlelength=1, columnspacing=1)
        _as_list(axes, xlabel)
        axes.margins(x=0.14)

    return _draw(name, alt, 1.0 + 0.27 * len(rows), draw)


def _lengths(values: Iterable[float]) -> list[str]:
    """What stands at the ends of bars."""
    return [f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}" for value in values]


def _as_list(axes: Axes, xlabel: str) -> None:
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=THEME["ink"])
    axes.set_xticks([])
    axes.set_xlabel(xlabel, loc="left")


def scatter(
    name: str, alt: str, points: Sequence[Mapping[str, Any]], xlabel: str, ylabel: str, *, rising: bool
) -> Drawing:
    """Points with keys x, y, label, front, color, those of the front joined; only these have their label.

    `rising`: more y is better, so a front goes up with x.
    """

    def draw(axes: Axes) -> None:
        front = sorted((point for point in points if point["front"]), key=lambda point: (point["x"], point["y"]))
        line: Any = {"color": THEME["muted"], "linewidth": 0.8, "drawstyle": "steps-post", "zorder": 1}
        axes.plot([point["x"] for point in front], [point["y"] for point in front], **line)
        for point in points:
            on = point["front"]
            face = THEME[point["color"]] if on else THEME["paper"]
            axes.plot(point["x"], point["y"], "o", ms=5.5, mfc=face, mec=THEME[point["color"]], mew=1.1)
        for index, point in enumerate(front):
            above = rising or index % 2 == 0
            axes.annotate(
                point["label"], (point["x"], point["y"]), (6, 5 if not above else (-10 if rising else 5)),
                textcoords="offset points", size=7.5, color=THEME["ink"],
            )  # fmt: skip
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.margins(x=0.16, y=0.16)
        axes.tick_params(length=0)
        axes.locator_params(nbins=5)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")

    return _draw(name, alt, 3.0, draw)


def error_histogram(name: str, alt: str, errors: Mapping[str, Any]) -> Drawing:
    """Errors of an output in percent of its root mean square, on a logarithmic scale of shares."""

    def draw(axes: Axes) -> None:
        counts = {key: errors[key] for key in ("end_to_end", "arithmetic")}
        bins, limit = len(counts["end_to_end"]), 100 * errors["limit"]
        edges = [limit * (2 * index / bins - 1) for index in range(bins + 1)]
        styles: Any = (
            ("end_to_end", "end to end", {"color": THEME["sky"], "fill": True, "alpha": 0.6}),
            ("arithmetic", "the arithmetic alone", {"edgecolor": THEME["blue"], "linewidth": 1.2}),
        )
        for key, label, style in styles:
            total = sum(counts[key])
            axes.stairs([100 * count / total for count in counts[key]], edges, label=label, **style)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        axes.set(xlabel="error, of the output's root mean square", ylabel="elements")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, handlelength=1, columnspacing=1)
        axes.tick_params(which="both", length=0)
        axes.grid(axis="x", visible=False)

    return _draw(name, alt, 2.7, draw)
