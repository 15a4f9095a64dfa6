"""The timing diagrams of the documentation show what the machine does."""

from __future__ import annotations

import re

import pytest

from .axi import HERE
from .diagrams import FOLDER, drawn, svg

COMMAND = "python sim/tests/bus/diagrams.py"


def test_diagrams() -> None:
    """If this fails the machine's timing has changed: draw the diagrams again with the command, and look at them."""
    made = drawn()
    kept = {path.name: path.read_text() for path in FOLDER.glob("*.svg")}
    assert made.keys() == kept.keys()
    for name in made:
        assert made[name] == kept[name], f"{name} has changed: {COMMAND}"
    page = (HERE.parents[2] / "docs" / "integration.md").read_text()
    assert set(re.findall(r"\(diagrams/(\S+)\)", page)) == set(made) and COMMAND in page


@pytest.mark.parametrize("waiting", [0, 6, 7, 30])
def test_what_is_cut_out(waiting: int) -> None:
    """Long waits become one column that says how long they are."""
    picture = svg({"valid": [1] + [0] * waiting + [1]})
    hidden = re.findall(r">\+(\d+)<", picture)
    assert hidden == ([str(waiting - 4)] if waiting > 6 else [])
    drawn_cycles = {int(number) for number in re.findall(r'fill="#999">(\d+)<', picture)}
    assert len(drawn_cycles) == waiting + 2 - sum(map(int, hidden)) and {0, waiting + 1} <= drawn_cycles
