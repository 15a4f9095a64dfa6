"""Sweeps: what is measured once, what is measured again, what fails; the ladder, the grid and the tables."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import lightnorm_flow.asic
import lightnorm_flow.measure
import lightnorm_flow.synth
from lightnorm.config import Config, Implementation
from lightnorm.yosys import ToolError
from lightnorm_flow.cli import app
from lightnorm_flow.compare import comparison_tables, kept_designs, make_comparison
from lightnorm_flow.designs import CheckedRun, Conventional, ladder
from lightnorm_flow.explore import Grid, grid_designs, make_exploration, pareto, parse_grid, read_grid
from lightnorm_flow.machine import Stream, Traffic
from lightnorm_flow.measure import Emitted, Job, NotMeasured, measure
from lightnorm_flow.synth import mapping_key
from lightnorm_golden import BlockFormat, NormSpec
from lightnorm_sim.layer import Tensors

DEFAULT = Config(
    NormSpec(BlockFormat(5, 4, 16), BlockFormat(6, 3, 16)),
    Implementation(("train", "infer", "backward"), 1, 4096),
)
LIBRARY = Path(__file__).parents[1] / "flow" / "small.lib"
TENSORS = Tensors(x=np.zeros((2, 4, 5), np.float32))


@dataclass(frozen=True)
class Fake:
    """A design whose synthesis is made up."""

    name: str
    area: float = 100.0

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"hash": self.name, "statistic": "range", "format": "f", "gradient_format": "f", "lanes": 4}

    def emit(self, folder: Path) -> tuple[Path, str]:
        (folder / "design.v").write_text(f"// {self.name}\n{self.area}\n")
        return folder / "design.v", "top"

    @property
    def traffic(self) -> Traffic:
        return Traffic(lanes=4, buffer_beats=8, streams={"train": (Stream("x", 12),)}, words={"train": 1})

    def snr_db(self, tensors: Tensors) -> dict[str, float | None]:
        return {"forward": 30.0 - self.area / 100, "backward": None}

    def checked_run(self, mode: str, tensors: Tensors) -> CheckedRun:
        raise NotImplementedError


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the targets that were synthesized for."""
    targets: list[str] = []

    def synthesize(verilog: Path, *, top: str, target: str, out_dir: Path, lanes: int, clock_ns: float | None) -> None:
        targets.append(target if clock_ns is None else f"{target} for {clock_ns:g} ns")
        area = float(verilog.read_text().splitlines()[-1])
        if area < 0:
            raise ToolError("yosys failed") if area == -1 else RuntimeError("not foreseen")
        synth = {"tool": "yosys 0", "stage_unit": "luts", "luts": area, "stages": {"a": area}}
        (out_dir / "synth.json").write_text(json.dumps(synth))

    monkeypatch.setattr(lightnorm_flow.measure, "synthesize", synthesize)
    return targets


def jobs(tmp_path: Path, *designs: Fake) -> list[Job]:
    return [Job(design, target, TENSORS, tmp_path / "cache") for target in ("ecp5", "ice40") for design in designs]


def compare(tmp_path: Path, todo: list[Job]) -> tuple[list[dict[str, Any]], list[str]]:
    said: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        return make_comparison(todo, pool, tmp_path, step=said.append), said


def test_everything_is_measured_once(tmp_path: Path, made: list[str]) -> None:
    todo = jobs(tmp_path, Fake("a"), Fake("b", 50))
    comparison, said = compare(tmp_path, todo)
    assert made == ["ecp5", "ecp5", "ice40", "ice40"]
    assert len(said) == 4 and said[1] == "b on ecp5: 12.500 LUTs per lane"
    assert [(each["name"], each["target"]) for each in comparison] == [
        ("a", "ecp5"), ("b", "ecp5"), ("a", "ice40"), ("b", "ice40"),
    ]  # fmt: skip
    assert compare(tmp_path, todo)[0] == comparison == json.loads((tmp_path / "compare.json").read_text())
    assert len(made) == 4
    compare(tmp_path, [*todo, *jobs(tmp_path, Fake("c", 25))])
    assert made[4:] == ["ecp5", "ice40"]


def test_the_same_verilog_is_the_same_design(tmp_path: Path, made: list[str]) -> None:
    comparison, _ = compare(tmp_path, jobs(tmp_path, Fake("a"), Fake("renamed"), Fake("b", 50)))
    assert made == ["ecp5", "ecp5", "ice40", "ice40"]
    assert [each["luts"] for each in comparison] == [100, 100, 50] * 2


def test_what_decides_a_mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another key for whatever changes the netlist or what is said of it, and for nothing else."""
    library, same, other = (tmp_path / name for name in ("a.lib", "same.lib", "other.lib"))
    text = LIBRARY.read_text()
    library.write_text(text)
    same.write_text(text)
    other.write_text(text.replace("area : 1", "area : 2", 1))
    assert other.read_text() != text
    verilog = tmp_path / "d.v"
    verilog.write_text("// made on Monday\nmodule d;\nendmodule // d\n")

    def key(target: Path | str = library, top: str = "d", lanes: int = 4, clock_ns: float | None = None) -> str:
        return mapping_key(verilog, top=top, target=str(target), lanes=lanes, clock_ns=clock_ns)

    first = key()
    verilog.write_text("// made on Tuesday\nmodule d;\nendmodule // d\n")
    assert key() == key(same) == first
    others = [key(other), key("generic"), key("ecp5"), key("ice40"), key(top="e"), key(lanes=8), key(clock_ns=4.0),
              key(clock_ns=5.0)]  # fmt: skip
    monkeypatch.setattr(lightnorm_flow.asic, "SPEED_ABC_SCRIPT", "another {delay}")
    assert key() == first, "the recipe for a clock does not map for area"
    others.append(key(clock_ns=4.0))
    monkeypatch.setattr(lightnorm_flow.asic, "ABC_SCRIPT", "another")
    others.append(key())
    verilog.write_text("module d; wire x;\nendmodule\n")
    others.append(key())
    monkeypatch.setattr(lightnorm_flow.synth, "yosys_version", lambda: "0.0")
    others.append(key())
    assert len({first, *others}) == 1 + len(others)


def test_a_failure_stops_nothing(tmp_path: Path, made: list[str]) -> None:
    todo = jobs(tmp_path, Fake("bad", -1), Fake("a"))
    comparison, said = compare(tmp_path, todo)
    assert [(each["name"], each["target"], each["error"]) for each in comparison] == [
        ("bad", "ecp5", "yosys failed"), ("a", "ecp5", None), ("bad", "ice40", "yosys failed"), ("a", "ice40", None),
    ]  # fmt: skip
    assert comparison[0].keys() <= comparison[1].keys() and comparison[0]["fmax_mhz"] is None
    assert [len(rows) for _, _, rows in comparison_tables(comparison, brief=False)] == [1, 1]
    assert said.count("bad on ecp5: FAILED") == 1
    assert "Failed: bad on ecp5: yosys failed" in (tmp_path / "compare.md").read_text()
    compare(tmp_path, todo)
    assert made == ["ecp5", "ecp5", "ice40", "ice40", "ecp5", "ice40"], "only what failed is tried again"


def test_an_unforeseen_error_stops_nothing(tmp_path: Path, made: list[str]) -> None:
    comparison, _ = compare(tmp_path, jobs(tmp_path, Fake("bad", -2), Fake("a")))
    assert [each["error"] for each in comparison] == ["RuntimeError: not foreseen", None] * 2


def test_what_is_not_measured_says_why(tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(job: Job, emitted: Emitted, folder: Path) -> Any:
        raise NotMeasured("no timing here")

    monkeypatch.setattr(lightnorm_flow.measure, "ANALYSES", {"fmax_mhz": unknown})
    measured = measure(jobs(tmp_path, Fake("a"))[0])
    assert measured["fmax_mhz"] is None and measured["missing"] == {"fmax_mhz": "no timing here"}
    assert measured["energy_pj_per_element"] == {"forward": None, "backward": None}
    # 10 elements of 4 channels, in 3 beats of 4
    assert measured["bits_per_element"] == {"forward": (3 * 12 + 32) * 4 / 40, "backward": None}
    monkeypatch.setattr(lightnorm_flow.measure, "ANALYSES", {"fmax_mhz": lambda *given: {"fmax_mhz": 250.0}})
    measured = measure(jobs(tmp_path, Fake("a"))[0])
    assert (measured["fmax_mhz"], measured["missing"]) == (250.0, {})


def test_tables(tmp_path: Path, made: list[str]) -> None:
    comparison, _ = compare(tmp_path, jobs(tmp_path, Fake("a_1", 90_000), Fake("bfp16", 45_000)))
    title, header, rows = comparison_tables(comparison, brief=True)[1]
    assert (title, header) == ("ice40", ["design", "LUTs per lane", "relative", "bits fwd", "SNR y, dB"])
    assert rows[0] == ["a_1", "22,500", "2.00", "6.8", "-870.0"]
    assert "a\\_1 & range & f & 4 & 22\\,500 & 2.00 &" in (tmp_path / "compare.tex").read_text()


def test_results_are_added_to(tmp_path: Path, made: list[str]) -> None:
    """Other rungs and targets are kept, those of other configurations are not, what is measured again is replaced."""
    rungs = [Fake("a"), Fake("b"), Fake("c")]
    compare(tmp_path, jobs(tmp_path, Fake("a", 1), Fake("b", 2), Fake("gone", 3)))
    todo = [job for job in jobs(tmp_path, Fake("c", 4), Fake("a", 5)) if job.target == "ecp5"]
    kept = kept_designs(tmp_path / "compare.json", rungs, todo)
    with ThreadPoolExecutor(1) as pool:
        comparison = make_comparison(todo, pool, tmp_path, step=lambda message: None, rungs=rungs, kept=kept)
    assert [(each["target"], each["name"], each["luts"]) for each in comparison] == [
        ("ecp5", "a", 5), ("ecp5", "b", 2), ("ecp5", "c", 4), ("ice40", "a", 1), ("ice40", "b", 2),
    ]  # fmt: skip
    assert json.loads((tmp_path / "compare.json").read_text()) == comparison
    assert kept_designs(tmp_path / "none.json", rungs, todo) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read: "),
        ('[{"name": "a"}]', "is not what this version's lightnorm compare writes"),
        ("[3]", "cannot be read: "),
    ],
)
def test_nothing_is_added_to_another_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "compare.json"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        kept_designs(path, [], [])
    assert str(caught.value).startswith(f"--add: {path} {message}")


def test_ladder() -> None:
    rungs = {rung.name: rung for rung in ladder(DEFAULT)}
    conventional = ["l2-fp32", "l2-bf16", "range-fp32", "range-fp16", "range-fp10"]
    assert list(rungs) == [*conventional, "bfp4", "bfp8", "bfp16", "bfp32", "bfp16-deep"]
    assert [rung.facts["lanes"] for rung in rungs.values()] == [16] * 8 + [32, 16]
    for rung in rungs.values():
        assert rung.traffic.buffer_beats * rung.traffic.lanes == 65_536
    deep = replace(DEFAULT, implementation=replace(DEFAULT.implementation, pipeline="deep"))
    assert rungs["bfp16"].facts["hash"] == DEFAULT.hash and rungs["bfp16-deep"].facts["hash"] == deep.hash
    assert len({rung.facts["hash"] for rung in rungs.values()}) == len(rungs)


def test_conventional_machines() -> None:
    """Two independent computations of a batch norm and its derivative agree as far as the format allows."""
    rng = np.random.default_rng(3)
    x, grad = rng.normal(1, 2, (2, 8, 3, 16, 5)).astype(np.float32)
    weight, bias = rng.normal(size=(2, 3)).astype(np.float32)
    tensors = Tensors(x=x, grad=grad, weight=weight, bias=bias)
    found = {rung.name: rung.snr_db(tensors) for rung in ladder(DEFAULT) if isinstance(rung, Conventional)}
    for name, least in (("l2-fp32", 120), ("range-fp32", 120), ("l2-bf16", 40), ("range-fp10", 20)):
        assert all(value is not None and least < value < least + 40 for value in found[name].values()), found[name]
    (design,) = [rung for rung in ladder(DEFAULT) if rung.name == "l2-bf16"]
    assert design.traffic.stream_bits("backward", 2) == {"x": 32, "dy": 32, "dx": 16}


def test_grid(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text('activation = ["e5m4", "e4m3"]\nblock_size = [4, 16]\nlanes = [8]\n')
    grid = parse_grid(read_grid(path), {"activation": None, "lanes": "16, 32"})
    assert grid == Grid(("e5m4", "e4m3"), None, (4, 16), (16, 32))
    designs, refused = grid_designs(DEFAULT, grid)
    assert (len(designs), refused) == (8, [])
    assert designs[0].name == "bfp4_e5m4_e6m3_16" and designs[2].config == DEFAULT
    designs, refused = grid_designs(DEFAULT, Grid(block_size=(4, 16), lanes=(4,)))
    assert [design.name for design in designs] == ["bfp4_e5m4_e6m3_4"]
    assert refused == ["bfp16_e5m4_e6m3_4: 4 lanes are not whole blocks of 16"]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"activation": "fp8"}, "activation must be a format such as e5m4, not 'fp8'"),
        ({"gradient": "e6m30"}, "gradient e6m30: man_bits must be an integer between 1 and 10, not 30"),
        ({"lanes": "16,none"}, "lanes must be an integer of at least 1, not 'none'"),
        ({"block_size": "0"}, "block_size must be an integer of at least 1, not 0"),
        (
            {"block_size": "16", "lanes": "8"},
            "no combination of the grid can be built\nbfp16_e5m4_e6m3_8: 8 lanes are not whole blocks of 16",
        ),
    ],
)
def test_wrong_grid(grid: dict[str, str | None], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        grid_designs(DEFAULT, parse_grid(Grid(), grid))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lane = [4]", "has no key 'lane'; it has activation, gradient, block_size, lanes"),
        ("lanes = 4", ": lanes must be a list of values, not 4"),
        ("lanes", "is not a TOML file: "),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_wrong_grid_file(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "grid.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError) as caught:
        read_grid(path)
    assert str(caught.value).startswith(f"--grid {path}") and message in str(caught.value)


def test_pareto() -> None:
    assert pareto([1, 2, 3, 2, 1], [5, 4, 4, 3, 6]) == [True, False, False, True, False]
    assert pareto([1, 1], [2, 2]) == [True, True]


def test_exploration(tmp_path: Path, made: list[str]) -> None:
    todo = jobs(tmp_path, Fake("small", 100), Fake("large", 200))
    with ThreadPoolExecutor(1) as pool:
        exploration = make_exploration(todo, ["x: no"], pool, tmp_path, step=lambda message: None)
    assert [each["pareto"] for each in exploration["designs"][:2]] == [
        {"size_snr": True, "size_bits": True}, {"size_snr": False, "size_bits": False},
    ]  # fmt: skip
    assert json.loads((tmp_path / "explore.json").read_text()) == exploration
    text = (tmp_path / "explore.md").read_text()
    assert text.index("| small |") < text.index("| large |") and "Not built: x: no" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("compare", "--only", "fp64"),
            "--only must be l2-fp32, l2-bf16, range-fp32, range-fp16, range-fp10, bfp4, bfp8, bfp16, bfp32, bfp16-deep,"
            " not fp64",
        ),
        (("compare", "--target", "virtex"), "--target must be generic, ecp5, ice40, xilinx, or a Liberty file"),
        (("explore", "--data", "none"), "--data none: there is no such folder (the repository has data/digits)"),
        (("explore", "--lanes", "3"), "no combination of the grid can be built"),
    ],
)
def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [arguments[0], "--config", str(write_config(tmp_path)), *arguments[1:]])
    assert result.exit_code == 1 and result.stdout == "" and result.stderr.startswith(f"error: {message}")
    assert not (tmp_path / "build").exists()


def write_config(folder: Path) -> Path:
    path = folder / "c.toml"
    path.write_text(
        "[arithmetic]\nactivation = { exp_bits = 4, man_bits = 3, block_size = 4 }\n"
        'gradient = { exp_bits = 5, man_bits = 2, block_size = 4 }\n[implementation]\npasses = ["infer"]\n'
    )
    return path


def test_in_processes(tmp_path: Path) -> None:
    """A real sweep: one job works, one fails, and what worked is not done again."""
    (tmp_path / "bad.lib").write_text("this is no library")
    data = Path(__file__).parents[3] / "data" / "digits"
    arguments = [
        "compare", "--config", str(write_config(tmp_path)), "--only", "bfp4", "--data", str(data),
        "--target", "generic", "--target", str(tmp_path / "bad.lib"),
        "--out", str(tmp_path), "--cache", str(tmp_path / "cache"),
    ]  # fmt: skip
    stamps = set()
    for _ in range(2):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1 and "error: bfp4 on bad.lib: " in result.stderr
        comparison = json.loads((tmp_path / "compare.json").read_text())
        assert [each["error"] is None for each in comparison] == [True, False]
        (made,) = (tmp_path / "cache").glob("*/synth.json")
        stamps.add(made.stat().st_mtime_ns)
        assert json.loads(made.read_text())["transistors"] == comparison[0]["transistors"]
    assert len(stamps) == 1
