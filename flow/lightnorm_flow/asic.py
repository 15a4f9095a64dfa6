"""The Yosys commands that map an elaborated design onto gates: those of a standard-cell library, or generic ones.

What the library recipe does beyond the usual mapping, each step measured to pay: registers that share an enable get one
clock gate, small multipliers become arrays of rows, carries ripple through the library's full adders where it has them,
and ABC maps with its area mapper (amap) after more rounds of optimization than its default script has.

The result is the area of the mapped cells before placement: smallest drive strengths, no buffers, clock tree or scan.

With a clock to reach there is another recipe: parallel-prefix carries everywhere, balanced delays (if -g), ABC's delay
mapper, buffers and drive strengths. Two rounds of area optimization less: ABC's dc2 makes ripple carries out of the
prefix ones.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch

from .liberty import Cell

__all__ = ["Recipe", "cell_recipe", "gate_recipe"]

# Special-purpose cells that libraries often do not mark as "dont_use".
DONT_USE = ("*lpflow*", "*probe*", "*macro*", "*dly*", "*clkbuf*", "*clkinv*")
# Registers with a common enable: from this many on, a clock gate is smaller than their multiplexers.
CLOCK_GATE_REGISTERS = 4
# Multipliers with more rows are left to Yosys' carry-save trees, which are larger and faster.
MOST_MULTIPLIER_ROWS = 8

XOR3, MAJORITY = 0b10010110, 0b11101000

TRIM = """\
wreduce
peepopt
opt_clean
"""

# Memories stay as they are. No synchronous resets (-nosdff): neither libraries nor the generic gates have them.
ARITHMETIC = """\
alumacc
opt -nosdff
memory -nomap
opt_clean
opt -fast -full -nosdff
"""

GATES = """\
techmap
opt -fast -nosdff
dfflegalize -cell $_DFF_P_ 01 -cell $_DFF_P??_ 01
opt -fast -nosdff -nodffe
abc -g cmos
opt_clean
"""

# ABC's compress2rs, twice, each after two rounds of dc2.
ABC_ROUND = """\
dc2; dc2
balance -l; resub -K 6 -l; rewrite -l; resub -K 6 -N 2 -l; refactor -l; resub -K 8 -l
balance -l; resub -K 8 -N 2 -l; rewrite -l; resub -K 10 -l; rewrite -z -l; resub -K 10 -N 2 -l
balance -l; resub -K 12 -l; refactor -z -l; resub -K 12 -N 2 -l; rewrite -z -l; balance -l
"""
SPEED_ABC_SCRIPT = """\
strash; ifraig; scorr; if -g -K 6; strash; dch -f; map -B 0.9 -D {delay}; topo
buffer -c -N 12; upsize -D {delay}; dnsize -D {delay}; stime -p
"""
# Of a clock period; the rest is for the registers, whose delays ABC does not know, and for loads it sees too light.
LOGIC_SHARE = 0.7

ABC_SCRIPT = f"strash; ifraig\n{2 * ABC_ROUND}strash; dch -f; amap -F 20 -A 20 -C 1000 -m\n"

# The operand with fewer bits selects the rows. Yosys' own mapping takes some 4 % more area, for the sake of speed.
MULTIPLIER = f"""\
(* techmap_celltype = "$mul" *)
module array_multiplier (A, B, Y);
  parameter A_SIGNED = 0;
  parameter B_SIGNED = 0;
  parameter A_WIDTH = 1;
  parameter B_WIDTH = 1;
  parameter Y_WIDTH = 1;
  (* force_downto *) input [A_WIDTH-1:0] A;
  (* force_downto *) input [B_WIDTH-1:0] B;
  (* force_downto *) output [Y_WIDTH-1:0] Y;
  localparam ROWS = A_WIDTH < B_WIDTH ? A_WIDTH : B_WIDTH;
  localparam BITS = A_WIDTH < B_WIDTH ? B_WIDTH : A_WIDTH;
  wire _TECHMAP_FAIL_ = A_SIGNED || B_SIGNED || ROWS < 2 || ROWS > {MOST_MULTIPLIER_ROWS};
  wire [ROWS-1:0] select = A_WIDTH < B_WIDTH ? A : B;
  wire [BITS-1:0] value = A_WIDTH < B_WIDTH ? B : A;
  wire [ROWS+BITS-1:0] product;
  genvar i;
  generate for (i = 0; i < ROWS; i = i + 1) begin : row
    wire [BITS:0] sum;
    if (i == 0)
      assign sum = value & {{BITS{{select[0]}}}};
    else
      assign sum = row[i-1].sum[BITS:1] + (value & {{BITS{{select[i]}}}});
    assign product[i] = sum[0];
  end endgenerate
  assign product[ROWS+BITS-1:ROWS] = row[ROWS-1].sum[BITS:1];
  assign Y = product;
endmodule
"""

RIPPLE_CARRY = """\
(* techmap_celltype = "$lcu" *)
module _80_carry (P, G, CI, CO);
  parameter WIDTH = 1;
  (* force_downto *) input [WIDTH-1:0] P, G;
  input CI;
  (* force_downto *) output [WIDTH-1:0] CO;
  assign CO = G | (P & {CO, CI});
endmodule
"""

FULL_ADDER_MAP = """\
module \\$fa (A, B, C, X, Y);
  parameter WIDTH = 1;
  (* force_downto *) input [WIDTH-1:0] A, B, C;
  (* force_downto *) output [WIDTH-1:0] X, Y;
  genvar i;
  generate for (i = 0; i < WIDTH; i = i + 1) begin : bits
    {cell} adder (.{a}(A[i]), .{b}(B[i]), .{c}(C[i]), .{carry}(X[i]), .{sum}(Y[i]));
  end endgenerate
endmodule
"""

FULL_ADDER_UNMAP = """\
module {cell} (input {a}, {b}, {c}, output {carry}, {sum});
  assign {sum} = {a} ^ {b} ^ {c};
  assign {carry} = ({a} & {b}) | ({c} & ({a} ^ {b}));
endmodule
"""

# A full adder of which only one output is used is smaller as gates.
FULL_ADDER_SCRIPT = """\
extract_fa -fa
techmap -map full_adder_map.v
techmap
opt -fast -nosdff
splitnets
select -set sums t:{cell} %co1:+[{sum}] w:* %i
select -set carries t:{cell} %co1:+[{carry}] w:* %i
select -set read t:* %ci1 w:* %i o:* %u
select -set full @sums @read %i %ci1:+[{sum}] @carries @read %i %ci1:+[{carry}] %i t:{cell} %i
techmap -map full_adder_unmap.v t:{cell} @full %d
techmap
opt -fast -nosdff
"""


@dataclass(frozen=True)
class Recipe:
    """A Yosys script that maps an elaborated design, and the files (name: text) it reads from its directory."""

    script: str
    files: dict[str, str]


def gate_recipe() -> Recipe:
    """How to map onto generic CMOS gates."""
    return Recipe(TRIM + ARITHMETIC + GATES, {})


def cell_recipe(cells: dict[str, Cell], library_text: str, clock_ns: float | None = None) -> Recipe:
    """How to map onto a library, given its cells and the text of its Liberty file; for area, or for a clock period."""
    files = {"library.lib": library_text, "area.abc": ABC_SCRIPT, "multiplier.v": MULTIPLIER}
    library = " ".join(["-liberty library.lib", *(f"-dont_use {pattern}" for pattern in DONT_USE)])
    script = "read_liberty -lib -ignore_miss_func library.lib\n"
    if clock_ns is not None:
        files = {"library.lib": library_text}
        files["speed.abc"] = SPEED_ABC_SCRIPT.format(delay=round(1000 * LOGIC_SHARE * clock_ns))
        script += TRIM + ARITHMETIC + _clock_gating(cells.values()) + "techmap\nopt -fast -nosdff\n"
        constraint = ""
        if driver := _smallest_buffer(cells.values()):  # else ABC takes registers for ideal drivers
            files["drive.constr"] = f"set_driving_cell {driver}\nset_load 5.0\n"
            constraint = "-constr drive.constr"
        script += f"dfflibmap {library}\nopt -fast -nosdff\n"
        script += f"abc {library} {constraint} -script speed.abc\nopt_clean\n"
        return Recipe(script, files)
    script += TRIM + "techmap -map multiplier.v t:$mul\nopt -nosdff\n" + ARITHMETIC + _clock_gating(cells.values())
    if adder := _full_adder(cells.values()):
        files["carry.v"] = RIPPLE_CARRY
        files["full_adder_map.v"] = FULL_ADDER_MAP.format(**adder)
        files["full_adder_unmap.v"] = FULL_ADDER_UNMAP.format(**adder)
        script += "techmap -map carry.v -map +/techmap.v\nopt -fast -nosdff\n" + FULL_ADDER_SCRIPT.format(**adder)
    else:
        script += "techmap\nopt -fast -nosdff\n"
    script += f"dfflibmap {library}\nopt -fast -nosdff\nabc {library} -script area.abc\nopt_clean\n"
    return Recipe(script, files)


def _clock_gating(cells: Iterable[Cell]) -> str:
    """Replaces enables by the smallest clock gate; libraries mark these "dont_use" only to keep them out of logic."""
    gates = [cell for cell in cells if cell.clock_gate in ("latch_posedge", "latch_posedge_precontrol")]
    if not gates:
        return ""
    gate = min(gates, key=lambda cell: cell.area)
    clock, enable, output, test = (gate.pin_with(f"clock_gate_{pin}_pin") for pin in ("clock", "enable", "out", "test"))
    tie = f"-tie_lo {test}" if test else ""
    return (
        "simplemap t:$dff t:$dffe t:$adff t:$adffe\n"
        f"clockgate -pos {gate.name} {enable}:{clock}:{output} {tie} -min_net_size {CLOCK_GATE_REGISTERS}\n"
    )


def _smallest_buffer(cells: Iterable[Cell]) -> str | None:
    """Name of the smallest cell whose one output is its one input."""
    buffers = [
        (cell.area, cell.name) for cell in cells
        if not cell.sequential and not cell.dont_use and len(cell.inputs) == 1 and len(cell.functions) == 1
        and not any(fnmatch(cell.name, pattern) for pattern in DONT_USE)
        and cell.truth_table(next(iter(cell.functions))) == 0b10
    ]  # fmt: skip
    return min(buffers)[1] if buffers else None


def _full_adder(cells: Iterable[Cell]) -> dict[str, str] | None:
    """Name and pins of the smallest cell with the sum and the carry of three bits."""
    adders = []
    for cell in cells:
        if cell.sequential or cell.dont_use or len(cell.inputs) != 3 or len(cell.functions) != 2:
            continue
        tables = {cell.truth_table(output): output for output in cell.functions}
        if set(tables) == {XOR3, MAJORITY}:
            pins = dict(zip("abc", cell.inputs, strict=True), sum=tables[XOR3], carry=tables[MAJORITY])
            adders.append((cell.area, {"cell": cell.name, **pins}))
    return min(adders, key=lambda adder: adder[0])[1] if adders else None
