"""Running external programs, and keeping what they make."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from lightnorm.yosys import ToolFailed, ToolMissing

__all__ = ["find_tool", "fingerprint", "make_once", "run_tools"]

Command = Sequence[str | Path]


def find_tool(*names: str, advice: str) -> str:
    """Path of the first of these programs that is installed."""
    for name in names:
        if path := shutil.which(name):
            return path
    raise ToolMissing(f"{' or '.join(names)} was not found: {advice}")


def run_tools(
    commands: Mapping[str, Command], directory: Path, *, environment: Mapping[str, str] | None = None
) -> None:
    """Run the commands at the same time; what command ``name`` says goes to ``directory/name.log``."""
    running = []
    for name, command in commands.items():
        with (directory / f"{name}.log").open("wb") as log:
            running.append(subprocess.Popen(
                list(map(str, command)), cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=os.environ | dict(environment or {}),
            ))
    statuses = [process.wait() for process in running]
    for (name, command), status in zip(commands.items(), statuses, strict=True):
        if status != 0:
            raise ToolFailed(Path(command[0]).name, directory / f"{name}.log", status)


def fingerprint(*parts: str | bytes) -> str:
    """A short name for this content."""
    digest = sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def make_once(directory: Path, make: Callable[[Path], None]) -> None:
    """Let ``make`` fill ``directory`` unless that was done before, also if several processes want it at once.

    It works in a directory beside, which stays for inspection if it fails.
    """
    if directory.is_dir():
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = directory.with_name(f"{directory.name}.unfinished")
    with _lock(directory.with_name(f"{directory.name}.lock")):
        if not directory.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(directory)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
