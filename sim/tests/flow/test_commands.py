"""`lightnorm simulate --target` and `lightnorm energy`, from a configuration to their files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lightnorm_flow.cli import app
from lightnorm_flow.report import FILES

from .small import LIBRARY

CONFIG = """\
[arithmetic]
activation = { exp_bits = 3, man_bits = 2, block_size = 2 }
gradient = { exp_bits = 3, man_bits = 2, block_size = 2 }
coef_man_bits = 8
scale_man_bits = 3
[implementation]
passes = ["train", "infer"]
buffer_blocks = 8
"""


@pytest.mark.slow
def test_commands(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CONFIG)
    rng = np.random.default_rng(8)
    for name, file in FILES.items():
        shape = (4, 3, 5) if name in ("x", "grad") else 3
        np.save(tmp_path / file, np.abs(rng.normal(size=shape)).astype(np.float32))
    folder = ["--config", f"{tmp_path}/c.toml", "--target", str(LIBRARY), "--out", f"{tmp_path}/out", "--json"]

    result = CliRunner().invoke(app, ["simulate", "--input", f"{tmp_path}/activation.npy", *folder])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "simulate.json").read_text())
    assert report == json.loads(result.stdout)
    assert (report["bit_exact"], report["target"]) == (True, "small.lib")

    energies = []
    for wire in ("0", "4"):
        result = CliRunner().invoke(app, ["energy", "--data", str(tmp_path), "--wire", wire, "--traffic", "3", *folder])
        assert result.exit_code == 0, result.output
        energy = json.loads((tmp_path / "out" / "energy.json").read_text())
        assert energy == json.loads(result.stdout)
        assert (energy["target"], energy["voltage"], energy["wire_ff"]) == ("small.lib", 1.0, float(wire))
        assert list(energy["runs"]) == ["train", "infer"]
        train = energy["runs"]["train"]
        assert train["bits_per_element"] == report["bits_per_element"]
        assert train["traffic_pj_per_element"] == pytest.approx(3 * report["bits_per_element"])
        energies.append(train["logic_pj_per_element"])
    assert energies[0]["switching"] < energies[1]["switching"]
    assert energies[0]["leakage"] == energies[1]["leakage"] > 0
