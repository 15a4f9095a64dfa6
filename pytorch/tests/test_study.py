"""The study's own logic: copies side by side, paired statistics, runs that go on, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from lightnorm.config import load_config
from lightnorm_flow.cli import app
from lightnorm_torch import LightNorm2d
from lightnorm_torch.study import study as study_module
from lightnorm_torch.study.data import Data, best_by_energy, load, split
from lightnorm_torch.study.networks import NETWORKS, build
from lightnorm_torch.study.plan import DEFAULT, REFERENCE, SMALL, Row, Section, plan, reference_of
from lightnorm_torch.study.runs import Runs
from lightnorm_torch.study.statistics import Paired, paired
from lightnorm_torch.study.study import Study
from lightnorm_torch.study.train import Result, Training, train
from lightnorm_torch.study.variants import authors, blocks, only_inference

CONFIGS = Path(__file__).parents[2] / "configs"
SHORT = Training("digits", "mobilenet", batch=300, epochs=1)


# ---------------------------------------------------------------------------------------------------------------------
# Statistics
# ---------------------------------------------------------------------------------------------------------------------


def test_paired_by_hand() -> None:
    """Differences 1, 2, 3, 6: mean 3, deviation sqrt(14/3), error 1.0801, t(0.975, 3) = 3.1824 from tables."""
    found = paired([2.0, 4.0, 6.0, 10.0], [1.0, 2.0, 3.0, 4.0])
    assert (found.n, found.mean) == (4, 3.0)
    assert found.deviation == pytest.approx((14 / 3) ** 0.5)
    assert (found.low, found.high) == pytest.approx((3 - 3.1824 * 1.0801, 3 + 3.1824 * 1.0801), abs=1e-3)
    assert found.p == pytest.approx(0.0692, abs=1e-4)  # 2 P(T > 2.7775) with 3 degrees of freedom
    assert not found.within_noise


def test_paired_extremes() -> None:
    assert paired([1.0, 1.0], [1.0, 1.0]) == Paired(2, 0.0, 0.0, 0.0, 0.0, 1.0)
    assert paired([2.0, 2.0], [1.0, 1.0]) == Paired(2, 1.0, 0.0, 1.0, 1.0, 0.0)
    with pytest.raises(ValueError, match="at least two pairs, not 1 and 1$"):
        paired([1.0], [1.0])
    with pytest.raises(ValueError, match="not 2 and 3$"):
        paired([1.0, 2.0], [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    "low, high, alike", [(-0.2, 0.2, True), (-0.3, 0.3, False), (0.01, 0.2, False), (-0.2, -0.01, False)]
)
def test_within_noise(low: float, high: float, alike: bool) -> None:
    assert Paired(10, (low + high) / 2, 1.0, low, high, 0.5).within_noise is alike


# ---------------------------------------------------------------------------------------------------------------------
# Training side by side
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, LightNorm2d])
@pytest.mark.parametrize("name", NETWORKS)
def test_copies_do_not_mix(name: str, norm: type[nn.Module]) -> None:
    """Outputs and gradients of a seed's copy are those of the same network alone."""
    seeds = [3, 1, 2]
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    together, alone = build(name, 5, seeds, norm), build(name, 5, [1], norm)
    outputs = together(x).view(8, 3, 5)[:, 1], alone(x[:, 1:2]).view(8, 5)
    torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-4)
    for y in outputs:
        y.square().sum().backward()
    for ours, own in zip(together.parameters(), alone.parameters(), strict=True):
        parts = ours.grad.chunk(3)
        torch.testing.assert_close(parts[1], own.grad, rtol=0.02, atol=0.02 * float(own.grad.abs().max()))
        assert not parts[0].any() and not parts[2].any()


def test_a_seed_decides() -> None:
    """Split and order come from the seed alone; splits of two seeds differ; no image is in both parts."""
    data = Data(np.zeros((50, 2, 2), np.float32), np.zeros(50, np.int64), 2, 20)
    parts, again = split(data, [4, 5]), split(data, [5])
    assert torch.equal(parts.train[1], again.train[0]) and torch.equal(parts.test[1], again.test[0])
    assert not torch.equal(parts.train[0], parts.train[1])
    assert sorted(torch.cat([parts.train[0], parts.test[0]]).tolist()) == list(range(50))


def test_training_learns() -> None:
    """Both normalizations; other seeds beside a seed change its result by float32's rounding at most."""
    longer = Training("digits", "resnet", batch=100, epochs=3, rate=0.1)
    for variant in (REFERENCE, DEFAULT):
        results = train(longer, [0, 1], variant.norm)
        assert [result.seed for result in results] == [0, 1]
        assert all(result.accuracy > 80 for result in results)
        (alone,) = train(longer, [1], variant.norm)
        assert abs(alone.accuracy - results[1].accuracy) < 3


def test_only_inference() -> None:
    """The same training as the reference; eleven bits of significand test as float32 does, two do not."""
    longer = Training("digits", "resnet", batch=100, epochs=3, rate=0.1)
    (reference,) = train(longer, [0], REFERENCE.norm)
    results = []
    for activation in ("e8m10", "e5m1"):
        variant = only_inference(activation)
        (result,) = train(longer, [0], variant.norm, variant.at_test)
        assert result.loss == reference.loss
        results.append(result.accuracy)
    assert abs(results[0] - reference.accuracy) < 0.5 and results[1] < reference.accuracy - 1


# ---------------------------------------------------------------------------------------------------------------------
# Runs and plan
# ---------------------------------------------------------------------------------------------------------------------


def test_runs_go_on(tmp_path: Path) -> None:
    """What was added is found again, by everything that decides it; a line that was cut short is not."""
    file = tmp_path / "new" / "runs.jsonl"
    runs = Runs(file)
    assert runs.missing(SHORT, DEFAULT, range(3)) == [0, 1, 2]
    runs.add(SHORT, DEFAULT, [Result(0, 90.0, 0.1), Result(2, 92.0, float("nan"))])
    again = Runs(file)
    assert again.missing(SHORT, DEFAULT, range(4)) == [1, 3]
    assert [result.accuracy for result in again.results(SHORT, DEFAULT, range(4))] == [90.0, 92.0]
    other = Training("digits", "mobilenet", batch=300, epochs=2)
    for training, variant in ((other, DEFAULT), (SHORT, REFERENCE), (SHORT, authors()), (SHORT, blocks("e5m3"))):
        assert again.missing(training, variant, range(3)) == [0, 1, 2]

    file.write_text(file.read_text()[:-5])
    cut = Runs(file)
    assert cut.missing(SHORT, DEFAULT, range(3)) == [1, 2]
    cut.add(SHORT, DEFAULT, [Result(1, 91.0, 0.1)])
    assert Runs(file).missing(SHORT, DEFAULT, range(3)) == [2]

    file.write_text("{}\n" + file.read_text())
    with pytest.raises(ValueError, match="runs.jsonl, line 1, is not a run of this study; move the file away$"):
        Runs(file)


def test_plan() -> None:
    """Every row's cells are different ones, sections have names of their own, the named formats are the files'."""
    sections = plan(10)
    assert len({section.name for section in sections}) == len(sections)
    assert sections[0].seeds == 30 and {section.seeds for section in sections} == {10, 20, 30, 60}
    for section in sections:
        assert len({row.label for row in section.rows}) == len(section.rows)
        for row in section.rows:
            assert len({(training.data, training.network) for training in row.trainings}) == len(row.trainings)
    assert DEFAULT.norm(1).spec == load_config(CONFIGS / "default.toml").spec
    assert SMALL.norm(1).spec == load_config(CONFIGS / "small.toml").spec


@pytest.fixture
def tiny_plan(monkeypatch: pytest.MonkeyPatch) -> list[Section]:
    """A section of two rows; without the time that the Ising model takes."""
    rows = tuple(Row(variant.name, variant, (SHORT,)) for variant in (REFERENCE, DEFAULT))
    sections = [Section("main", "A section", 2, rows)]
    monkeypatch.setattr(study_module, "plan", lambda seeds: sections)
    monkeypatch.setattr(study_module, "best_by_energy", lambda data: 0.5)
    monkeypatch.setattr(study_module, "load", lambda name: None)
    return sections


def test_command(tmp_path: Path, tiny_plan: list[Section], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains what is missing, and only that; what it writes are the accuracies of the runs, alike the second time."""
    arguments = ["study", "--out", str(tmp_path), "--seeds", "2"]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert "1 of 2: nn.BatchNorm2d FP32; digits, mobilenet, batch 300; 2 seeds" in first.stderr
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(files) == {"runs.jsonl", "study.json", "study.md", "differences.svg"}

    content = json.loads(files["study.json"])
    reference, default = (row["cells"][0] for row in content["sections"][0]["rows"])
    runs = [json.loads(line) for line in files["runs.jsonl"].decode().splitlines()]
    assert [*reference["accuracies"], *default["accuracies"]] == [round(run["accuracy"], 3) for run in runs]
    difference = [a - b for a, b in zip(default["accuracies"], reference["accuracies"], strict=True)]
    assert default["difference"]["mean"] == pytest.approx(sum(difference) / 2, abs=0.01)
    assert f"{default['difference']['mean']:+.2f}" in first.stdout

    def no_training(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(study_module, "train", no_training)
    second = CliRunner().invoke(app, arguments)
    assert second.exit_code == 0, second.output
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files

    (tmp_path / "runs.jsonl").write_bytes(b"\n".join(files["runs.jsonl"].splitlines()[:-1]) + b"\n")
    (group,) = Study(tmp_path, seeds=2).missing
    assert group[1:] == (DEFAULT, [1])


def test_references_are_trained_too() -> None:
    """Also where a row's loss is scaled otherwise than its reference's, or a section has no reference row."""
    for section in plan(2):
        todo = study_of(section).missing
        there = {(repr(training), repr(variant.settings)) for training, variant, _ in todo}
        for row in section.rows:
            for training in row.trainings:
                assert (repr(reference_of(training)), repr(section.reference.settings)) in there
                assert (repr(training), repr(row.variant.settings)) in there
        assert all(len(seeds) == section.seeds for _, _, seeds in todo)


def study_of(section: Section) -> Study:
    study = Study(Path("nowhere"), seeds=2)
    study.sections = [section]
    return study


@pytest.mark.parametrize("arguments, message", [
    (["--seeds", "1"], "--seeds must be at least 2, not 1: an interval needs two pairs"),
    (["--seeds", "-3"], "--seeds must be at least 2, not -3"),
])  # fmt: skip
def test_wrong_options(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["study", "--out", str(tmp_path / "out"), *arguments])
    assert result.exit_code == 1 and message in result.stderr and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_ising_data() -> None:
    """The best rule on the energy is far from chance and from certainty; classes are of equal size."""
    data = load("ising")
    assert np.bincount(data.labels).tolist() == [2500] * 3
    assert 0.8 < best_by_energy(data) < 0.9
