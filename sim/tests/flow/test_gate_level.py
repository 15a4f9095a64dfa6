"""The netlist mapped to a small library against the golden model, every bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightnorm.generate import TOP
from lightnorm_flow.gate_level import map_to_cells
from lightnorm_flow.liberty import cell_models
from lightnorm_sim import build, read_ports
from lightnorm_sim.layer import compare

from .small import BUILD_DIR, LIBRARY, MACHINE, layers


def test_netlist_equals_the_model(machine: Path, mapped: Path) -> None:
    text = (mapped / "gates.v").read_text()
    assert "GATE " in text and "DFF " in text and "FA " in text  # clock gates, registers, adders: all of the library
    built = build(mapped / "gates.v", read_ports(machine / f"{TOP}.json"), "verilator", BUILD_DIR)
    for seed in range(3):  # also of the state before reset
        given = layers(seed)
        results = built.run([layer.run for layer in given], seed=seed)
        assert [compare(layer, result) for layer, result in zip(given, results, strict=True)] == [None] * 3, seed


@pytest.mark.slow
def test_a_wrong_cell_is_found(machine: Path, mapped: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "gates.v"
    models = cell_models(LIBRARY, {"FA"})
    assert models in (mapped / "gates.v").read_text()
    wrong.write_text((mapped / "gates.v").read_text().replace(models, models.replace("(A ^ B ^ CI)", "(A ^ B | CI)")))
    layer = layers(0)[1]
    result, = build(wrong, read_ports(machine / f"{TOP}.json"), "verilator", BUILD_DIR).run([layer.run])
    assert "differ from the golden model" in (compare(layer, result) or "")


def test_mapping_is_done_once(machine: Path, mapped: Path) -> None:
    def step(message: str) -> None:
        raise AssertionError(message)

    arguments = {"top": TOP, "lanes": MACHINE.lanes, "out_dir": machine / "gates"}
    assert map_to_cells(machine / f"{TOP}.v", library=LIBRARY, step=step, **arguments) == mapped
