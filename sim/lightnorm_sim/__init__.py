"""Simulation of generated machines: the Verilog as emitted, under cocotb, in Verilator or Icarus."""

from lightnorm_sim.harness import Ports, read_ports
from lightnorm_sim.outcome import RunResult, SimulationError, Transfers
from lightnorm_sim.runner import Build, Run, build
from lightnorm_sim.simulators import SIMULATORS, lint
from lightnorm_sim.stalls import STALL_PATTERNS, StallPattern

__all__ = [
    "SIMULATORS",
    "STALL_PATTERNS",
    "Build",
    "Ports",
    "Run",
    "RunResult",
    "SimulationError",
    "StallPattern",
    "Transfers",
    "build",
    "lint",
    "read_ports",
]
