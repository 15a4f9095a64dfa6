"""Power by OpenSTA, a second source for what transitions cost.

Debian's version 2.0.17 cannot take counts of transitions for each net, so all nets toggle equally often here, and it
takes every clock, gated or not, as always running. Of internal power its energies are taken, at its own slews and
loads, and not its sums: for a transition it adds the energies of a rise and of a fall, where Liberty gives one of them
(later versions take their mean); it counts half of that of data inputs; and the related pins of an output do not always
weigh 1 together.

    python sim/tests/flow/opensta.py build/default/gates/NAME/flat/flat.json LIBRARY.lib

prints what `lightnorm energy` would say of such an activity over what OpenSTA says, of a netlist that it has measured.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from lightnorm_flow.activity import Activity
from lightnorm_flow.cell_power import PowerLibrary
from lightnorm_flow.energy import KINDS, Assumptions, spent
from lightnorm_flow.flat_netlist import FlatNetlist, Net, read_flat
from lightnorm_flow.liberty import read_text

STA = shutil.which("sta")
CYCLES = 1000


def nets_of(netlist: FlatNetlist) -> set[Net]:
    """All nets at cells, memories and ports."""
    at_cells = {net for instance in netlist.instances for net in instance.pins.values() if not isinstance(net, bool)}
    at_memories = {net for memory in netlist.memories for net in (*memory.inputs, *memory.outputs)}
    return at_cells | at_memories | {*netlist.inputs, *netlist.outputs}


def uniform_activity(netlist: FlatNetlist, power: PowerLibrary, rate: float) -> Activity:
    """`rate` transitions a cycle of every net but clocks, which have two."""
    pins = ((instance, pin) for instance in netlist.instances for pin in power.cell(instance.cell).clocks)
    clocks = {instance.pins[pin] for instance, pin in pins}
    nets = nets_of(netlist)
    toggles = {name: np.zeros(max(bit for other, bit in nets if other == name) + 1, np.int64) for name, _ in nets}
    for name, bit in nets:
        toggles[name][bit] = 2 * CYCLES if (name, bit) in clocks else round(rate * CYCLES)
    return Activity(CYCLES, toggles, {name: np.full(len(counts), 0.5) for name, counts in toggles.items()})


def opensta_energy(
    netlist: FlatNetlist, library: Path, clock: str, rate: float, given: Assumptions, folder: Path
) -> dict[str, float]:
    """Internal, switching and leakage energy in pJ of all cells in the time of `uniform_activity`."""
    assert STA is not None and given.wire_ff == 0
    # pins have one capacitance here, not the larger of rise and fall, and wires have none
    attributes = r"\b(rise_capacitance|fall_capacitance|default_wire_load|default_wire_load_selection) *:[^;]*;"
    ranges = r"\b(rise|fall)_capacitance_range *\([^)]*\) *;"
    text = re.sub(f"{attributes}|{ranges}", "", read_text(library))
    (folder / "library.lib").write_text(text)
    (folder / "top.v").write_text(_verilog(netlist, PowerLibrary(library)))
    period = 1e3 / given.clock_mhz
    script = [
        "read_liberty library.lib", "read_verilog top.v", "link_design top",
        f"create_clock -period {period} {clock}__0",
        f"set_input_transition {given.input_slew_ns} [all_inputs]",
        # without a clock an activity would be per second
        f"foreach port [all_inputs] {{ if {{[get_name $port] ne {{{clock}__0}}}}"
        f" {{ set_input_delay 0 -clock {clock}__0 $port }} }}",
        "sta::set_debug power 2", f"set_power_activity -global -activity {rate} -duty 0.5",
        "report_power -digits 8", "",
    ]  # fmt: skip
    (folder / "power.tcl").write_text("\n".join(script))
    done = subprocess.run([STA, "-no_splash", "-exit", "power.tcl"], cwd=folder, capture_output=True, text=True)
    total = re.search(r"^Total +\S+ +(\S+) +(\S+)", done.stdout, re.MULTILINE)
    assert total and "Error" not in done.stdout, done.stdout[-2000:]
    switching, leakage = (float(watts) * 1e12 * CYCLES * period * 1e-9 for watts in total.groups())
    return {"internal": _internal(done.stderr, period, rate), "switching": switching, "leakage": leakage}


def _internal(log: str, period: float, rate: float) -> float:
    """Internal energy in pJ: mean of rise and fall, conditions and related pins weighing the same."""
    arcs: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    instance = ""
    for line in log.splitlines():
        if match := re.match(r"power: internal (\S+)/", line):
            instance = match[1]
        elif match := re.match(r"power: +(\S+) -> (\S+) .*?(\S+) +(\S+) +(\S+) +\S+ no pg_pin", line):
            related, pin, per_ns, duty, energy = match.groups()
            # what it prints has the duty in it
            arcs[instance, pin][related].append((float(per_ns), float(energy) / float(duty)))
    total = 0.0
    for by_related in arcs.values():
        (per_ns, _), *_ = next(iter(by_related.values()))  # rounded to two digits
        transitions = 2 if per_ns * period > 1 else rate
        means = [np.mean([energy for _, energy in found]) for found in by_related.values()]
        total += transitions * float(np.mean(means)) / 2 * 1e12 * CYCLES
    return total


def _verilog(netlist: FlatNetlist, power: PowerLibrary) -> str:
    """The cells alone: what memories drive comes from outside."""

    def name(net: Net) -> str:
        return f"{net[0]}__{net[1]}"

    nets, driven, lines = nets_of(netlist), set(), []
    for index, instance in enumerate(netlist.instances):
        pins = []
        for pin, net in instance.pins.items():
            pins.append(f".{pin}({name(net)})" if not isinstance(net, bool) else f".{pin}(1'b{net:d})")
            if pin in power.cell(instance.cell).outputs:
                driven.add(net)
        lines.append(f"  {instance.cell} u{index} ({', '.join(pins)});")
    inputs, inner = sorted(map(name, nets - driven)), sorted(map(name, nets & driven))
    header = [f"module top ({', '.join(inputs)});", *(f"  input {port};" for port in inputs)]
    return "\n".join([*header, *(f"  wire {wire};" for wire in inner), *lines, "endmodule", ""])


def compared(
    netlist: FlatNetlist, library: Path, clock: str, rate: float, given: Assumptions, folder: Path
) -> dict[str, float]:
    """Our energy over OpenSTA's, of each kind."""
    power = PowerLibrary(library)
    ours = spent(netlist, power, uniform_activity(netlist, power, rate), given, elements=1)["stages"]
    theirs = opensta_energy(netlist, library, clock, rate, given, folder)
    # OpenSTA gives what is in front of the cells to nobody
    return {kind: sum(ours[stage][kind] for stage in ours if stage != "inputs") / theirs[kind] for kind in KINDS}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        flat = replace(read_flat(Path(sys.argv[1]), "lightnorm"), memories=[])
        given = Assumptions(wire_ff=0)
        print(compared(flat, Path(sys.argv[2]), "clk", 0.1, given, Path(directory)))
