"""The files through which the runner and the harness talk; ``harness.v`` has their form."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightnorm_sim.harness import TOP

__all__ = ["StreamLog", "read_log", "write_limits", "write_stream"]


@dataclass(frozen=True)
class StreamLog:
    """What a harness saw of one stream; the records of an input are its runs, those of an output its words."""

    records: list[list[str]]
    failure: str | None
    finished: int | None  # the cycle in which the simulation ended; None if it broke off
    words: int  # how many were taken, up to the failure if there was one


def write_limits(directory: Path, *, patience: int, watch: int) -> None:
    """Cycles without a transfer that are a hang, and cycles to go on after the last expected word."""
    (directory / f"{TOP}.in").write_text(f"{patience} {watch}\n")


def write_stream(
    directory: Path, name: str, stalls: str, expected: int, runs: Sequence[Sequence[int]], width: int
) -> None:
    """The stalls of a stream, the number of its words in all, and, if it is an input, the words of each run."""
    lines = [f"{stalls} {expected}"]
    for words in runs:
        for index, word in enumerate(words):
            if not 0 <= word < 1 << width:
                raise ValueError(f"word {index} of stream {name} must have {width} bits, not be {word:#x}")
        lines += [f"{word:x}" for word in words[:-1]]
        lines += [f"{1 << width | word:x}" for word in words[-1:]]
    (directory / f"{name}.in").write_text("\n".join(lines) + "\n")


def read_log(directory: Path, name: str) -> StreamLog:
    """Read what the harness wrote about a stream."""
    path = directory / f"{name}.log"
    records = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    failure, finished, words = None, None, 0
    if records and records[-1][0] == "end":
        _, cycle, count = records.pop()
        finished, words = int(cycle), int(count)
    for index, record in enumerate(records):
        if record[0] == "fail":
            _, cycle, count, *text = record
            failure, words = f"{' '.join(text)} (cycle {cycle})", int(count)
            del records[index:]
            break
    return StreamLog(records, failure, finished, words)
