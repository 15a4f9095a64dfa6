"""The `lightnorm` command on bad input: one message that helps, exit status 1 or 2, and no files."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import lightnorm.yosys
import lightnorm_flow.cli
from lightnorm.config import Config
from lightnorm_flow.cli import app
from lightnorm_flow.packaging.readme import _size
from lightnorm_flow.simulate import Outcome

CONFIG = """\
[arithmetic]
activation = { exp_bits = 4, man_bits = 3, block_size = 4 }
gradient = { exp_bits = 5, man_bits = 2, block_size = 4 }
[implementation]
passes = [%s]
buffer_blocks = 64
"""
SHAPE = (2, 3, 4, 4)


class Place:
    """A folder with good files, and the command run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(1)
        self.save("x", rng.normal(size=SHAPE).astype(np.float32))
        self.save("grad", rng.normal(size=SHAPE).astype(np.float32))
        for name in ("weight", "bias", "mean", "sigma"):
            self.save(name, rng.uniform(0.5, 1, 3).astype(np.float32))
        (folder / "c.toml").write_text(CONFIG % '"train", "infer"')
        (folder / "all.toml").write_text(CONFIG % '"train", "infer", "backward"')
        self.before: set[Path] = set()

    def save(self, name: str, array: np.ndarray[Any, Any]) -> None:
        np.save(self.folder / f"{name}.npy", array)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, stdout and stderr; {} in the arguments is the folder."""
        self.before = set(self.folder.rglob("*"))
        result = CliRunner().invoke(app, [argument.replace("{}", str(self.folder)) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr.replace(str(self.folder), "{}")

    def made(self) -> set[str]:
        """Names of the files that the command left."""
        return {str(path.relative_to(self.folder)) for path in set(self.folder.rglob("*")) - self.before}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path)


@pytest.fixture
def quick_generate(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the generator: ports, but no machine."""

    def generate(config: Config, out_dir: Path, *, top: str = "core") -> dict[str, Any]:
        out_dir.mkdir(parents=True, exist_ok=True)
        names = {"clk": "input", "rst": "input", "i_run_valid": "input", "o_run_ready": "output"}
        ports = {name: {"direction": direction, "width": 1} for name, direction in names.items()}
        (out_dir / "lightnorm.v").write_text(f"module lightnorm ({', '.join(names)});\nendmodule\n")
        (out_dir / "lightnorm.json").write_text(json.dumps({"ports": ports}))
        return {"ports": ports}

    monkeypatch.setattr(lightnorm_flow.cli, "generate", generate)
    monkeypatch.setattr(lightnorm_flow.cli, "package", generate)


def refuse(place: Place, *arguments: str) -> str:
    """Stderr of a command that must fail without a trace."""
    status, out, err = place.run(*arguments)
    assert (status, out, place.made()) == (1, "", set())
    assert err.startswith("error: ")
    return err.removeprefix("error: ").rstrip("\n")


SIMULATE = ("simulate", "--config", "{}/c.toml", "--input", "{}/x.npy", "--out", "{}/out")


@pytest.mark.parametrize("command", ["generate", "synth", "report"])
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("missing.toml", "--config {}/missing.toml cannot be read: No such file or directory"),
        ("", "--config {} cannot be read: Is a directory"),
    ],
)
def test_unreadable_configuration(place: Place, command: str, config: str, message: str) -> None:
    assert refuse(place, command, "--config", f"{{}}/{config}".rstrip("/"), "--out", "{}/out") == message


@pytest.mark.parametrize("command", [("generate",), ("synth",), ("report",), ("simulate", "--input", "{}/x.npy")])
def test_wrong_configuration_is_reported_whole(place: Place, command: tuple[str, ...]) -> None:
    path = place.folder / "c.toml"
    path.write_text(path.read_text().replace("man_bits = 3", "man_bits = 12") + "lanes = 4\nmax_chunks = 0\n")
    assert refuse(place, *command, "--config", "{}/c.toml", "--out", "{}/out").splitlines() == [
        "{}/c.toml: 3 problem(s)",
        "  arithmetic.activation.man_bits must be an integer between 1 and 10, not 12",
        "  implementation has no key 'lanes'; it has passes, blocks_per_beat, buffer_blocks, max_chunks, max_channels,"
        " pipeline",
        "  implementation.max_chunks must be an integer between 1 and 65536, not 0",
    ]


def test_out_is_a_file(place: Place) -> None:
    message = refuse(place, "generate", "--config", "{}/c.toml", "--out", "{}/x.npy")
    assert message == "--out {}/x.npy is not a folder"


def nan_at(*index: int) -> np.ndarray[Any, Any]:
    array = np.zeros(SHAPE, np.float32)
    array[index] = np.nan
    return array


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (nan_at(1, 2, 0, 3), "must not hold NaN; the first is at index (1, 2, 0, 3)"),
        (
            np.zeros(SHAPE, np.int64),
            "must be a NumPy array of float16, float32 or float64, not an array of int64",
        ),
        (
            np.zeros(SHAPE, np.complex64),
            "must be a NumPy array of float16, float32 or float64, not an array of complex64",
        ),
        (
            np.zeros(5, np.float32),
            "must have the shape (N, C, *spatial) and at least one element, not (5,)",
        ),
        (
            np.zeros((2, 0, 4), np.float32),
            "must have the shape (N, C, *spatial) and at least one element, not (2, 0, 4)",
        ),
    ],
)
def test_wrong_input(place: Place, array: np.ndarray[Any, Any], message: str) -> None:
    place.save("x", array)
    assert refuse(place, *SIMULATE) == f"--input {{}}/x.npy {message}"


def test_one_value_per_channel_cannot_train(place: Place) -> None:
    place.save("x", np.zeros((1, 3), np.float32))
    assert refuse(place, *SIMULATE, "--json") == "training needs more than one value per channel, not 1"


@pytest.mark.parametrize("option", ["weight", "bias", "running-mean", "running-sigma"])
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.ones(4, np.float32),
            "must be an array of float16, float32 or float64 of shape (3,), not float32 (4,)",
        ),
        (np.ones(3, np.int32), "must be an array of float16, float32 or float64 of shape (3,), not int32 (3,)"),
        (np.array([1, np.nan, 1]), "must be finite; channel 1 is nan"),
        (np.array([1, 1, -np.inf]), "must be finite; channel 2 is -inf"),
    ],
)
def test_wrong_parameters(place: Place, option: str, array: np.ndarray[Any, Any], message: str) -> None:
    place.save("p", array)
    assert refuse(place, *SIMULATE, f"--{option}", "{}/p.npy") == f"--{option} {{}}/p.npy {message}"


def test_negative_running_sigma(place: Place) -> None:
    place.save("p", np.array([1.0, -0.5, 1.0]))
    message = refuse(place, *SIMULATE, "--mode", "infer", "--running-sigma", "{}/p.npy")
    assert message == "--running-sigma {}/p.npy must not be negative; channel 1 is -0.5"


@pytest.mark.parametrize("option", ["input", "weight", "grad"])
@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("none.npy", ": there is no such file"),
        (".", " is a directory, not a .npy file"),
        ("c.toml", " is not a .npy file of numbers: "),
        ("empty.npy", " is not a .npy file of numbers: "),
        ("short.npy", " is not a .npy file of numbers: "),
        ("objects.npy", " is not a .npy file of numbers: Object arrays cannot be loaded when allow_pickle=False"),
        ("archive.npz", " is a .npz archive; give one array, saved by numpy.save"),
    ],
)
def test_unreadable_array(place: Place, option: str, file: str, message: str) -> None:
    (place.folder / "empty.npy").write_bytes(b"")
    (place.folder / "short.npy").write_bytes((place.folder / "x.npy").read_bytes()[:-4])
    np.save(place.folder / "objects.npy", np.array([{}]), allow_pickle=True)
    np.savez(place.folder / "archive.npz", x=np.zeros(SHAPE))
    arguments = ["simulate", "--config", "{}/all.toml", "--out", "{}/out", f"--{option}", f"{{}}/{file}"]
    if option != "input":
        arguments += ["--input", "{}/x.npy"]
    if option == "grad":
        arguments += ["--mode", "backward"]
    path = "{}" if file == "." else f"{{}}/{file}"
    assert refuse(place, *arguments).replace("{}/.", "{}").startswith(f"--{option} {path}{message}")


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        (
            "c", ("--mode", "backward", "--grad", "{}/grad.npy"),
            "--mode backward needs backward, which this configuration is built without"
            " (implementation.passes has train, infer)",
        ),
        ("all", ("--mode", "backward"), "--mode backward needs the gradient of the layer's output: give --grad FILE"),
        ("all", ("--mode", "step"), "--mode step needs the gradient of the layer's output: give --grad FILE"),
        ("all", ("--grad", "{}/grad.npy"), "--mode train takes no --grad; it belongs to backward and step"),
        (
            "all", ("--mode", "step", "--grad", "{}/weight.npy"),
            "--grad {}/weight.npy must have the shape (N, C, *spatial) and at least one element, not (3,)",
        ),
        ("c", ("--eps", "-1"), "eps must be a number finite and at least 0, not -1.0"),
        ("c", ("--momentum", "1.5"), "momentum must be a number in [0, 1], not 1.5"),
        ("c", ("--chunks", "0"), "chunks must be an integer of at least 1, not 0"),
    ],
)  # fmt: skip
def test_wrong_run(place: Place, config: str, arguments: tuple[str, ...], message: str) -> None:
    base = ("simulate", "--config", f"{{}}/{config}.toml", "--input", "{}/x.npy", "--out", "{}/out", "--json")
    assert refuse(place, *base, *arguments) == message


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "virtex", "--target must be generic, ecp5, ice40, xilinx, or a Liberty file (.lib, .lib.gz), not 'virtex'",
        ),
        ("none.lib.gz", "--target none.lib.gz: there is no such file"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", [("synth",), ("report", "--data", "{}")])
def test_wrong_target(place: Place, command: tuple[str, ...], target: str, message: str) -> None:
    assert refuse(place, *command, "--config", "{}/c.toml", "--out", "{}/out", "--target", target) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "ecp5"), "--target must be a Liberty file (.lib, .lib.gz), not 'ecp5'"),
        (("--target", "none.lib"), "--target none.lib: there is no such file"),
        (
            ("--target", "{}/cells.lib", "--simulator", "icarus"),
            "--target needs --simulator verilator, not icarus: gates make undefined bits of defined ones",
        ),
    ],
)  # fmt: skip
def test_wrong_gates(place: Place, arguments: tuple[str, ...], message: str) -> None:
    (place.folder / "cells.lib").write_text("")
    assert refuse(place, *SIMULATE, *arguments) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "generic"), "--target must be a Liberty file (.lib, .lib.gz), not 'generic'"),
        (("--target", "none.lib"), "--target none.lib: there is no such file"),
        (
            ("--target", "{}/cells.lib"),
            "--data data/digits: there is no such folder (the repository has data/digits)",
        ),
        (
            ("--target", "{}/cells.lib", "--data", "{}", "--wire", "-1"),
            "wire_ff must be a number of at least 0, not -1.0",
        ),
        (("--target", "{}/cells.lib", "--data", "{}", "--clock", "0"), "clock_mhz must be a number above 0, not 0.0"),
        (
            ("--target", "{}/cells.lib", "--data", "{}", "--traffic", "nan"),
            "traffic_pj_per_bit must be a number of at least 0, not nan",
        ),
        (("--target", "{}/cells.lib", "--data", "{}"), "--data {}/activation.npy: there is no such file"),
    ],
)  # fmt: skip
def test_wrong_energy(place: Place, arguments: tuple[str, ...], message: str) -> None:
    (place.folder / "cells.lib").write_text("")
    assert refuse(place, "energy", "--config", "{}/c.toml", "--out", "{}/out", *arguments) == message


@pytest.mark.usefixtures("quick_generate")
def test_library_that_is_none(place: Place) -> None:
    (place.folder / "bad.lib").write_text("this is no library")
    status, _, err = place.run("synth", "--config", "{}/c.toml", "--out", "{}/out", "--target", "{}/bad.lib", "--json")
    assert status == 1 and "bad.lib" in err and "Traceback" not in err
    assert not {"out/synth.json", "out/netlist.v"} & place.made()


@pytest.mark.usefixtures("quick_generate")
def test_unit_that_is_none(place: Place) -> None:
    status, _, err = place.run("synth", "--config", "{}/c.toml", "--out", "{}/out", "--unit", "engine", "--json")
    assert (status, err) == (1, "error: lightnorm has no submodule 'engine'; it has none\n")
    assert "out/synth.json" not in place.made()


def test_report_without_data(place: Place) -> None:
    message = refuse(place, "report", "--config", "{}/c.toml", "--out", "{}/out")
    assert message == "--data data/digits: there is no such folder (the repository has data/digits)"
    message = refuse(place, "report", "--config", "{}/c.toml", "--out", "{}/out", "--data", "{}")
    assert message == "--data {}/activation.npy: there is no such file"


def test_report_with_results_of_another_kind(place: Place) -> None:
    pytest.importorskip("matplotlib")
    (place.folder / "other.json").write_text("{}")
    arguments = ("report", "--config", "{}/c.toml", "--out", "{}/out", "--data", "{}", "--compare", "{}/other.json")
    message = "is not what this version's lightnorm compare writes"
    assert refuse(place, *arguments) == f"{{}}/other.json {message}"


def test_report_without_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightnorm_flow.cli.importlib.util, "find_spec", lambda name: None)
    lightnorm_flow.cli._page_writer({"compare": tmp_path / "none.json"})({}, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("quick_generate")
@pytest.mark.parametrize(
    ("simulator", "message"),
    [
        (
            "icarus",
            "iverilog was not found: install your system's package iverilog (`apt install iverilog`)",
        ),
        (
            "verilator",
            "g++ or clang++ was not found: install a C++ compiler (`apt install g++`), which Verilator needs",
        ),
    ],
)
def test_missing_simulator(
    place: Place, monkeypatch: pytest.MonkeyPatch, simulator: str, message: str
) -> None:
    monkeypatch.setenv("PATH", "")
    status, out, err = place.run(*SIMULATE, "--simulator", simulator, "--json")
    assert (status, out, err) == (1, "", f"error: {message}\n")
    assert not {"out/output.npy", "out/simulate.json"} & place.made()


def test_missing_yosys(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = lightnorm.yosys.importlib.util.find_spec
    monkeypatch.setattr(
        lightnorm.yosys.importlib.util, "find_spec", lambda name: None if name == "pyosys" else find_spec(name)
    )
    monkeypatch.setenv("PATH", "")
    lightnorm.yosys._find_yosys.cache_clear()
    status, out, err = place.run("generate", "--config", "{}/c.toml", "--out", "{}/out", "--json")
    lightnorm.yosys._find_yosys.cache_clear()
    assert (status, out) == (1, "")
    assert err == "error: Yosys 0.40 or newer was not found: run `pip install pyosys`\n"
    assert place.made() <= {"out", "out/generate.log"}


def test_failing_yosys(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "print('something\\nERROR: out of luck'); raise SystemExit(3)"
    monkeypatch.setattr(lightnorm.yosys, "_find_yosys", lambda: ((sys.executable, "-c", script), "0.70"))
    status, out, err = place.run("generate", "--config", "{}/c.toml", "--out", "{}/out", "--json")
    assert (status, out) == (1, "")
    assert err.splitlines() == [
        "error: yosys failed with exit status 3; its log is {}/out/generate.log, which ends with",
        "    something",
        "    ERROR: out of luck",
    ]
    assert place.made() == {"out", "out/generate.log"}


@pytest.mark.usefixtures("quick_generate")
def test_study_without_its_extra(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightnorm_torch.study.study", None)  # as if one of its imports failed
    status, out, err = place.run("study", "--out", "{}/out")
    assert (status, out) == (1, "") and not place.made()
    assert err.startswith(
        "error: lightnorm study needs PyTorch, scikit-learn and matplotlib, pip install 'lightnorm[study]': "
    )


def test_mismatch_is_an_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    report = dict.fromkeys(("elements", "beats", "cycles", "latency", "beats_per_cycle", "bits_per_element"), 1)
    report |= {"bit_exact": False, "mode": "train", "two_pass": False, "simulator": "none"}
    outcome = Outcome(report, np.zeros(SHAPE), "train: 1 of 2 blocks differ")
    monkeypatch.setattr(lightnorm_flow.cli, "simulate", lambda *_, **__: [outcome])
    status, out, err = place.run(*SIMULATE, "--json")
    assert (status, err) == (1, "error: train: 1 of 2 blocks differ\n")
    assert json.loads(out)["bit_exact"] is False
    assert json.loads((place.folder / "out" / "simulate.json").read_text()) == json.loads(out)


@pytest.mark.usefixtures("quick_generate")
def test_synth_prints_clock_and_tool(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.folder / "cells.lib").write_text("")
    found = {"top": "lightnorm", "target": "cells.lib", "tool": "yosys", "ffs": 1234,
             "fmax_mhz": 251.5, "clock_tool": "OpenSTA", "critical_path": [{"pin": "x"}],
             "stage_unit": "ffs", "stages": {"apply": 1234}}  # fmt: skip
    monkeypatch.setattr(lightnorm_flow.cli, "synthesize", lambda *_, **__: found)
    written: list[Any] = []
    monkeypatch.setattr(lightnorm_flow.cli, "write_readme", lambda *given: written.extend(_size(given[-1])))
    arguments = ("--config", "{}/c.toml", "--out", "{}/out", "--target", "{}/cells.lib")
    status, out, err = place.run("synth", *arguments, "--clock-ns", "4")
    printed = " ".join(out.split())
    assert status == 0, err
    assert "ffs 1,234" in printed and "fmax_mhz 251.500" in printed and "clock_tool OpenSTA" in printed
    assert "| clock_tool | OpenSTA |" in written and "| ffs | 1,234 |" in written


@pytest.mark.usefixtures("quick_generate")
def test_a_result_is_never_half_written(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(file: Any, array: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    outcome = Outcome({}, np.zeros(SHAPE), None)
    monkeypatch.setattr(lightnorm_flow.cli, "simulate", lambda *_, **__: [outcome])
    monkeypatch.setattr(np, "save", save)
    status, out, err = place.run(*SIMULATE, "--json")
    assert (status, out, err) == (1, "", "error: [Errno 28] No space left on device\n")
    assert place.made() == {"out", "out/lightnorm.v", "out/lightnorm.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate",), "Missing option '--config'"),
        (("simulate", "--config", "{}/c.toml"), "Missing option '--input'"),
        ((*SIMULATE, "--mode", "test"), "Invalid value for '--mode'"),
        ((*SIMULATE, "--simulator", "vcs"), "Invalid value for '--simulator'"),
        ((*SIMULATE, "--stalls", "often"), "Invalid value for '--stalls'"),
        ((*SIMULATE, "--seed", "x"), "Invalid value for '--seed'"),
        (("generate", "--config", "{}/c.toml", "--lanes", "4"), "No such option: --lanes"),
        (("build",), "No such command 'build'"),
    ],
)
def test_usage(place: Place, arguments: tuple[str, ...], message: str) -> None:
    status, out, err = place.run(*arguments)
    assert (status, out, place.made()) == (2, "", set())
    assert message in " ".join(err.replace("│", " ").split())
