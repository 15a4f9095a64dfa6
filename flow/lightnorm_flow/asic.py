"""The Yosys commands that map a design onto a standard-cell library, for the smallest area.

What the recipe does beyond the usual mapping, each step measured: registers that share an enable get one clock gate,
carries ripple through the library's full adders where it has them, and ABC maps with its area mapper (amap) after more
rounds of optimization than its default script has.

The result is the area of the mapped cells before placement: smallest drive strengths, no buffers, clock tree or scan.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from .liberty import Cell

__all__ = ["Recipe", "cell_recipe"]

# Special-purpose cells that libraries often do not mark as "dont_use".
DONT_USE = ("*lpflow*", "*probe*", "*macro*", "*dly*", "*clkbuf*", "*clkinv*")
# Registers with a common enable: from this many on, a clock gate is smaller than their multiplexers.
CLOCK_GATE_REGISTERS = 4
# A wider carry becomes a parallel-prefix one: some 10 % larger, but rippling it would set the clock.
WIDEST_RIPPLE_CARRY = 32

XOR3, MAJORITY = 0b10010110, 0b11101000

# ABC's compress2rs between two rounds of dc2 and the area mapper.
ABC_SCRIPT = """\
strash; ifraig; dc2; dc2
balance -l; resub -K 6 -l; rewrite -l; resub -K 6 -N 2 -l; refactor -l; resub -K 8 -l
balance -l; resub -K 8 -N 2 -l; rewrite -l; resub -K 10 -l; rewrite -z -l; resub -K 10 -N 2 -l
balance -l; resub -K 12 -l; refactor -z -l; resub -K 12 -N 2 -l; rewrite -z -l; balance -l
strash; dch -f; amap -F 20 -A 20 -C 1000 -m
"""

RIPPLE_CARRY = f"""\
(* techmap_celltype = "$lcu" *)
module _80_carry (P, G, CI, CO);
  parameter WIDTH = 1;
  (* force_downto *) input [WIDTH-1:0] P, G;
  input CI;
  (* force_downto *) output [WIDTH-1:0] CO;
  generate if (WIDTH > {WIDEST_RIPPLE_CARRY})
    \\$__wide_carry #(.WIDTH(WIDTH)) _TECHMAP_REPLACE_ (.P(P), .G(G), .CI(CI), .CO(CO));
  else
    assign CO = G | (P & {{CO, CI}});
  endgenerate
endmodule
"""

WIDE_CARRY = """\
module \\$__wide_carry (P, G, CI, CO);
  parameter WIDTH = 1;
  (* force_downto *) input [WIDTH-1:0] P, G;
  input CI;
  (* force_downto *) output [WIDTH-1:0] CO;
  \\$lcu #(.WIDTH(WIDTH)) _TECHMAP_REPLACE_ (.P(P), .G(G), .CI(CI), .CO(CO));
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
techmap -map wide_carry.v
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


def cell_recipe(cells: dict[str, Cell], library_text: str) -> Recipe:
    """How to map onto a library, given its cells and the text of its Liberty file."""
    files = {"library.lib": library_text, "area.abc": ABC_SCRIPT}
    library = " ".join(["-liberty library.lib", *(f"-dont_use {pattern}" for pattern in DONT_USE)])
    script = "read_liberty -lib -ignore_miss_func library.lib\nopt -fast -full -nosdff\n"
    script += _clock_gating(cells.values())
    if adder := _full_adder(cells.values()):
        files["carry.v"] = RIPPLE_CARRY
        files["wide_carry.v"] = WIDE_CARRY
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
