"""Runs Yosys scripts.

PyPI's ``pyosys`` is preferred: its version is pinned, so the text it writes is the same everywhere. Without it a
native ``yosys`` on the PATH serves. Either way Yosys runs in a process of its own: on errors it calls ``exit()``.
"""

import functools
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["ToolError", "ToolFailed", "ToolMissing", "run_yosys", "yosys_version"]

OLDEST_YOSYS = (0, 40)
LOG_TAIL_LINES = 12

PYOSYS_RUN = "from pyosys import libyosys; libyosys.run_pass('script -')"
PYOSYS_VERSION = "from pyosys import libyosys; print(libyosys.yosys_maybe_version())"


class ToolError(Exception):
    """An external tool could not do its work; the message says which one and what to do."""


class ToolMissing(ToolError):
    """The tool is not installed, or too old."""


class ToolFailed(ToolError):
    """The tool ran and failed; ``log`` is the file with everything it said."""

    def __init__(self, tool: str, log: Path, status: int) -> None:
        try:
            lines = log.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        how = f"was killed by signal {-status}" if status < 0 else f"failed with exit status {status}"
        tail = "\n".join(f"    {line}" for line in lines[-LOG_TAIL_LINES:])
        super().__init__(f"{tool} {how}; its log is {log}" + (f", which ends with\n{tail}" if tail else ""))
        self.log = log


def run_yosys(script: str, *, log: Path, cwd: Path | None = None) -> None:
    """Run ``script``, one command per line, in the directory ``cwd``; ``log`` gets all the output."""
    command, _ = _find_yosys()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        done = subprocess.run(command, input=script, stdout=output, stderr=subprocess.STDOUT, cwd=cwd, encoding="utf-8")
    if done.returncode != 0:
        raise ToolFailed("yosys", log, done.returncode)


def yosys_version() -> str:
    """Version of the Yosys that ``run_yosys`` runs, such as "0.70"."""
    return _find_yosys()[1]


@functools.cache
def _find_yosys() -> tuple[tuple[str, ...], str]:
    """The command that runs a script from its standard input, and its version."""
    found: list[str] = []
    if importlib.util.find_spec("pyosys") is not None:
        # -P: a file of the working directory must not stand in for a library module.
        python = (sys.executable, "-P", "-c")
        if version := _accepted_version((*python, PYOSYS_VERSION), found):
            return (*python, PYOSYS_RUN), version
    if native := shutil.which("yosys"):
        if version := _accepted_version((native, "-V"), found):
            return (native, "-s", "-"), version
    oldest = ".".join(map(str, OLDEST_YOSYS))
    unusable = f" ({'; '.join(found)})" if found else ""
    raise ToolMissing(f"Yosys {oldest} or newer was not found{unusable}: run `pip install pyosys`")


def _accepted_version(command: tuple[str, ...], found: list[str]) -> str | None:
    """The version ``command`` prints if it is new enough; otherwise ``found`` learns what was wrong."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        found.append(f"{command[0]}: {error}")
        return None
    match = re.match(r"Yosys (\d+)\.(\d+)", done.stdout)
    if not match:
        found.append(f"{command[0]} did not tell its version: {(done.stderr or done.stdout).strip()[-200:]}")
    elif (int(match[1]), int(match[2])) < OLDEST_YOSYS:
        found.append(f"{command[0]} is Yosys {match[1]}.{match[2]}")
    else:
        return f"{match[1]}.{match[2]}"
    return None
