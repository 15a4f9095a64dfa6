"""Area of the floating-point units alone, combinational, beside public ones (docs/baselines.md).

    python hdl/benchmarks/float_units.py LIBRARY.lib [LIBRARY.lib ...]

prints um^2 and the same in NAND2 equivalents: the area over that of the library's smallest NAND of two inputs.
"""

import sys
import tempfile
from pathlib import Path

from lightnorm.arith.floating import FloatAdd, FloatMultiply, FloatMultiplyAdd
from lightnorm.generate import verilog_of
from lightnorm_flow.liberty import read_cells
from lightnorm_flow.synth import synthesize
from lightnorm_golden import FloatFormat

FORMATS = {"fp32": FloatFormat(8, 23), "bfloat16": FloatFormat(8, 7), "fp16": FloatFormat(5, 10)}
UNITS = {"add": FloatAdd, "multiply": FloatMultiply, "multiply-add": FloatMultiplyAdd}
NAND2 = 0b0111


def smallest_nand(library: Path) -> float:
    """Area of the smallest cell that is a NAND of two inputs and nothing else."""
    return min(
        cell.area for cell in read_cells(library).values()
        if len(cell.inputs) == 2 and len(cell.functions) == 1 and not cell.sequential
        and cell.truth_table(next(iter(cell.functions))) == NAND2
    )  # fmt: skip


def main() -> None:
    for library in map(Path, sys.argv[1:]):
        nand = smallest_nand(library)
        print(f"{library.name}: NAND2 {nand:g} um^2")
        for kind, fmt in FORMATS.items():
            for name, unit in UNITS.items():
                with tempfile.TemporaryDirectory() as folder:
                    verilog = Path(folder, "unit.v")
                    verilog.write_text(verilog_of(unit(fmt=fmt), "unit", Path(folder, "generate.log")))
                    area = synthesize(verilog, top="unit", target=str(library), out_dir=Path(folder), lanes=1)
                size = area["logic_area_um2"]
                print(f"  {kind:8} {name:12} {size:10,.0f} um^2 {size / nand:8,.0f}", flush=True)


if __name__ == "__main__":
    main()
