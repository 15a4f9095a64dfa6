"""Draws the timing diagrams of docs/integration.md from a simulation of the emitted Verilog.

python sim/tests/bus/diagrams.py    writes docs/diagrams/*.svg
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from bus.axi import run
else:
    from .axi import run

FOLDER = Path(__file__).parents[3] / "docs" / "diagrams"
BUSES = ("addr", "data", "resp")  # what has more than two values
COLUMN, ROW, LABEL, HIGH = 32, 26, 146, 16  # pixels; HIGH: of a signal's swing
SHORT = 4  # cycles without a change that are drawn; further ones are cut out

Cycles = list[int | str]  # numbers of cycles, and instead of those that are cut out "N cycles"


def drawn() -> dict[str, str]:
    """File name -> SVG of every diagram."""
    with tempfile.TemporaryDirectory(prefix="lightnorm-diagrams-") as folder:
        where = Path(folder, "run")
        if problem := run("diagrams.record", where):
            raise RuntimeError(problem)
        traces = json.loads((where / "traces.json").read_text())
    return {f"{name}.svg": svg(trace) for name, trace in traces.items()}


def svg(trace: dict[str, list[int]]) -> str:
    """A diagram: a row for each pin, a column for each cycle."""
    values = {name: _shown(name, trace) for name in trace}
    cycles = _cut(values)
    width, height = LABEL + COLUMN * len(cycles) + 10, ROW * (len(values) + 1) + 8
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        ' font-family="monospace" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for column, cycle in enumerate(cycles):
        x = LABEL + column * COLUMN
        if isinstance(cycle, int):
            lines.append(f'<path d="M{x} {ROW - 6}V{height - 6}" stroke="#ddd"/>')
            lines.append(_text(x + COLUMN // 2, ROW - 10, str(cycle), "#999"))
        else:
            lines.append(f'<rect x="{x}" y="{ROW - 6}" width="{COLUMN}" height="{height - ROW}" fill="#f2f2f2"/>')
            lines.append(_text(x + COLUMN // 2, ROW - 10, cycle, "#999"))
    for row, (name, shown) in enumerate(values.items(), 1):
        low = row * ROW + HIGH
        lines.append(f'<text x="{LABEL - 8}" y="{low - 4}" text-anchor="end" fill="#222">{name}</text>')
        lines += _bus(shown, cycles, low) if _is_bus(name) else _bit(shown, cycles, low)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _is_bus(name: str) -> bool:
    return name.endswith(BUSES)


def _shown(name: str, trace: dict[str, list[int]]) -> list[str]:
    """The values of a pin as they are drawn; "" where its channel is not valid."""
    part = next((part for part in ("tdata", "tlast", "addr", "data", "resp") if name.endswith(part)), None)
    if part is None:
        return [str(value) for value in trace[name]]
    valid = trace[name.removesuffix(part) + ("tvalid" if part[0] == "t" else "valid")]
    names = {"resp": {0: "OKAY", 2: "ERR"}}.get(name[-4:], {})
    texts = [names.get(value, str(value) if name.endswith("tdata") else f"{value:x}") for value in trace[name]]
    return [text if seen else "" for text, seen in zip(texts, valid, strict=True)]


def _cut(values: dict[str, list[str]]) -> Cycles:
    """The cycles that are drawn."""
    columns = list(zip(*values.values(), strict=True))
    cycles: Cycles = []
    first = 0
    while first < len(columns):
        last = first
        while last + 1 < len(columns) and columns[last + 1] == columns[first]:
            last += 1
        if last - first + 1 > SHORT + 2:
            hidden = last - first + 1 - SHORT
            cycles += [*range(first, first + SHORT // 2), f"+{hidden}", *range(last + 1 - SHORT // 2, last + 1)]
        else:
            cycles += range(first, last + 1)
        first = last + 1
    return cycles


def _bit(shown: Sequence[str], cycles: Cycles, low: int) -> list[str]:
    path, dotted, level = "", "", "0"
    for column, cycle in enumerate(cycles):
        x = LABEL + column * COLUMN
        known = isinstance(cycle, int) and shown[cycle]
        level = known or level
        y = low - HIGH * int(level)
        if known:
            path += f"V{y}h{COLUMN}" if path else f"M{x} {y}h{COLUMN}"
        else:
            dotted += f"M{x} {y}h{COLUMN}"
            path += f"M{x + COLUMN} {y}"
    dots = [f'<path d="{dotted}" fill="none" stroke="#aaa" stroke-dasharray="2 3"/>'] if dotted else []
    return [f'<path d="{path}" fill="none" stroke="#06c" stroke-width="1.5"/>', *dots]


def _bus(shown: Sequence[str], cycles: Cycles, low: int) -> list[str]:
    """A box for each value that is valid."""
    lines = []
    begun = 0
    texts = [shown[cycle] if isinstance(cycle, int) else None for cycle in cycles]
    for column in range(1, len(texts) + 1):
        if column < len(texts) and texts[column] == texts[begun]:
            continue
        x, width = LABEL + begun * COLUMN, (column - begun) * COLUMN
        if texts[begun]:
            box = f"M{x + 3} {low - HIGH}h{width - 6}l3 {HIGH // 2}l-3 {HIGH // 2}h{6 - width}l-3 -{HIGH // 2}z"
            lines.append(f'<path d="{box}" fill="#eaf2fc" stroke="#06c"/>')
            lines.append(_text(x + width // 2, low - 4, str(texts[begun]), "#222"))
        else:
            lines.append(f'<path d="M{x} {low - HIGH // 2}h{width}" stroke="#bbb"/>')
        begun = column
    return lines


def _text(x: int, y: int, text: str, color: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="middle" fill="{color}">{text}</text>'


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file, text in drawn().items():
        (FOLDER / file).write_text(text)
        print(FOLDER / file)
