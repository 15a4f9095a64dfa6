"""From finished runs to rows of numbers, plain data: what study.json holds and tables and plots show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from .plan import Row, Section, reference_of
from .runs import Runs
from .statistics import paired
from .train import Training

__all__ = ["summarize"]


def summarize(sections: Sequence[Section], runs: Runs) -> list[dict[str, Any]]:
    """Sections whose runs are all there, with their rows; each row has its cells."""
    found = []
    for section in sections:
        cells = [[_cell(section, row, training, runs) for training in row.trainings] for row in section.rows]
        if all(cell is not None for row in cells for cell in row):
            lines = [
                {"label": row.label, "norm": row.variant.settings, "bits": row.variant.bits, "cells": of_row}
                for row, of_row in zip(section.rows, cells, strict=True)
            ]
            found.append(
                {
                    "name": section.name,
                    "title": section.title,
                    "seeds": section.seeds,
                    "reference": section.reference.name,
                    "rows": lines,
                }
            )
    return found


def _cell(section: Section, row: Row, training: Training, runs: Runs) -> dict[str, Any] | None:
    """None while runs are missing."""
    seeds = range(section.seeds)
    accuracies = [result.accuracy for result in runs.results(training, row.variant, seeds)]
    if len(accuracies) < len(seeds):
        return None
    cell = {
        "training": asdict(training),
        "accuracies": [round(value, 3) for value in accuracies],
        "mean": round(float(np.mean(accuracies)), 3),
        "deviation": round(float(np.std(accuracies, ddof=1)), 3),
    }
    if row.variant != section.reference:
        reference = runs.results(reference_of(training), section.reference, seeds)
        if len(reference) < len(seeds):
            return None
        difference = paired(accuracies, [result.accuracy for result in reference])
        rounded = {name: float(f"{value:.4g}") for name, value in asdict(difference).items()}
        cell["difference"] = {**rounded, "within_noise": difference.within_noise}
    return cell
