"""The study's tables in Markdown, from the rows of `summary`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .statistics import MOST_WIDTH

__all__ = ["intro", "markdown", "plain_tables"]


def intro(command: str, ceiling: float) -> str:
    """What is compared, and how to read it."""
    return f"""# Study: accuracy with the hardware's arithmetic

Made by `{command}`; do not edit. What it says is in [training.md](../training.md).

Percent of test images that are classified rightly: mean and standard deviation over seeds, and below it the difference
to what the table says, with its 95 % interval of paired differences: a seed has the same split, order of images and
initial weights in every row; Student's t. "Within noise": in every column the interval includes 0 and is narrower than
{MOST_WIDTH} points; "no": in some column it is all below 0; "undecided": neither. Bits: of an element of activations
and of gradients, shared exponents included.

Data: scikit-learn's digits (10 classes, 900 training and 897 test images of 8 x 8), and configurations of the
two-dimensional Ising model on 8 x 8 spins at three temperatures around the critical one (3,000 and 4,500); the best
rule on the energy, which is a sufficient statistic, gets {ceiling:.1f} % of those right. Every normalization trains
*and* is tested in the row's arithmetic; the rest of the network is in float32.
"""


def markdown(sections: Sequence[dict[str, Any]]) -> str:
    """A table for each section."""
    return "\n".join(_section(section) for section in sections)


def plain_tables(tables: Sequence[dict[str, Any]]) -> str:
    """Those of `failures`."""
    found = []
    for table in tables:
        lines = [f"## In a single layer: {table['title'].lower()}", "", f"| {' | '.join(table['header'])} |"]
        lines += ["|---" * len(table["header"]) + "|", *(f"| {' | '.join(row)} |" for row in table["rows"])]
        found.append("\n".join(lines) + "\n")
    return "\n".join(found)


def _section(section: dict[str, Any]) -> str:
    columns = list(dict.fromkeys(_column(cell) for row in section["rows"] for cell in row["cells"]))
    lines = [
        f"## {section['title']}",
        "",
        f"{section['seeds']} seeds; differences to {section['reference']}.",
        "",
        "| | bits | " + " | ".join(columns) + " | within noise |",
        "|---|---|" + "---|" * len(columns) + "---|",
    ]
    for row in section["rows"]:
        by_column = {_column(cell): cell for cell in row["cells"]}
        bits = " / ".join(f"{value:.2f}" for value in row["bits"]) if row["bits"] else "32"
        cells = [_text(by_column[column]) if column in by_column else "" for column in columns]
        lines.append(f"| {row['label']} | {bits} | " + " | ".join(cells) + f" | {_verdict(row)} |")
    return "\n".join(lines) + "\n"


def _column(cell: dict[str, Any]) -> str:
    return f"{cell['training']['data']}, {cell['training']['network']}"


def _text(cell: dict[str, Any]) -> str:
    text = f"{cell['mean']:.2f} ± {cell['deviation']:.2f}"
    if "difference" in cell:
        d = cell["difference"]
        text += f"<br>{d['mean']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}]"
    return text


def _verdict(row: dict[str, Any]) -> str:
    differences = [cell["difference"] for cell in row["cells"] if "difference" in cell]
    if not differences:
        return ""
    if all(d["within_noise"] for d in differences):
        return "yes"
    if any(d["high"] < 0 for d in differences):
        return "no"
    return "undecided" if all(d["low"] <= 0 for d in differences) else "better"
