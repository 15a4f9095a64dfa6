"""How often the signals of a simulation change, counted in its waves (VCD) between two times."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Activity", "read_activity"]

CHUNK = 1 << 26  # bytes that are looked at together
NEWLINE, HASH, ZERO, ONE = b"\n#01"


@dataclass(frozen=True)
class Activity:
    """Of each signal, bit by bit with bit 0 first: how often it changed, and the share of the time it was 1."""

    cycles: int
    toggles: dict[str, NDArray[np.int64]] = field(repr=False)
    high: dict[str, NDArray[np.float64]] = field(repr=False)


def read_activity(waves: Path, scope: str, *, clock: str, window: tuple[int, int]) -> Activity:
    """Count the changes of the signals that are directly in `scope`, such as "harness.dut".

    `clock` is a counter of cycles, such as "harness.cycle"; the window begins when it becomes the first number and ends
    before it becomes the second. Signals must not be undefined in it. Raises ValueError for waves without these.
    """
    with waves.open("rb") as file:
        signals = _declared(iter(file.readline, b""))
        position = file.tell()
    if clock not in signals:
        raise ValueError(f"{waves} has no signal {clock}")
    places = ((name.rpartition("."), what) for name, what in signals.items())
    inside = {name: what for (place, _, name), what in places if place == scope}
    if not inside:
        raise ValueError(f"{waves} has no signals in {scope}")
    scalars = {code for code, width in inside.values() if width == 1}
    vectors = {code: width for code, width in inside.values() if width > 1}
    count = _Count(sorted(scalars), vectors, signals[clock][0], window)
    with waves.open("rb") as file:
        file.seek(position)
        rest = b""
        while data := file.read(CHUNK):
            data = rest + data
            # whole time steps only; what comes before the first time is not one
            whole = data.rfind(b"\n#") + 1
            count.add(data[:whole])
            rest = data[whole:]
        count.add(rest)
    if count.begin is None or count.end is None:
        raise ValueError(f"{waves}: {clock} does not take the values {window[0]} and {window[1]}")
    toggles, high = count.result()
    return Activity(
        window[1] - window[0],
        {name: toggles[code] for name, (code, _) in inside.items()},
        {name: high[code] for name, (code, _) in inside.items()},
    )


def _declared(lines: Iterator[bytes]) -> dict[str, tuple[bytes, int]]:
    """Code and width of each signal, by its full name."""
    signals, scopes = {}, []
    for line in lines:
        words = line.split()
        if words[:1] == [b"$scope"]:
            scopes.append(words[2].decode())
        elif words[:1] == [b"$upscope"]:
            scopes.pop()
        elif words[:1] == [b"$var"]:
            signals[".".join([*scopes, words[4].decode()])] = (words[3], int(words[2]))
        elif words[:1] == [b"$enddefinitions"]:
            break
    return signals


class _Count:
    """Changes so far."""

    def __init__(self, scalars: list[bytes], vectors: dict[bytes, int], clock: bytes, window: tuple[int, int]) -> None:
        keys = np.array([int.from_bytes(code, "little") for code in scalars], np.int64)
        self.order = np.argsort(keys)
        self.keys = keys[self.order]
        self.scalars, self.vectors = scalars, vectors
        self.clock, self.window = clock, window
        self.begin: int | None = None
        self.end: int | None = None
        self.toggles = np.zeros(len(scalars), np.int64)
        self.value = np.zeros(len(scalars), bool)
        self.risen = np.zeros(len(scalars), np.float64)  # sum of the times of falls less that of rises
        self.before = np.zeros(len(scalars), bool)  # values when the window began
        self.after = np.zeros(len(scalars), bool)  # when it ended
        self.words: dict[bytes, list[tuple[int, int]]] = {code: [] for code in vectors}  # time and value

    def add(self, data: bytes) -> None:
        """Count in the text of some time steps, the next ones."""
        text = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(text == NEWLINE)
        if not ends.size:
            return
        starts = np.concatenate(([0], ends[:-1] + 1))
        kinds = text[starts]
        steps = np.flatnonzero(kinds == HASH)
        times = np.array([int(data[starts[line] + 1 : ends[line]]) for line in steps], np.int64)
        step = np.cumsum(kinds == HASH) - 1
        for line in np.flatnonzero((kinds == ord("b")) & (step >= 0)):
            bits, code = data[starts[line] + 1 : ends[line]].split()
            if code == self.clock:
                self._clock(int(bits, 2), int(times[step[line]]))
            if code in self.words:
                self.words[code].append((int(times[step[line]]), int(bits.translate(None, b"xz") or b"0", 2)))
        lines = np.flatnonzero(((kinds == ZERO) | (kinds == ONE)) & (step >= 0))
        signal, known = self._signals(text, starts[lines] + 1, ends[lines])
        when, value = times[step[lines]][known], kinds[lines][known] == ONE
        begin, end = (np.inf if time is None else time for time in (self.begin, self.end))
        for place, state in ((when < begin, self.before), (when < end, self.after)):
            state[signal[place]] = value[place]  # of several, the last stays
        inside = (when >= begin) & (when < end)
        self.toggles += np.bincount(signal[inside], minlength=len(self.toggles))
        signed = np.where(value[inside], -1.0, 1.0) * when[inside]
        self.risen += np.bincount(signal[inside], signed, len(self.toggles))

    def result(self) -> tuple[dict[bytes, NDArray[np.int64]], dict[bytes, NDArray[np.float64]]]:
        """Changes, and share of the time at 1, by code."""
        assert self.begin is not None and self.end is not None
        high = (self.risen + self.after * float(self.end) - self.before * float(self.begin)) / (self.end - self.begin)
        toggles = {code: self.toggles[index : index + 1] for index, code in enumerate(self.scalars)}
        share = {code: high[index : index + 1] for index, code in enumerate(self.scalars)}
        for code, width in self.vectors.items():
            toggles[code], share[code] = _of_words(self.words[code], width, self.begin, self.end)
        return toggles, share

    def _clock(self, cycle: int, time: int) -> None:
        if cycle == self.window[0]:
            self.begin = time
        if cycle == self.window[1]:
            self.end = time

    def _signals(
        self, text: NDArray[np.uint8], starts: NDArray[Any], ends: NDArray[Any]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Index of the scalar of each line, for the lines that have one, and which these are."""
        keys = np.zeros(len(starts), np.int64)
        for place in range(int((ends - starts).max(initial=0))):
            there = starts + place < ends
            keys[there] |= text[starts[there] + place].astype(np.int64) << 8 * place
        found = np.searchsorted(self.keys, keys)
        known = found < len(self.keys)
        known[known] = self.keys[found[known]] == keys[known]
        return self.order[found[known]], known


def _of_words(
    words: list[tuple[int, int]], width: int, begin: int, end: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Changes, and share of the time at 1, of the bits of a vector."""
    size = (width + 7) // 8
    earlier = [value for time, value in words if time < begin][-1:] or [0]
    inside = [(time, value) for time, value in words if begin <= time < end]
    values = [*earlier, *(value for _, value in inside)]
    data = np.frombuffer(b"".join(value.to_bytes(size, "little") for value in values), np.uint8).reshape(-1, size)
    bits = np.unpackbits(data, axis=1, bitorder="little")[:, :width].astype(np.int64)
    lasting = np.diff([begin, *(time for time, _ in inside), end]).astype(np.float64)
    return np.abs(np.diff(bits, axis=0)).sum(axis=0), lasting @ bits / (end - begin)
