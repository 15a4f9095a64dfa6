"""What came of a simulation: something wrong with the streams, or the words and times of each run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice, pairwise
from typing import NamedTuple

from lightnorm_sim.files import StreamLog
from lightnorm_sim.harness import SINKS, Ports

__all__ = ["RunResult", "SimulationError", "Transfers", "by_run", "check"]

Logs = Mapping[str, StreamLog]
Counts = Mapping[str, list[int]]
"""For each stream the number of words expected in each run."""


class SimulationError(Exception):
    """The machine broke the rules of its streams; the message tells where, and how to see it again."""


class Transfers(NamedTuple):
    """One stream in one run, in cycles since reset."""

    offered: int  # valid for the first word
    first: int  # the first word was taken
    last: int  # the last word was taken
    held: int  # cycles valid and not ready
    starved: int  # cycles ready and not valid; of an output, after its first word


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What came out of one run, and when."""

    output: list[int]
    last: list[bool]
    results: list[int]
    two_pass: bool | None  # what the machine said of the descriptor; None if it does not tell
    transfers: Mapping[str, Transfers] = field(repr=False)  # of run, x, grad, parameters, o, results: those with words

    @property
    def start(self) -> int:
        """Cycle in which the descriptor was offered, or a first word taken if that was before."""
        return min(self.transfers["run"].offered, *(stream.first for stream in self.transfers.values()))

    @property
    def cycles(self) -> int:
        """Cycles from the start to the last transfer, both included."""
        return max(stream.last for stream in self.transfers.values()) - self.start + 1


def check(logs: Logs, counts: Counts, patience: int) -> None:
    """Raise what the harness found wrong; if it found nothing, what the numbers of words tell."""
    problems = _broken_rules(logs, counts) or _wrong_counts(logs, counts, patience)
    if problems:
        raise SimulationError("\n".join(problems))


def _broken_rules(logs: Logs, counts: Counts) -> list[str]:
    problems = []
    for name, log in logs.items():
        if log.failure:
            problems.append(f"stream {name}: {log.failure}, {_place(log.words, counts[name])}")
        if name in SINKS:
            undefined = (index for index, record in enumerate(log.records) if record[-1].strip("0123456789abcdef"))
            for index in islice(undefined, 1):
                cycle, *_, word = log.records[index]
                place = _place(index, counts[name])
                problems.append(f"stream {name}: undefined bits in {word} (cycle {cycle}), {place}")
    return problems


def _wrong_counts(logs: Logs, counts: Counts, patience: int) -> list[str]:
    problems = []
    surplus = {name: log.words - sum(counts[name]) for name, log in logs.items()}
    for name, more in surplus.items():
        if more > 0:
            since = logs[name].records[-more][0]
            problems.append(f"stream {name}: {more} words more than the {sum(counts[name])} expected (cycle {since})")
    if min(surplus.values()) < 0:
        problems.append(f"hang: nothing moved for {patience} cycles, until cycle {logs['run'].finished}")
        for name, log in logs.items():
            waiting = f", waiting at {_place(log.words, counts[name])}" if surplus[name] < 0 else ""
            problems.append(f"stream {name}: {log.words} of {sum(counts[name])} words{waiting}")
    return problems


def _place(index: int, counts: Sequence[int]) -> str:
    """Which word of which run the word ``index`` of a stream is, counting from 0."""
    for run, (start, end) in enumerate(pairwise(accumulate(counts, initial=0))):
        if start <= index < end:
            return f"run {run}, word {index - start} of {end - start}"
    return "after the last"


def by_run(logs: Logs, counts: Counts, ports: Ports) -> list[RunResult]:
    """Deal what the harness saw to the runs."""
    left = {name: iter(log.records) for name, log in logs.items()}
    last = 1 << ports["o__payload"][1] - 1
    results = []
    for run in range(len(counts["run"])):
        transfers: dict[str, Transfers] = {}
        words: dict[str, list[int]] = {}
        two_pass = None
        for name, count in ((name, words_of_runs[run]) for name, words_of_runs in counts.items()):
            records = list(islice(left[name], count if name in SINKS else min(count, 1)))
            if name in SINKS:
                words[name] = [int(record[-1], 16) for record in records]
                if records:
                    transfers[name] = _output_transfers(records)
            elif records:
                transfers[name] = Transfers(*map(int, records[0][:-1]))
                if name == "run" and "o_two_pass" in ports:
                    two_pass = records[0][-1] == "1"
        results.append(RunResult(
            output=[word & ~last for word in words["o"]],
            last=[bool(word & last) for word in words["o"]],
            results=words.get("results", []),
            two_pass=two_pass,
            transfers=transfers,
        ))
    return results


def _output_transfers(records: Sequence[Sequence[str]]) -> Transfers:
    cycles, held, starved = ([int(record[column]) for record in records] for column in range(3))
    return Transfers(cycles[0] - held[0], cycles[0], cycles[-1], sum(held), sum(starved[1:]))
