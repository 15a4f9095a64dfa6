"""The electrical side of a Liberty file: what transitions cost, capacitances, slews and leakage."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .liberty import Cell, Group, read_library, truth_table

__all__ = ["CellPower", "Floats", "Pair", "PowerLibrary"]

Floats = NDArray[np.float64]


class PowerLibrary:
    """A Liberty file; capacitances are in fF, energies in pJ, slews in ns, leakage in nW."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.group, self.cells = read_library(path)
        values = self.group.attributes
        if "nom_voltage" not in values:
            raise ValueError(f"Liberty file {path} has no nom_voltage")
        self.voltage = float(values["nom_voltage"])
        self.farads = _unit(values.get("capacitive_load_unit", "1,pf"), "f")
        self.seconds = _unit(values.get("time_unit", "1ns"), "s")
        self.watts = _unit(values.get("leakage_power_unit", "1nW"), "w")
        self.volts = _unit(values.get("voltage_unit", "1V"), "v")
        templates = self.group.all("lu_table_template", "power_lut_template")
        self._templates = {template.names[0]: template.attributes for template in templates}
        self._known: dict[str, CellPower] = {}

    def cell(self, name: str) -> "CellPower":
        """Of one cell. Raises ValueError if the library does not have it."""
        if name not in self.cells:
            raise ValueError(f"{self.name} has no cell {name}")
        if name not in self._known:
            self._known[name] = CellPower(self, self.cells[name])
        return self._known[name]

    def table(self, group: Group, unit: float) -> "Table":
        """A table of energies or times, in `unit`."""
        template = self._templates.get(group.names[0], {})
        values = _numbers(group.attributes["values"]) * unit
        axes = []
        for axis in ("index_1", "index_2"):
            points = _numbers(group.attributes.get(axis, template.get(axis, "")))
            axes.append(points if points.size and values.size > 1 else np.zeros(1))
        if values.size != axes[0].size * axes[1].size:
            raise ValueError(f"{self.name} has a table of {group.names[0]} that does not fit its indices")
        values = values.reshape(axes[0].size, axes[1].size)
        if "capacitance" in template.get("variable_1", ""):
            axes, values = axes[::-1], values.T
        return Table(axes[0] * self.seconds * 1e9, axes[1] * self.farads * 1e15, values)


class CellPower:
    """Energies, slews and capacitances of a cell."""

    def __init__(self, library: PowerLibrary, cell: Cell) -> None:
        # internal_power is in units of capacitance times voltage squared
        energy = library.farads * library.volts**2 * 1e12
        pins = {pin.names[0]: pin for pin in cell.group.all("pin")}
        self.inputs = [name for name, pin in pins.items() if pin.attributes.get("direction") == "input"]
        self.outputs = [name for name, pin in pins.items() if pin.attributes.get("direction") == "output"]
        default = library.group.attributes.get("default_input_pin_cap", "0")
        self.capacitance = {name: _capacitance(pins[name], default) * library.farads * 1e15 for name in self.inputs}
        self.clocks = {
            name for name in self.inputs if pins[name].flag("clock") or pins[name].flag("clock_gate_clock_pin")
        }
        self.input_energy = {
            name: [_both(library, group, "power", energy) for group in pins[name].all("internal_power")]
            for name in self.inputs
        }
        self.output_energy: dict[str, dict[str, list[Pair]]] = {name: defaultdict(list) for name in self.outputs}
        self.slew: dict[str, dict[str, list[Pair]]] = {name: defaultdict(list) for name in self.outputs}
        for name in self.outputs:
            for group in pins[name].all("internal_power"):
                for related in group.attributes.get("related_pin", "").split() or [""]:
                    pair = _both(library, group, "power", energy)
                    pair.remove_load(library.voltage)
                    self.output_energy[name][related].append(pair)
            for group in pins[name].all("timing"):
                if group.all("rise_transition", "fall_transition"):
                    for related in group.attributes["related_pin"].split():
                        self.slew[name][related].append(_both(library, group, "transition", library.seconds * 1e9))
        self.leakage = _leakage(cell.group) * library.watts * 1e9


class Table:
    """Values by input slew and output load; between the table's points linear, outside its end."""

    def __init__(self, slews: Floats, loads: Floats, values: Floats) -> None:
        self.slews, self.loads, self.values = slews, loads, values

    def at(self, slew: Floats, load: Floats) -> Floats:
        """Values at these slews and loads."""
        row, down = _between(self.slews, slew)
        column, right = _between(self.loads, load)
        below, beside = np.minimum(row + 1, len(self.slews) - 1), np.minimum(column + 1, len(self.loads) - 1)
        upper = self.values[row, column] * (1 - right) + self.values[row, beside] * right
        lower = self.values[below, column] * (1 - right) + self.values[below, beside] * right
        value: Floats = upper * (1 - down) + lower * down
        return value


class Pair:
    """Tables of a rise and of a fall, of which only the mean matters: a signal that rises falls again.

    They hold in the ``states`` of ``pins`` (each a bit per pin), or always if there are none.
    """

    def __init__(self, tables: Sequence[Table], when: str) -> None:
        self.tables = tables
        self.pins, self.states = _condition(when)
        self.load_energy = 0.0  # pJ per fF that the tables hold and should not

    def at(self, slew: Floats, load: Floats) -> Floats:
        """Mean of rise and fall at these slews and loads."""
        total: Floats = -self.load_energy * np.minimum(load, self.tables[0].loads[-1])
        for table in self.tables:
            total += table.at(slew, load) / len(self.tables)
        return total

    def remove_load(self, voltage: float) -> None:
        """Leave out the energy of a load, C*V^2/2, where the tables have it in them.

        Liberty means internal energy to be without. Some libraries have it with that of another output's load, which is
        counted with that output's net. Told from how the energy grows from the smallest to the largest load.
        """
        table = self.tables[0]
        slews, ends = np.full(2, table.slews[len(table.slews) // 2]), table.loads[[0, -1]]
        low, high = self.at(slews, ends)
        expected = voltage**2 / 2 * 1e-3
        if high - low > expected / 2 * (ends[1] - ends[0]):
            self.load_energy = expected


def _between(points: Floats, wanted: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Index of the point at or below each wanted value, and the share of the next point in it."""
    if len(points) == 1:
        return np.zeros(wanted.shape, np.int64), np.zeros(wanted.shape)
    inside = np.clip(wanted, points[0], points[-1])
    index = np.clip(np.searchsorted(points, inside, side="right") - 1, 0, len(points) - 2)
    return index, (inside - points[index]) / (points[index + 1] - points[index])


def _both(library: PowerLibrary, group: Group, what: str, unit: float) -> Pair:
    """The tables rise_<what> and fall_<what> of a group, or what is there of them, or the one table <what>."""
    tables = group.all(f"rise_{what}", f"fall_{what}") or group.all(what)
    if not tables:
        raise ValueError(f"{library.name} has a group {group.kind} without tables of {what}")
    return Pair([library.table(table, unit) for table in tables], group.attributes.get("when", ""))


def _condition(when: str) -> tuple[list[str], list[list[bool]]]:
    """The pins of a condition, and their values in which it holds."""
    pins = sorted(set(re.findall(r"[A-Za-z_]\w*", when)))
    table = truth_table(when, pins) if pins else 0
    held = (state for state in range(1 << len(pins)) if table >> state & 1)
    return pins, [[bool(state >> place & 1) for place in range(len(pins))] for state in held]


def _capacitance(pin: Group, default: str) -> float:
    values = pin.attributes
    if "capacitance" in values:
        return float(values["capacitance"])
    edges = [float(values[edge]) for edge in ("rise_capacitance", "fall_capacitance") if edge in values]
    return sum(edges) / len(edges) if edges else float(default)


def _leakage(cell: Group) -> float:
    """Of a cell, in the library's unit; if it has no value for all states, their mean."""
    if "cell_leakage_power" in cell.attributes:
        return float(cell.attributes["cell_leakage_power"])
    values = [float(group.attributes["value"]) for group in cell.all("leakage_power")]
    return sum(values) / len(values) if values else 0.0


def _numbers(text: str) -> Floats:
    return np.array([float(number) for number in re.findall(r"[-+.\d][-+.\deE]*", text)])


def _unit(text: str, base: str) -> float:
    """The unit of an attribute such as "1ns" or (1, "pf"), of which `base` is the last letter."""
    match = re.fullmatch(rf'\W*([\d.]+)[\s",]*([munpf]?){base}\W*', text, re.IGNORECASE)
    if match is None:
        raise ValueError(f"{text!r} is not a unit such as 1n{base}")
    scales = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15}
    return float(match[1]) * scales[match[2].lower()]
