"""Energy of small netlists by hand, of a machine by its parts, and beside OpenSTA."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lightnorm_flow.measure
from lightnorm.baseline import Design
from lightnorm.config import Implementation
from lightnorm.generate import TOP
from lightnorm_flow.activity import Activity
from lightnorm_flow.cell_power import PowerLibrary
from lightnorm_flow.designs import CheckedRun, Conventional, LightNorm
from lightnorm_flow.energy import KINDS, Assumptions, measure_energy, spent
from lightnorm_flow.flat_netlist import FlatNetlist, Instance, Memory, Net
from lightnorm_flow.measure import Job, measure
from lightnorm_flow.report import CHUNKS
from lightnorm_golden.baseline import FloatNormSpec
from lightnorm_golden.formats import FloatFormat
from lightnorm_sim import RunResult, SimulationError, build, read_ports
from lightnorm_sim.layer import Tensors, compare, prepare

from .opensta import STA, compared
from .small import BUILD_DIR, LIBRARY, MACHINE, layers

GIVEN = Assumptions(wire_ff=1, clock_mhz=250, input_slew_ns=0.1, memory_fj_per_bit=100)


def instance(cell: str, stage: str = "stage", **pins: str | bool) -> Instance:
    return Instance(cell, stage, {pin: net if isinstance(net, bool) else (net, 0) for pin, net in pins.items()})


def netlist(*instances: Instance, inputs: str, outputs: str = "", memories: tuple[Memory, ...] = ()) -> FlatNetlist:
    ports = ([(name, 0) for name in names.split()] for names in (inputs, outputs))
    return FlatNetlist("top", list(instances), list(memories), *ports)


def active(cycles: int, **counts: int | tuple[int, float]) -> Activity:
    """Transitions, or transitions and share of the time at 1, of nets."""
    both = {name: given if isinstance(given, tuple) else (given, 0.5) for name, given in counts.items()}
    return Activity(
        cycles,
        {name: np.array([toggles]) for name, (toggles, _) in both.items()},
        {name: np.array([high]) for name, (_, high) in both.items()},
    )


# An inverter whose output goes to a register with a clock gate, to a second inverter, and to a NAND gate.
DESIGN = netlist(
    instance("INV", "front", A="a", Y="x"),
    instance("INV", A="x", Y="z"),
    instance("DFF", CK="gck", D="x", Q="q"),
    instance("GATE", CK="clk", EN="en", GCK="gck"),
    instance("NAND2", A="q", B="x", Y="y"),
    inputs="clk a en", outputs="y z",
)  # fmt: skip
ACTIVITY = active(100, clk=200, gck=60, a=40, x=40, z=40, q=20, en=10, y=30)


def test_by_hand() -> None:
    result = spent(DESIGN, PowerLibrary(LIBRARY), ACTIVITY, GIVEN, elements=10)
    assert (result["elements"], result["cycles"]) == (10, 100)
    # fF of pins and wires: clk 2+1, a 2+1, en 1+1, x 2+2+2+3, gck 1+1, q 2+1, y 0+1, z 0+1; pJ per fF and transition:
    half = 0.0005
    inputs = (200 * 3 + 40 * 3 + 10 * 2) * half
    front = 40 * 9 * half
    rest = (60 * 2 + 20 * 3 + 30 * 1 + 40 * 1) * half
    # an inverter spends 2 fJ and 10 fJ per ns of slew; that of x is 10 ps, a tenth of a's 0.1 ns, and 2 ps per fF
    slew = 0.01 + 0.1 * 0.1 + 0.002 * 9
    inverters = (40 * (0.002 + 0.01 * 0.1), 40 * (0.002 + 0.01 * slew))
    register = 60 * (0.005 + 0.003) / 2 + 40 * 0.001 + 20 * (0.006 + 0.004) / 2
    gate = 60 * (0.004 + 0.002) / 2
    nand = 30 * (20 * 0.002 + 40 * 0.004) / (20 + 40)  # a transition is of the input that has most of them
    nanowatts = {"front": 1, "stage": 1 + 8 + 7 + 2}
    expected = {
        "front": (inverters[0], front, 400e-6 * nanowatts["front"]),  # 100 cycles of 4 ns
        "stage": (inverters[1] + register + gate + nand, rest, 400e-6 * nanowatts["stage"]),
        "inputs": (0, inputs, 0),
    }
    assert list(result["stages"]) == ["front", "stage", "inputs"]
    for stage, energies in expected.items():
        found = result["stages"][stage]
        assert [10 * found[kind] for kind in KINDS] == pytest.approx(energies), stage
        assert 10 * found["total"] == pytest.approx(sum(energies))
    for index, kind in enumerate(KINDS):
        assert 10 * result["logic_pj_per_element"][kind] == pytest.approx(sum(e[index] for e in expected.values()))
    # its nets, clock pins of registers, and what gates put on them
    assert 10 * result["clock_pj_per_element"] == pytest.approx((200 * 3 + 60 * 2) * half + 60 * 0.004 + gate)


def test_states_and_loads_in_tables() -> None:
    """Energies that depend on other pins, constants among them, and tables with a load's energy in them."""
    adder = instance("FA", A="a", B="b", CI="c", S="s")
    many = replace(GIVEN, wire_ff=20)  # the load of s
    given = active(100, a=10, b=(0, 0.5), c=(5, 0.8), s=10)
    energy = spent(netlist(adder, inputs="a b c", outputs="s"), PowerLibrary(LIBRARY), given, many, elements=1)
    states = 10 * (0.4 * 0.002 + 0.6 * 0.006)
    assert energy["logic_pj_per_element"]["internal"] == pytest.approx(states + 5 * 0.001 + 10 * 0.01)
    switching = (10 * (4 + 20) + 5 * (3 + 20) + 10 * 20) * 0.0005
    assert energy["logic_pj_per_element"]["switching"] == pytest.approx(switching)
    tied = instance("FA", A="a", B=True, CI="c", S="s")
    energy = spent(netlist(tied, inputs="a c"), PowerLibrary(LIBRARY), given, GIVEN, elements=1)
    states = 10 * (0.8 * 0.002 + 0.2 * 0.006)
    assert energy["logic_pj_per_element"]["internal"] == pytest.approx(states + 5 * 0.001 + 10 * 0.01)


def test_memories_are_apart() -> None:
    data: list[Net] = [("d", bit) for bit in range(4)]
    writes: list[Net | bool] = [("w", 0), ("w", 0), ("v", 0), True]
    memory = Memory("m", "buffer", 4, 8, [("r", 0)] * 4, writes, [("r", 0), ("w", 0)], data)
    activity = active(100, r=(2, 0.5), w=(2, 0.25), v=(2, 0.1))
    activity.toggles["d"] = activity.high["d"] = np.array([10, 10, 10, 10])
    design = netlist(instance("INV", A="r", Y="w"), inputs="r v", memories=(memory,))
    result = spent(design, PowerLibrary(LIBRARY), activity, GIVEN, elements=10)
    assert result["memories"] == {
        "m": {"width": 4, "depth": 8, "read_bits_per_element": 20, "written_bits_per_element": 16}
    }
    assert result["memory_pj_per_element"] == pytest.approx(0.1 * (20 + 16))
    assert result["stages"]["buffer"]["total"] == 0  # what it drives has no load here


def test_unknown_cells_and_nets() -> None:
    power = PowerLibrary(LIBRARY)
    with pytest.raises(ValueError, match="small.lib has no cell BUF"):
        spent(netlist(instance("BUF", A="a"), inputs="a"), power, ACTIVITY, GIVEN, elements=1)
    with pytest.raises(ValueError, match="the simulation tells nothing of net b of top"):
        spent(netlist(instance("INV", A="b"), inputs="b"), power, ACTIVITY, GIVEN, elements=1)


@pytest.mark.parametrize(("name", "value"), [("wire_ff", -1.0), ("clock_mhz", 0.0), ("memory_fj_per_bit", np.inf)])
def test_assumptions(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a number (above|of at least) 0, not {value}"):
        replace(GIVEN, **{name: value})


def test_machine(machine: Path, mapped: Path) -> None:
    """Parts add up, clocks toggle twice a cycle, memories are used once per beat, and every bit is right."""
    given = dict(zip(("train", "infer"), layers(3), strict=False))
    checked = []

    def check(name: str, result: RunResult) -> None:
        assert compare(given[name], result) is None
        checked.append(name)

    result = measure_energy(
        machine / f"{TOP}.v", ports=read_ports(machine / f"{TOP}.json"), top=TOP, library=LIBRARY,
        lanes=MACHINE.lanes, runs={name: layer.run for name, layer in given.items()}, check=check,
        out_dir=machine / "gates", build_dir=BUILD_DIR, given=GIVEN,
    )  # fmt: skip
    assert checked == ["train", "infer"]
    for run in result["runs"].values():
        assert set(run["stages"]) >= {"reduce", "apply", "pack", "coefficients", "buffer", "unpack", TOP, "inputs"}
        for kind in (*KINDS, "total"):
            parts = sum(stage[kind] for stage in run["stages"].values())
            assert run["logic_pj_per_element"][kind] == pytest.approx(parts)
        assert 0 < run["clock_pj_per_element"] < run["logic_pj_per_element"]["total"]
        assert 0.02 < run["toggles_per_net_and_cycle"] < 0.5
    train, infer = result["runs"]["train"], result["runs"]["infer"]
    assert train["elements"] == infer["elements"] == 108
    assert train["stages"]["reduce"]["total"] > 2 * infer["stages"]["reduce"]["total"]
    assert not list(mapped.glob("waves-*"))


def tensors() -> Tensors:
    rng = np.random.default_rng(9)
    x, grad = rng.normal(size=(2, 3, 4, 9)).astype(np.float32)
    weight, bias, mean = rng.normal(size=(3, 4)).astype(np.float32)
    sigma = np.abs(mean) + 0.5
    return Tensors(x=x, grad=grad, weight=weight, bias=bias, running_mean=mean, running_sigma=sigma)


def test_of_a_comparison(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same energy as measured by itself; kept, and not there for a machine that gives other bits."""
    layer = prepare(MACHINE, "train", tensors(), chunks=CHUNKS)
    alone = measure_energy(
        machine / f"{TOP}.v", ports=read_ports(machine / f"{TOP}.json"), top=TOP, library=LIBRARY,
        lanes=MACHINE.lanes, runs={"train": layer.run}, check=lambda name, result: None, out_dir=machine / "gates",
        build_dir=BUILD_DIR,
    )["runs"]["train"]  # fmt: skip
    job = Job(LightNorm("bfp2", MACHINE), str(LIBRARY), tensors(), tmp_path, energy=True)
    wrong = Job(Wrong("bfp2", MACHINE), str(LIBRARY), tensors(), tmp_path, energy=True)
    with pytest.raises(SimulationError, match="train: it is wrong"):
        measure(wrong)
    found = measure(job)
    expected = alone["logic_pj_per_element"]["total"]
    assert found["energy_pj_per_element"] == {"forward": pytest.approx(expected), "backward": None}
    assert found["memory_pj_per_element"]["forward"] == pytest.approx(alone["memory_pj_per_element"]) != 0
    assert found["energy"]["forward"]["clock"] == pytest.approx(alone["clock_pj_per_element"])
    assert found["energy"]["forward"]["elements"] == 108 and found["energy"]["backward"] is None
    assert found["missing"] == {"fmax_mhz": "--clock-ns was not given"}
    monkeypatch.setattr(lightnorm_flow.measure, "energy_of_netlist", None)
    assert measure(job) == found, "it is not measured again"


class Wrong(LightNorm):
    def checked_run(self, mode: str, tensors: Tensors) -> CheckedRun:
        return CheckedRun(super().checked_run(mode, tensors).run, lambda result: f"{mode}: it is wrong")


@pytest.mark.slow
@pytest.mark.parametrize("statistic", ["l2", "range"])
def test_of_a_conventional_machine(statistic: str, tmp_path: Path) -> None:
    """Its gates give the model's bits in both directions, and a wrong bit would be seen."""
    fmt = FloatFormat(4, 3)
    like = replace(MACHINE, implementation=Implementation(passes=("train", "backward"), buffer_blocks=8))
    design = Conventional(Design("small", FloatNormSpec(statistic, fmt, fmt, 15, 3)), like)
    found = measure(Job(design, str(LIBRARY), tensors(), tmp_path, energy=True))
    assert all(value > 1 for value in found["energy_pj_per_element"].values())
    verilog, top = design.emit(tmp_path / "emitted")
    checked = design.checked_run("train", tensors())
    built = build(verilog, read_ports(verilog.with_suffix(".json")), "verilator", BUILD_DIR, module=top)
    (result,) = built.run([checked.run])
    assert checked.mismatch(result) is None
    output = [result.output[0] ^ 1, *result.output[1:]]
    assert "1 of" in str(checked.mismatch(replace(result, output=output)))


@pytest.mark.skipif(STA is None, reason="needs OpenSTA (apt install opensta)")
def test_beside_opensta(tmp_path: Path) -> None:
    """Energies, slews, loads and leakage of random logic."""
    rng = np.random.default_rng(5)
    nets, instances = ["a", "b", "c"], [instance("GATE", CK="clk", EN="a", GCK="gck")]
    for index in range(60):
        cell = rng.choice(["INV", "NAND2", "DFF"])
        pins = {"INV": "A", "NAND2": "A B", "DFF": "D"}[cell].split()
        chosen = {pin: str(net) for pin, net in zip(pins, rng.choice(nets, len(pins), replace=False), strict=True)}
        out = {"Q" if cell == "DFF" else "Y": f"n{index}"}
        clock = {"CK": str(rng.choice(["clk", "gck"]))} if cell == "DFF" else {}
        instances.append(instance(cell, **clock, **chosen, **out))
        nets.append(f"n{index}")
    design = netlist(*instances, inputs="clk a b c")
    ratios = compared(design, LIBRARY, "clk", 0.2, replace(GIVEN, wire_ff=0), tmp_path)
    assert ratios == pytest.approx(dict.fromkeys(KINDS, 1.0), rel=0.005)
