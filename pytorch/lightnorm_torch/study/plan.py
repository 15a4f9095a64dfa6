"""What the study runs: sections of rows, a row being a normalization and the trainings that it goes through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightnorm_golden import GAINS

from .train import Training
from .variants import Variant, authors, batch_norm, blocks, only_inference, range_norm, without_extrema

__all__ = ["AT_ONCE", "CELLS", "DEFAULT", "REFERENCE", "SMALL", "Row", "Section", "plan", "reference_of"]

AT_ONCE = 20
"""Most seeds that train side by side."""

Cell = tuple[str, str]
CELLS: tuple[Cell, ...] = tuple((data, network) for data in ("digits", "ising") for network in ("resnet", "mobilenet"))
"""Data sets and networks."""

TWO_CELLS = (("digits", "mobilenet"), ("ising", "resnet"))
DIGITS = CELLS[:2]
ONE_CELL = (("ising", "resnet"),)
_EPOCHS_AND_RATE = {
    ("digits", "resnet"): (20, 0.1), ("digits", "mobilenet"): (20, 0.2),
    ("ising", "resnet"): (4, 0.05), ("ising", "mobilenet"): (4, 0.1),
}  # fmt: skip

DEFAULT, REFERENCE = blocks(), batch_norm()
SMALL = blocks("e4m4", "e5m3")
"""The formats of configs/default.toml, nn.BatchNorm2d, the formats of configs/small.toml."""


@dataclass(frozen=True)
class Row:
    """A line of a table: a variant in each of `trainings`, which are of different cells."""

    label: str
    variant: Variant
    trainings: tuple[Training, ...]


@dataclass(frozen=True)
class Section:
    """A table; `seeds`: how many, from 0; `reference`: what its rows are compared with."""

    name: str
    title: str
    seeds: int
    rows: tuple[Row, ...]
    reference: Variant = REFERENCE


def training(data: str, network: str, **changes: Any) -> Training:
    """The setting that everything is trained with, but for `changes`."""
    epochs, rate = _EPOCHS_AND_RATE[data, network]
    return replace(Training(data, network, epochs=epochs, rate=rate), **changes)


def reference_of(changed: Training) -> Training:
    """Where the reference trains: a power of two as loss scale leaves float32 as it is."""
    return replace(changed, loss_scale=Training.loss_scale)


def rows(variants: Sequence[Variant], cells: Sequence[Cell], note: str = "", **changes: Any) -> list[Row]:
    """A row for each variant."""
    trainings = tuple(training(*cell, **changes) for cell in cells)
    return [Row(note + variant.name, variant, trainings) for variant in variants]


def plan(seeds: int) -> list[Section]:
    """Everything, the most telling first; `seeds` for most settings, three times as many in the main comparison."""
    formats = [
        blocks("e8m10", "e8m10"), blocks("e5m5", "e6m4"), blocks(block_size=4), DEFAULT, SMALL, blocks("e4m4", "e5m2"),
        blocks("e5m3", "e6m3"), blocks("e5m4", "e6m1"), blocks("e4m1", "e5m1"),
    ]  # fmt: skip
    gains = [range_norm(gain) for gain in GAINS]
    dropped = [without_extrema(False), without_extrema(True)]
    inferred = [only_inference(activation) for activation in ("e5m4", "e5m3", "e5m2")]
    in_batches = [
        row
        for batch in (8, 32, 128)
        for row in [
            *rows([REFERENCE, DEFAULT], TWO_CELLS, f"batch {batch}: ", batch=batch),
            *rows([authors()], ONE_CELL, f"batch {batch}: ", batch=batch),
        ]
    ]
    short = [blocks("e5m4", "e5m3"), blocks("e5m4", "e4m3")]
    scaled = [
        row
        for exponent in (0, 10)
        for row in rows([DEFAULT, *short], ONE_CELL, f"loss times 2^{exponent}: ", loss_scale=2.0**exponent)
    ]
    exponents = [DEFAULT, blocks("e3m4", "e6m3"), blocks("e2m4", "e6m3")]
    shifted = [
        row
        for offset in (0, 4, 16)
        for row in rows([REFERENCE, DEFAULT], ONE_CELL, f"pixels + {offset}: ", offset=float(offset))
    ]
    tiny = [
        row
        for batch in (2, 4, 32)
        for row in rows([REFERENCE, DEFAULT], ONE_CELL, f"batch {batch}, one epoch: ", batch=batch, epochs=1)
    ]
    others = [authors(), authors(largest="saturates"), authors(shared="largest")]
    wider = [blocks(block_size=4), blocks("e5m5", "e6m4")]
    sections = [
        ("main", "This project's formats against FP32", 3 * seeds, rows([REFERENCE, DEFAULT], CELLS)),
        ("authors", "The LightNorm authors' settings", seeds, rows([REFERENCE, authors()], TWO_CELLS)),
        ("gains", "Range batch norm in FP32, each gain", seeds, rows([REFERENCE, *gains], TWO_CELLS)),
        ("inference", "Only inference in this arithmetic", seeds, rows([REFERENCE, *inferred], TWO_CELLS)),
        ("dropped", "Extremum terms of the gradient dropped", seeds, rows([REFERENCE, *dropped], TWO_CELLS)),
        ("scales", "Loss scaling, by the gradient's format", seeds, rows([REFERENCE], ONE_CELL) + scaled),
        ("formats", "Formats from generous to too small", seeds, rows([REFERENCE, *formats], TWO_CELLS)),
        ("batches", "Batch sizes", seeds, in_batches),
        ("offsets", "Inputs with a large mean", seeds, shifted),
        ("exponents", "Ranges of the activations' exponent", seeds, rows([REFERENCE, *exponents], ONE_CELL)),
        ("tiny", "Tiny batches", seeds, tiny),
        ("small", "configs/small.toml against the default", 2 * seeds, rows([DEFAULT, SMALL], CELLS)),
        ("readings", "Other readings of the authors' settings", seeds, rows([REFERENCE, *others], ONE_CELL)),
        ("wider", "Formats that cost more than the default", 3 * seeds, rows([REFERENCE, *wider], DIGITS)),
    ]
    return [
        Section(name, title, count, tuple(lines), DEFAULT if name == "small" else REFERENCE)
        for name, title, count, lines in sections
    ]
