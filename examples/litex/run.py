"""Builds a LiteX SoC around a generated block and simulates a host that runs a layer on it.

    python examples/litex/run.py build/tiny    the folder of `lightnorm generate --top axi`; writes its folder `litex`
"""

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from soc import build

from lightnorm_sim.simulators import SIMULATORS, cocotb_environment

HERE = Path(__file__).resolve().parent
CACHE = Path("build/sim").resolve()  # of what all simulations share


def main(folder: Path) -> int:
    """The exit status: 0 if the host found every bit right."""
    work = folder / "litex"
    shutil.rmtree(work, ignore_errors=True)
    build(folder, work)
    (work / "folder").symlink_to(folder.resolve())
    tool = SIMULATORS["verilator"]
    sources = [folder.resolve() / "lightnorm_axi.v", (work / "soc.v").resolve(), HERE / "harness.v"]
    tool.compile(sources, work, cache=CACHE, waves=False)
    environment = cocotb_environment()
    environment |= {
        "COCOTB_TEST_MODULES": "host",
        "COCOTB_LOG_LEVEL": "WARNING",
        "COCOTB_RESULTS_FILE": "results.xml",
        "PYTHONPATH": os.pathsep.join([str(HERE), environment["PYTHONPATH"]]),
    }
    subprocess.run(tool.command(work.resolve(), waves=False, seed=1), cwd=work, env=environment, check=False)
    results = work / "results.xml"
    cases = ET.parse(results).getroot().findall(".//testcase") if results.exists() else []
    passed = len(cases) == 1 and not cases[0].findall("failure") and not cases[0].findall("error")
    print("PASS" if passed else "FAIL")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
