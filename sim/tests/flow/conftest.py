"""The small machine, generated and mapped once."""

from pathlib import Path

import pytest

from lightnorm.generate import TOP, generate
from lightnorm_flow.gate_level import map_to_cells

from .small import LIBRARY, MACHINE


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the machine's Verilog."""
    folder = tmp_path_factory.mktemp("machine")
    generate(MACHINE, folder)
    return folder


@pytest.fixture(scope="session")
def mapped(machine: Path) -> Path:
    """The folder of its netlist."""
    return map_to_cells(machine / f"{TOP}.v", top=TOP, library=LIBRARY, lanes=MACHINE.lanes, out_dir=machine / "gates")
