"""A bitstream of a machine behind a serial line for an evaluation board, whose pins are those of amaranth-boards."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, Const, Elaboratable, Instance, Module, Mux, Signal
from amaranth.lib import io

from lightnorm.board.uart import DIVISOR_BITS
from lightnorm.config import Config
from lightnorm.generate import TOPS, generate
from lightnorm.yosys import ToolError, ToolMissing

from .files import write_json, write_text
from .nextpnr import run_tool, tool_version
from .place_route import PARTS, implement

__all__ = ["BOARDS", "Board", "make_bitstream"]

MODULE = TOPS["uart"]
BAUD_TOLERANCE = 0.02
"""Of ten bits the last is still sampled in its middle half."""


@dataclass(frozen=True)
class Board:
    """A board: its class in amaranth-boards, its part, its clock and by what that is divided, the default machine."""

    module: str
    platform: str
    part: str
    clock_mhz: float
    divide: int
    config: str
    passes: str | None
    packer: str
    suffix: str
    load: str


BOARDS = {
    "ulx3s_85f": Board(
        module="amaranth_boards.ulx3s", platform="ULX3S_85F_Platform", part="ecp5", clock_mhz=25.0, divide=2,
        config="configs/default.toml", passes=None, packer="ecppack", suffix=".bit",
        load="openFPGALoader -b ulx3s {file}",
    ),
    # Both passes forward: with backward the machine needs more than the device has (docs/board.md).
    "ice40_hx8k_b_evn": Board(
        module="amaranth_boards.ice40_hx8k_b_evn", platform="ICE40HX8KBEVNPlatform", part="ice40", clock_mhz=12.0,
        divide=1, config="configs/tiny.toml", passes="train,infer", packer="icepack", suffix=".bin",
        load="iceprog -S {file}",
    ),
}  # fmt: skip


class OnBoard(Elaboratable):
    """The Verilog module on the board's clock, or a division of it, and its serial port."""

    def __init__(self, divide: int, divisor: int) -> None:
        self.divide, self.divisor = divide, divisor

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        port = platform.request("uart", 0, dir="-")
        rx, tx = io.Buffer(io.Direction.Input, port.rx), io.Buffer(io.Direction.Output, port.tx)
        m.submodules.rx, m.submodules.tx = rx, tx
        domain = "sync"
        if self.divide > 1:
            domain = "slow"
            m.domains.slow = ClockDomain("slow", reset_less=True)
            count = Signal(range(self.divide))
            m.d.sync += count.eq(count + 1)
            m.d.comb += ClockSignal("slow").eq(count[-1])
        awake = Signal(4)  # 0 when the device wakes up; the machine's own registers are undefined until they are reset
        m.d[domain] += awake.eq(Mux(awake.all(), awake, awake + 1))
        m.submodules.serial = Instance(
            MODULE,
            i_clk=ClockSignal(domain),
            i_rst=~awake.all(),
            i_i_divisor=Const(self.divisor, DIVISOR_BITS),
            i_rx=rx.i,
            o_tx=tx.o,
        )
        return m


def make_bitstream(
    config: Config,
    name: str,
    out_dir: Path,
    *,
    baud: int,
    divide: int,
    progress: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Build for the board ``name``; returns what ``out_dir``/bitstream.json then holds.

    ``divide``: a power of two by which the board's clock is divided. ``out_dir`` also gets the bitstream and the file
    of its pins, both named after the board, bitstream.md, lightnorm_uart.v, lightnorm_uart.json for the host, and logs.
    Raises ValueError for a baud rate that the clock cannot make, ToolError if the design does not close at its clock;
    no bitstream is left then.
    """
    board = BOARDS[name]
    part = PARTS[board.part]
    clock_mhz = board.clock_mhz / divide
    divisor = _divisor(clock_mhz, baud)
    tool_version(board.packer)
    if importlib.util.find_spec("amaranth_boards") is None:
        raise ToolMissing("amaranth-boards was not found: run `pip install amaranth-boards` (the extra fpga has it)")
    platform = getattr(importlib.import_module(board.module), board.platform)()
    bitstream = out_dir / f"{name}{board.suffix}"
    constraints = bitstream.with_suffix(part.constraints.replace("--", "."))
    for stale in (bitstream, constraints, out_dir / "bitstream.json", out_dir / "bitstream.md"):
        stale.unlink(missing_ok=True)
    progress("generating the Verilog")
    description = generate(config, out_dir, top="uart")
    plan = platform.prepare(OnBoard(divide, divisor), "top")
    pins = f"top{constraints.suffix}"
    files = {"top.il": plan.files["top.il"], pins: plan.files[pins]}
    files[f"{MODULE}.v"] = (out_dir / f"{MODULE}.v").read_text(encoding="utf-8")
    read = f"read_verilog {MODULE}.v\nread_rtlil top.il\n"
    with tempfile.TemporaryDirectory(prefix="lightnorm-") as folder:
        work = Path(folder)
        measured = implement(
            part, "top", read, files, work, out_dir, clock_mhz=clock_mhz, constraints=pins, progress=progress
        )
        if measured["fmax_mhz"] < clock_mhz:
            raise ToolError(
                f"the design reaches {measured['fmax_mhz']:.1f} MHz on {part.name}, less than its clock of"
                f" {clock_mhz:g} MHz; divide the board's clock by more than {divide} (--divide)"
            )
        progress("packing the bitstream")
        arguments = ["--compress"] if board.packer == "ecppack" else []
        run_tool(board.packer, [*arguments, "placed", "bits"], log=out_dir / f"{board.packer}.log", cwd=work)
        shutil.copyfile(work / "bits", bitstream)
    write_text(constraints, plan.files[pins])
    result = {
        "board": name,
        "hash": description["hash"],
        "passes": list(config.implementation.passes),
        "clock_mhz": clock_mhz,
        "baud": baud,
        "bitstream": bitstream.name,
        "load": board.load.format(file=bitstream.name),
        **measured,
    }
    write_json(out_dir / "bitstream.json", result)
    write_text(out_dir / "bitstream.md", _page(result))
    return result


def _divisor(clock_mhz: float, baud: int) -> int:
    """Cycles per bit."""
    cycles = 1e6 * clock_mhz / baud
    divisor = round(cycles)
    if not 4 <= divisor < 1 << DIVISOR_BITS or abs(cycles / divisor - 1) > BAUD_TOLERANCE:
        raise ValueError(
            f"--baud {baud}: a bit would be {cycles:.4g} cycles of {clock_mhz:g} MHz; it must be a whole number of them"
            f" (within {100 * BAUD_TOLERANCE:g} %), at least 4"
        )
    return divisor


def _page(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    path, tools = result["critical_path"], result["tools"]
    rows = {
        "configuration": f"{result['hash']}, {', '.join(result['passes'])}",
        "clock": f"{result['clock_mhz']:g} MHz; place and route reached {result['fmax_mhz']:g} MHz",
        "serial line": f"{result['baud']:,} baud, 8N1",
        **{name: f"{n['used']:,} of {n['available']:,} ({100 * n['used'] / n['available']:.0f} %)"
           for name, n in result["resources"].items()},
        "critical path": f"{path['ns']:g} ns, routing {path['routing_ns']:g} of it: {path['from']} to {path['to']}",
        "tools": f"Yosys {tools['yosys']}, {tools['nextpnr']}",
    }  # fmt: skip
    table = [f"| {name} | {text} |" for name, text in rows.items()]
    load = f"    {result['load']}"
    return "\n".join([f"# {result['board']}: {result['part']}", "", "| | |", "|---|---|", *table, "", load, ""])
