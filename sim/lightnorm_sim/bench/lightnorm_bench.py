"""The cocotb test that runs a harness: clock, reset, and waiting until the harness says it has finished.

The clock is cocotb's own in C++, and all stimulus and checking is in the harness: no Python runs in a cycle.
"""

import cocotb
from cocotb.clock import Clock
from cocotb.handle import HierarchyObject, LogicObject
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge

RESET_CYCLES = 4
CLOSING_CYCLES = 2  # in which the harness closes its files


class Harness(HierarchyObject):
    """The generated top module."""

    clk: LogicObject
    rst: LogicObject
    finished: LogicObject


@cocotb.test()
async def run_harness(harness: Harness) -> None:
    """Ends when every expected word was seen, or something is wrong; the harness's files tell which."""
    harness.rst.value = 1
    Clock(harness.clk, 2, unit="ns", impl="gpi").start()
    await ClockCycles(harness.clk, RESET_CYCLES)
    await FallingEdge(harness.clk)
    harness.rst.value = 0
    await RisingEdge(harness.finished)
    await ClockCycles(harness.clk, CLOSING_CYCLES)
