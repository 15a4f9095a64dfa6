"""Area of the conventional machines by stage, um^2 per lane (docs/baselines.md).

    python hdl/benchmarks/baselines.py LIBRARY.lib [NAME ...]

takes 2 to 10 minutes a machine of 16 lanes; names are those of `lightnorm.baseline.ladder`.
"""

import sys
import tempfile
from pathlib import Path

from lightnorm.baseline import generate_baseline, ladder
from lightnorm_flow.synth import synthesize

LANES = 16


def main() -> None:
    library, *names = sys.argv[1:]
    for design in ladder():
        if names and design.name not in names:
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            generate_baseline(design, folder, lanes=LANES)
            result = synthesize(folder / "baseline.v", top="baseline", target=library, out_dir=folder, lanes=LANES)
        stages = ", ".join(f"{stage} {area / LANES:,.0f}" for stage, area in result["stages"].items())
        print(f"{design.name:12} {result['logic_area_per_lane_um2']:10,.0f} um^2 per lane: {stages};"
              f" {result['ffs']} flip-flops, {result['buffer_bits']} bits of memory", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
