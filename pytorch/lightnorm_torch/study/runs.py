"""Finished runs in a file of JSON lines, one for each run, so that a study can stop anywhere and go on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from .train import Result, Training
from .variants import Variant

__all__ = ["Runs"]


def _key(training: Training, variant: Variant, seed: int) -> str:
    """All that decides a result."""
    return json.dumps({**asdict(training), "norm": variant.settings, "seed": seed}, sort_keys=True)


class Runs:
    """The runs in `path`, which need not exist. A last line without its end, of a stopped write, is removed.

    Raises ValueError for another line that is no run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: dict[str, Result] = {}
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        if lines and not lines[-1].endswith("\n"):
            path.write_text("".join(lines[:-1]), encoding="utf-8")
            lines.pop()
        for number, line in enumerate(lines, start=1):
            try:
                entry = json.loads(line)
                settings = entry["settings"]
                result = Result(settings["seed"], entry["accuracy"], entry["loss"])
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path}, line {number}, is not a run of this study; move the file away") from None
            self._found[json.dumps(settings, sort_keys=True)] = result

    def __len__(self) -> int:
        return len(self._found)

    def missing(self, training: Training, variant: Variant, seeds: Iterable[int]) -> list[int]:
        """Of the seeds."""
        return [seed for seed in seeds if _key(training, variant, seed) not in self._found]

    def results(self, training: Training, variant: Variant, seeds: Iterable[int]) -> list[Result]:
        """Of the seeds, in their order; without those that are missing."""
        keys = (_key(training, variant, seed) for seed in seeds)
        return [self._found[key] for key in keys if key in self._found]

    def add(self, training: Training, variant: Variant, results: Sequence[Result]) -> None:
        """Append finished runs to the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = []
        for result in results:
            key = _key(training, variant, result.seed)
            self._found[key] = result
            entry = {"settings": json.loads(key), "accuracy": result.accuracy, "loss": result.loss}
            lines.append(json.dumps(entry) + "\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
