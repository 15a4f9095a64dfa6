"""The files that `generate` writes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lightnorm.config import load_config
from lightnorm.generate import generate
from lightnorm_sim import lint, read_ports

CONFIGS = {path.stem: path for path in sorted((Path(__file__).parents[3] / "configs").glob("*.toml"))}
AGAIN = """
import sys
from pathlib import Path
from lightnorm.config import load_config
from lightnorm.generate import generate
generate(load_config(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def test_the_documented_configurations_exist() -> None:
    assert {"tiny", "default", "paper", "small"} <= set(CONFIGS)


def test_same_bytes_every_time(tmp_path: Path) -> None:
    path = CONFIGS["tiny"]
    generate(load_config(path), tmp_path / "first")
    generate(load_config(path), tmp_path / "second")
    for seed in ("1", "4711"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", AGAIN, str(path), str(tmp_path / seed)], env=environment, check=True)
    for name in ("lightnorm.v", "lightnorm.json"):
        assert len({(tmp_path / run / name).read_bytes() for run in ("first", "second", "1", "4711")}) == 1


@pytest.mark.parametrize("name", ["tiny", "default", "paper"])
def test_files(name: str, tmp_path: Path) -> None:
    config = load_config(CONFIGS[name])
    description = generate(config, tmp_path)
    verilog = tmp_path / "lightnorm.v"
    text = verilog.read_text()
    assert json.loads((tmp_path / "lightnorm.json").read_text()) == description
    assert description["hash"] == config.hash
    assert description["config"] == config.resolved()
    assert f"// Configuration {config.hash}: " in "\n".join(text.splitlines()[:3])

    ports = read_ports(tmp_path / "lightnorm.json")
    top = text[text.index("\nmodule lightnorm(") :]
    declared = {
        found[3]: (found[1], int(found[2] or 0) + 1)
        for found in re.finditer(r"^  (input|output) (?:\[(\d+):0\] )?(\w+) ?;", top[: top.index("\nendmodule")], re.M)
    }
    assert declared == {port: tuple(value) for port, value in ports.items()}

    # state comes from the reset alone, and a memory of any size costs a line
    assert not re.search(r"^\s*initial\b(?!\s*begin\s*$)|\$readmem", text, re.M)
    assert str(tmp_path) not in text and not re.search(r"/\w+/\w+\.py\b", text)

    assert lint(verilog) == []
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
