"""The netlist mapped to a small library against the golden model, every bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lightnorm.config import Config, Implementation
from lightnorm.generate import TOP, generate
from lightnorm_flow.gate_level import map_to_cells
from lightnorm_flow.liberty import cell_models
from lightnorm_flow.simulate import prepare_layers
from lightnorm_golden import BlockFormat, NormSpec
from lightnorm_sim import build, read_ports
from lightnorm_sim.layer import Layer, Tensors, compare

LIBRARY = Path(__file__).with_name("small.lib")
BUILD_DIR = Path(__file__).parents[3] / "build" / "sim"
FORMAT = BlockFormat(3, 2, 2)
MACHINE = Config(NormSpec(FORMAT, FORMAT, 8, 3), Implementation(passes=("train", "infer"), buffer_blocks=8))


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("machine")
    generate(MACHINE, folder)
    return folder


@pytest.fixture(scope="module")
def mapped(machine: Path) -> Path:
    return map_to_cells(
        machine / f"{TOP}.v", top=TOP, library=LIBRARY, lanes=MACHINE.lanes, out_dir=machine / "gates"
    )


def layers(seed: int) -> list[Layer]:
    rng = np.random.default_rng(seed)
    tensors = Tensors(
        x=rng.normal(size=(3, 4, 9)).astype(np.float32),
        weight=rng.normal(size=4).astype(np.float32),
        bias=rng.normal(size=4).astype(np.float32),
    )
    return prepare_layers(MACHINE, ("train", "infer", "train"), tensors, eps=1e-5, momentum=0.1, chunks=4)


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
