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
SENSITIVE = (("digits", "mobilenet"),)
ONE_CELL = (("ising", "resnet"),)
_EPOCHS_AND_RATE = {
    ("digits", "resnet"): (20, 0.1), ("digits", "mobilenet"): (20, 0.2),
    ("ising", "resnet"): (4, 0.05), ("ising", "mobilenet"): (4, 0.1),
}  # fmt: skip

DEFAULT, REFERENCE = blocks(), batch_norm()
SMALL = blocks("e4m4", "e5m3")
"""The formats of configs/default.toml, nn.BatchNorm2d, the formats of configs/small.toml."""

GENEROUS, IN_FLOAT32 = blocks("e8m10", "e8m10"), range_norm("d2")


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
    """Everything, the most telling first; `seeds` for most settings, up to six times as many where it matters."""
    four, eight = blocks("e4m4", "e5m3", 4), blocks("e4m5", "e5m3", 8)
    activations, wider = blocks("e4m5", "e5m3"), blocks("e5m5", "e6m4")
    formats = [
        GENEROUS, wider, blocks(block_size=4), DEFAULT, SMALL, blocks("e4m4", "e5m2"), blocks("e5m3", "e6m3"),
        blocks("e5m4", "e6m1"), blocks("e4m1", "e5m1"),
    ]  # fmt: skip
    screened = [
        GENEROUS, blocks(block_size=4), wider, blocks("e4m5", "e5m4"), four, eight, activations, blocks("e4m4", "e5m4"),
        blocks("e4m4", "e5m3", 8), DEFAULT, SMALL, blocks("e4m5", "e5m2"), blocks("e4m4", "e5m2", 8),
    ]  # fmt: skip
    tried = [GENEROUS, four, eight, activations]
    named = [DEFAULT, SMALL, wider]
    beside = rows(named, CELLS) + rows(tried, SENSITIVE)
    gains = [range_norm(gain) for gain in GAINS]
    dropped = [without_extrema(False), without_extrema(True)]
    inferred = [only_inference(activation) for activation in ("e5m4", "e5m3", "e5m2")]
    in_batches = [
        row
        for batch in (8, 32, 128)
        for row in rows([REFERENCE, IN_FLOAT32, DEFAULT, authors()], SENSITIVE, f"batch {batch}: ", batch=batch)
    ]
    short = [blocks("e5m4", "e5m3"), blocks("e5m4", "e4m3")]
    scaled = [
        row
        for exponent in (0, 10)
        for row in rows([DEFAULT, *short], ONE_CELL, f"loss times 2^{exponent}: ", loss_scale=2.0**exponent)
    ]
    some, more, most = seeds, 2 * seeds, 3 * seeds
    return [
        section("main", "This project's formats against FP32", most, rows([IN_FLOAT32, *named], CELLS)),
        section("near", "Other formats against FP32", most, rows(tried, SENSITIVE)),
        section("cost", "Formats against range batch norm in FP32", most, beside, IN_FLOAT32),
        section("small", "Against the default", most, rows([SMALL, wider], CELLS), DEFAULT),
        section("again", "With more seeds", 2 * most, rows([IN_FLOAT32, GENEROUS, DEFAULT], SENSITIVE)),
        section("apart", "The same beside range FP32", 2 * most, rows([GENEROUS, DEFAULT], SENSITIVE), IN_FLOAT32),
        section("screened", "Formats around the default", more, rows(screened, SENSITIVE)),
        section("formats", "Formats from generous to too small", some, rows(formats, SENSITIVE)),
        Section("batches", "Batch sizes", some, tuple(in_batches)),
        section("authors", "The LightNorm authors' settings", some, rows([authors()], TWO_CELLS)),
        section("gains", "Range batch norm in FP32, each gain", some, rows(gains, TWO_CELLS)),
        section("inference", "Only inference in this arithmetic", some, rows(inferred, TWO_CELLS)),
        section("dropped", "Extremum terms of the gradient dropped", some, rows(dropped, TWO_CELLS)),
        section("scales", "Loss scaling, by the gradient's format", some, scaled),
    ]


def section(name: str, title: str, seeds: int, compared: Sequence[Row], reference: Variant = REFERENCE) -> Section:
    """With the reference as its first row, in every cell of the others."""
    cells = dict.fromkeys((training.data, training.network) for row in compared for training in row.trainings)
    return Section(name, title, seeds, (*rows([reference], tuple(cells)), *compared), reference)
