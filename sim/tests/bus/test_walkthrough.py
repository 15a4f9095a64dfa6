"""Every command of docs/walkthrough.md does what the page says, except for the installation."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .axi import HERE

ROOT = HERE.parents[2]


def steps() -> list[tuple[str, list[str]]]:
    """The commands, and what comes out of each."""
    found: list[tuple[str, list[str]]] = []
    for line in re.findall(r"^    (.*)$", (ROOT / "docs" / "walkthrough.md").read_text(), re.M):
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        else:
            found[-1][1].append(line)
    return found


@pytest.mark.slow
def test_walkthrough(tmp_path: Path) -> None:
    for folder in ("configs", "driver", "examples"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    programs = Path(sys.executable).parent
    environment = os.environ | {"PATH": os.pathsep.join([str(programs), os.environ["PATH"]]), "HOME": str(tmp_path)}
    commands = steps()
    assert [command.split()[0] for command, _ in commands[:2]] == ["python3", "pip"]
    for command, output in commands[2:]:
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        for line in output:
            assert line in done.stdout, f"{command}\n{done.stdout}"
