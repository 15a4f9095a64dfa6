"""The whole study: trains what is missing, then writes study.json, study.md and the plots."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .data import best_by_energy, load
from .failures import failures
from .plan import AT_ONCE, Section, plan, reference_of
from .plots import draw
from .runs import Runs
from .summary import summarize
from .tables import intro, markdown, plain_tables
from .train import Training, train
from .variants import Variant

__all__ = ["Study", "quick_plan"]

Group = tuple[Training, Variant, Sequence[int]]
"""Runs that train together."""

QUICK_SECTIONS = ("main", "gains", "authors", "dropped")


def quick_plan(seeds: int) -> list[Section]:
    """A few sections, an epoch, the same few seeds everywhere: shows that everything runs, and nothing else."""
    return [
        replace(
            section,
            seeds=seeds,
            rows=tuple(
                replace(row, trainings=tuple(replace(training, epochs=1) for training in row.trainings))
                for row in section.rows
            ),
        )
        for section in plan(seeds)
        if section.name in QUICK_SECTIONS
    ]


class Study:
    """A plan and the runs of it that are in `folder`/runs.jsonl.

    Raises ValueError for less than two seeds, which have no deviation, and for a file that is not of a study.
    """

    def __init__(self, folder: Path, *, seeds: int = 10, quick: bool = False) -> None:
        if seeds < 2:
            raise ValueError(f"--seeds must be at least 2, not {seeds}: an interval needs two pairs")
        self.folder, self.command = folder, f"lightnorm study --seeds {seeds}" + (" --quick" if quick else "")
        self.sections = quick_plan(seeds) if quick else plan(seeds)
        self.runs = Runs(folder / "runs.jsonl")

    @property
    def missing(self) -> list[Group]:
        """In the plan's order, a reference before what it serves; at most AT_ONCE seeds each."""
        wanted: dict[str, Group] = {}
        for section in self.sections:
            for row in section.rows:
                for training in row.trainings:
                    for at, variant in ((reference_of(training), section.reference), (training, row.variant)):
                        before = wanted.setdefault(repr((at, variant.settings)), (at, variant, range(0)))
                        most = range(max(section.seeds, len(before[2])))
                        wanted[repr((at, variant.settings))] = (at, variant, most)
        found: list[Group] = []
        for training, variant, of in wanted.values():
            seeds = self.runs.missing(training, variant, of)
            found += [(training, variant, seeds[i : i + AT_ONCE]) for i in range(0, len(seeds), AT_ONCE)]
        return found

    def run(self, step: Callable[[str], None] = lambda what: None) -> dict[str, Any]:
        """Do what is missing, and write the results: -> what study.json holds. `step` is told what begins."""
        todo = self.missing
        for number, (training, variant, seeds) in enumerate(todo, start=1):
            where = f"{training.data}, {training.network}, batch {training.batch}"
            step(f"{number} of {len(todo)}: {variant.name}; {where}; {len(seeds)} seeds")
            self.runs.add(training, variant, train(training, seeds, variant.norm, variant.at_test))
        step("writing tables and plots")
        return self.write()

    def write(self) -> dict[str, Any]:
        """study.json, study.md and the plots, of the sections that are finished."""
        content: dict[str, Any] = {
            "command": self.command,
            "torch": torch.__version__,
            "machine": platform.machine(),
            "sections": summarize(self.sections, self.runs),
            "layers": failures(),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        plots = draw(content["sections"], self.folder)
        pictures = "".join(f"![{file.stem}]({file.name})\n\n" for file in plots)
        text = f"{intro(self.command, 100 * best_by_energy(load('ising')))}\n{pictures}"
        text += f"{markdown(content['sections'])}\n{plain_tables(content['layers'])}"
        for name, data in (("study.json", json.dumps(content, indent=1) + "\n"), ("study.md", text)):
            partial = self.folder / f".{name}.partial"
            partial.write_text(data, encoding="utf-8")
            partial.replace(self.folder / name)
        return content
