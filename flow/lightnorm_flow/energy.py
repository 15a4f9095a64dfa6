"""Energy of a run: switching activity of the mapped gates times what the library says a transition costs.

docs/energy.md has the method and its limits. Everything is in pJ, fF and ns unless a name says otherwise.
"""

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightnorm_sim import Ports, Run, RunResult, build
from lightnorm_sim.tools import make_once

from .activity import Activity, read_activity
from .cell_power import CellPower, Floats, Pair, PowerLibrary
from .console import Step
from .flat_netlist import FlatNetlist, Instance, Memory, Net, flatten, read_flat
from .gate_level import map_to_cells
from .liberty import cell_models

__all__ = ["KINDS", "Assumptions", "energy_of_netlist", "measure_energy", "spent"]

KINDS = ("internal", "switching", "leakage")
"""Of energy: inside cells, in what they drive, and what flows at rest."""

INPUTS = "inputs"
"""In place of a stage: nets that are driven from outside, above all the clock."""

TINY = 1e-9  # keeps means of what never happens defined
SLEW_ROUNDS = 8  # a slew hardly depends on what is more than a few gates back
NO_TRACE = "/* verilator tracing_off */\n"  # of what is inside cells


@dataclass(frozen=True)
class Assumptions:
    """What a netlist before placement does not tell.

    `wire_ff`: wire per pin that a net drives, in fF. `clock_mhz`: for leakage, which is power. `input_slew_ns`: of what
    comes from outside, the clock among it. `memory_fj_per_bit`: of a memory, per bit read or written.
    """

    wire_ff: float = 4.0
    clock_mhz: float = 250.0
    input_slew_ns: float = 0.1
    memory_fj_per_bit: float = 310.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value < np.inf or (name == "clock_mhz" and value == 0):
                least = "above" if name == "clock_mhz" else "of at least"
                raise ValueError(f"{name} must be a number {least} 0, not {value}")


def measure_energy(
    verilog: Path,
    *,
    ports: Ports,
    top: str,
    library: Path,
    lanes: int,
    runs: Mapping[str, Run],
    check: Callable[[str, RunResult], None],
    out_dir: Path,
    build_dir: Path,
    given: Assumptions = Assumptions(),
    step: Step = lambda message: None,
) -> dict[str, Any]:
    """Map a design to the library, and measure the energy of its netlist, which is kept in `out_dir`.

    Takes 3 + len(runs) steps, two fewer if the netlist is there. Raises ValueError, ToolError, SimulationError.
    """
    folder = map_to_cells(verilog, top=top, library=library, lanes=lanes, out_dir=out_dir, step=step)
    return energy_of_netlist(
        folder / "netlist.il", ports=ports, top=top, library=library, runs=runs, check=check, work_dir=folder,
        build_dir=build_dir, given=given, step=step,
    )  # fmt: skip


def energy_of_netlist(
    mapped: Path,
    *,
    ports: Ports,
    top: str,
    library: Path,
    runs: Mapping[str, Run],
    check: Callable[[str, RunResult], None],
    work_dir: Path,
    build_dir: Path,
    given: Assumptions = Assumptions(),
    step: Step = lambda message: None,
) -> dict[str, Any]:
    """Simulate each run on the gates by itself, and add up what it spends.

    `mapped` is the netlist.il that `synthesize` wrote, of a design with the streams of `Core`. `check` gets each run's
    name and result, and raises if it is not what it must be. The flat netlist is kept in `work_dir`, the simulation in
    `build_dir`. Takes 1 + len(runs) steps. Raises ValueError, ToolError, SimulationError.
    """
    power = PowerLibrary(library)

    def make(unfinished: Path) -> None:
        flatten(mapped, top, unfinished)
        used = {instance.cell for instance in read_flat(unfinished / "flat.json", top).instances}
        gates = (unfinished / "flat.v").read_text() + NO_TRACE + cell_models(library, used)
        (unfinished / "gates.v").write_text(gates)

    flat = work_dir / "flat"
    make_once(flat, make)
    netlist = read_flat(flat / "flat.json", top)
    step("compiling the netlist with verilator")
    built = build(flat / "gates.v", ports, "verilator", build_dir, waves=True, module=top)
    measured = {}
    for name, run in runs.items():
        step(f"counting transitions in {name}")
        directory = Path(tempfile.mkdtemp(prefix="waves-", dir=work_dir))  # stays if something is wrong
        (result,) = built.run([run], directory=directory)
        check(name, result)
        window = (result.start, result.start + result.cycles)
        activity = read_activity(directory / "waves.vcd", "harness.dut", clock="harness.cycle", window=window)
        shutil.rmtree(directory)
        measured[name] = spent(netlist, power, activity, given, elements=run.elements * run.channels)
    return {
        "target": library.name,
        "voltage": power.voltage,
        **asdict(given),
        "runs": measured,
    }


def spent(
    netlist: FlatNetlist, power: PowerLibrary, activity: Activity, given: Assumptions, *, elements: int
) -> dict[str, Any]:
    """Energy of the activity in pJ per element: of all logic, of its clock, by stage; and that of memories.

    Raises ValueError for a cell the library does not have and for a net the activity does not have.
    """
    return _Sum(netlist, power, activity, given).result(elements)


class _Sum:
    """Adds up; one array element per net, and behind them for pins on 0, on 1 and on nothing."""

    def __init__(self, netlist: FlatNetlist, power: PowerLibrary, activity: Activity, given: Assumptions) -> None:
        self.netlist, self.power, self.activity, self.given = netlist, power, activity, given
        self.half_v2 = power.voltage**2 / 2 * 1e-3  # pJ per fF
        self.index: dict[Net, int] = {}
        for net in self._nets():
            self.index.setdefault(net, len(self.index))
        self.count = len(self.index)
        toggles, high = zip(*(self._active(net) for net in self.index), strict=True)
        self.toggles = np.array([*toggles, 0, 0, 0], np.float64)
        self.high = np.array([*high, 0, 1, 0.5], np.float64)
        stages = {instance.stage for instance in netlist.instances} | {memory.stage for memory in netlist.memories}
        self.stages = [*sorted(stages), INPUTS]
        by_cell = defaultdict(list)
        for instance in netlist.instances:
            by_cell[instance.cell].append(instance)
        self.groups = [_Group(power.cell(cell), same, self) for cell, same in sorted(by_cell.items())]
        self.load = self._loads()
        self.slew = self._slews()
        self.stage = self._stages()
        self.is_clock = np.zeros(self.count + 3, bool)
        for group in self.groups:
            for pin in group.power.clocks:
                self.is_clock[group.nets[pin]] = True

    def result(self, elements: int) -> dict[str, Any]:
        """What `spent` returns."""
        size = len(self.stages)
        switching = self.toggles * self.load * self.half_v2
        clock = float(switching[self.is_clock].sum())
        internal, leakage = np.zeros(size), np.zeros(size)
        nanoseconds = self.activity.cycles / self.given.clock_mhz * 1e3
        for group in self.groups:
            for pin in group.power.inputs:
                energy = self._input(group, pin)
                internal += np.bincount(group.stages, energy, size)
                clock += energy.sum() if pin in group.power.clocks else 0.0
            for pin in group.power.outputs:
                energy = self._output(group, pin)
                internal += np.bincount(group.stages, energy, size)
                clock += energy[self.is_clock[group.nets[pin]]].sum()
            leakage += np.bincount(group.stages, minlength=size) * group.power.leakage * nanoseconds * 1e-6
        by_stage = np.stack([internal, np.bincount(self.stage, switching, size), leakage]) / elements
        return {
            "elements": elements,
            "cycles": self.activity.cycles,
            "toggles_per_net_and_cycle": float(self.toggles[: self.count].mean() / self.activity.cycles),
            "logic_pj_per_element": _kinds(by_stage.sum(axis=1)),
            "clock_pj_per_element": clock / elements,
            "stages": {name: _kinds(by_stage[:, index]) for index, name in enumerate(self.stages)},
            "memory_pj_per_element": sum(self._accessed(memory) for memory in self.netlist.memories)
            * self.given.memory_fj_per_bit / 1e3 / elements,
            "memories": {
                memory.name: {
                    "width": memory.width,
                    "depth": memory.depth,
                    "read_bits_per_element": self._bits(memory.read) / elements,
                    "written_bits_per_element": self._bits(memory.write) / elements,
                }
                for memory in self.netlist.memories
            },
        }

    def _nets(self) -> Iterable[Net]:
        for instance in self.netlist.instances:
            yield from (net for net in instance.pins.values() if not isinstance(net, bool))
        for memory in self.netlist.memories:
            yield from (*memory.inputs, *memory.outputs)
        yield from (*self.netlist.inputs, *self.netlist.outputs)

    def _active(self, net: Net) -> tuple[int, float]:
        """Transitions of a net, and how much of the time it is 1."""
        name, bit = net
        counted = self.activity.toggles.get(name)
        if counted is None or bit >= len(counted):
            raise ValueError(f"the simulation tells nothing of net {name} of {self.netlist.top}")
        return int(counted[bit]), float(self.activity.high[name][bit])

    def _loads(self) -> Floats:
        """Capacitance of each net: the pins it drives, and its wire."""
        load = np.zeros(self.count + 3)
        for group in self.groups:
            for pin, capacitance in group.power.capacitance.items():
                np.add.at(load, group.nets[pin], capacitance + self.given.wire_ff)
        outside = [net for memory in self.netlist.memories for net in memory.inputs] + self.netlist.outputs
        np.add.at(load, [self.index[net] for net in outside], self.given.wire_ff)
        load[self.count :] = 0
        return load

    def _slews(self) -> Floats:
        slew = np.full(self.count + 3, self.given.input_slew_ns)
        for _ in range(SLEW_ROUNDS):
            updated = slew.copy()
            for group in self.groups:
                for pin, arcs in group.power.slew.items():
                    nets = group.nets[pin]
                    found = [
                        self._mean(group, pairs, slew[group.nets[related]], self.load[nets])
                        for related, pairs in arcs.items()
                    ]
                    if found:
                        updated[nets] = np.mean(found, axis=0)
            updated[self.count :] = self.given.input_slew_ns
            slew = updated
        return slew

    def _stages(self) -> NDArray[np.int64]:
        """The stage that drives each net."""
        place = {name: index for index, name in enumerate(self.stages)}
        stage = np.full(self.count + 3, place[INPUTS])
        for memory in self.netlist.memories:
            stage[[self.index[net] for net in memory.outputs]] = place[memory.stage]
        for group in self.groups:
            for pin in group.power.outputs:
                stage[group.nets[pin]] = group.stages
        return stage

    def _input(self, group: "_Group", pin: str) -> Floats:
        """Energy inside the cells for the transitions of an input."""
        nets, tables = group.nets[pin], group.power.input_energy[pin]
        if not tables:
            return np.zeros(len(nets))
        energy: Floats = self.toggles[nets] * self._mean(group, tables, self.slew[nets], np.zeros(len(nets)))
        return energy

    def _output(self, group: "_Group", pin: str) -> Floats:
        """Energy inside the cells for the transitions of an output; an input counts as often as it toggles itself."""
        nets = group.nets[pin]
        total, weights = np.zeros(len(nets)), np.zeros(len(nets))
        for related, tables in group.power.output_energy[pin].items():
            source = group.nets.get(related, np.full(len(nets), self.count))
            weight = self.toggles[source] + TINY
            total += weight * self._mean(group, tables, self.slew[source], self.load[nets])
            weights += weight
        energy: Floats = self.toggles[nets] * total / np.maximum(weights, TINY)
        return energy

    def _mean(self, group: "_Group", pairs: Sequence[Pair], slew: Floats, load: Floats) -> Floats:
        """Mean of tables of which each holds in some states, by how often these are; pins as if independent."""
        total, weights = np.zeros(len(slew)), np.zeros(len(slew))
        chances = [self._chance(group, pair) for pair in pairs]
        for pair, chance in zip(pairs, chances, strict=True):
            # one without a condition is for the states that the others leave
            weight = chance if pair.pins else np.maximum(1 - sum(chances) + chance, 0)
            total += (weight + TINY) * pair.at(slew, load)
            weights += weight + TINY
        return total / weights

    def _chance(self, group: "_Group", pair: Pair) -> Floats:
        """How much of the time a pair's condition holds; 0 for a pair without one."""
        chance = np.zeros(len(group.stages))
        for state in pair.states:
            product = np.ones(len(group.stages))
            for pin, value in zip(pair.pins, state, strict=True):
                high = self.high[group.nets[pin]]
                product *= high if value else 1 - high
            chance += product
        return chance

    def _bits(self, enables: Sequence[Net | bool]) -> float:
        """Cycles in which each of the enables is set, added up."""
        shares = (1.0 if isinstance(net, bool) else self.activity.high[net[0]][net[1]] for net in enables)
        return float(sum(shares)) * self.activity.cycles

    def _accessed(self, memory: Memory) -> float:
        return self._bits(memory.read) + self._bits(memory.write)


class _Group:
    """All instances of a cell: net of each pin, and stage, by instance."""

    def __init__(self, power: CellPower, instances: Sequence[Instance], within: _Sum) -> None:
        self.power = power
        place = {name: index for index, name in enumerate(within.stages)}
        self.stages = np.array([place[instance.stage] for instance in instances])
        self.nets = {
            pin: np.array([self._place(instance.pins.get(pin), within) for instance in instances])
            for pin in (*power.inputs, *power.outputs)
        }

    @staticmethod
    def _place(net: Net | bool | None, within: _Sum) -> int:
        if net is None or isinstance(net, bool):
            return within.count + (2 if net is None else int(net))
        return within.index[net]


def _kinds(values: Floats) -> dict[str, float]:
    return {**{kind: float(value) for kind, value in zip(KINDS, values, strict=True)}, "total": float(values.sum())}
