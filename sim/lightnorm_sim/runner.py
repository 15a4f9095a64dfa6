"""Runs generated Verilog: several runs of the machine, back to back, in one simulation.

``build`` compiles a machine once, ``Build.run`` simulates it as often as wanted. What is wrong whatever the words may
mean is found here: a broken handshake, a missing or surplus word, a hang. To compare words is up to the caller.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lightnorm.yosys import ToolFailed
from lightnorm_sim.files import read_log, write_limits, write_stream
from lightnorm_sim.harness import TOP, Ports, descriptor_ports, harness_text, stream_widths
from lightnorm_sim.outcome import RunResult, SimulationError, by_run, check
from lightnorm_sim.simulators import SIMULATORS, cocotb_environment
from lightnorm_sim.stalls import StallPattern
from lightnorm_sim.tools import fingerprint, make_once

__all__ = ["Build", "Run", "build"]

HARNESS = Path(__file__).with_name("harness.v")
RECIPE = Path(__file__).with_name("simulators.py")
NO_STALLS = StallPattern.none()
WATCH = 100  # cycles after the last expected word in which no other may come


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: its descriptor, the words to send, and how many to expect. Words are as on the port."""

    mode: int
    channels: int
    elements: int
    chunk_blocks: int = 0
    inv_count: int = 0
    range_gain: int = 0
    eps: int = 0
    momentum: int = 0
    x_beats: Sequence[int] = ()
    grad_beats: Sequence[int] = ()
    parameters: Sequence[int] = ()
    output_beats: int = 0
    result_words: int = 0


def build(
    verilog: Path, ports: Ports, simulator: str, build_dir: Path, *, waves: bool = False, module: str = "lightnorm"
) -> "Build":
    """Compile a generated machine for "verilator" or "icarus", unless ``build_dir`` already holds just that.

    ``module`` is the machine's name.
    """
    if simulator not in SIMULATORS:
        raise ValueError(f"simulator must be {' or '.join(SIMULATORS)}, not {simulator!r}")
    tool = SIMULATORS[simulator]
    top = harness_text(ports, module)
    key = fingerprint(tool.identity(), str(waves), top, *(file.read_bytes() for file in (HARNESS, RECIPE, verilog)))
    build_dir = build_dir.resolve()
    directory = build_dir / f"{simulator}-{key}"

    def compile_into(unfinished: Path) -> None:
        frame = unfinished / f"{TOP}.v"
        frame.write_text(top)
        tool.compile([verilog.resolve(), frame, HARNESS], unfinished, cache=build_dir, waves=waves)

    make_once(directory, compile_into)
    return Build(simulator=simulator, directory=directory, ports=dict(ports), waves=waves)


@dataclass(frozen=True, kw_only=True)
class Build:
    """A compiled machine."""

    simulator: str
    directory: Path
    ports: Ports = field(repr=False)
    waves: bool

    def run(
        self,
        runs: Sequence[Run],
        *,
        stalls: StallPattern | Mapping[str, StallPattern] = NO_STALLS,
        seed: int = 0,
        patience: int = 20_000,
        timeout: float = 600,
        directory: Path | None = None,
    ) -> list[RunResult]:
        """Simulate the runs back to back.

        ``stalls`` is for all streams, or by stream name. ``patience`` is how many cycles without a transfer are a hang,
        ``timeout`` is in seconds. All files go to ``directory``; without one they are kept only if something fails.
        """
        if not runs:
            raise ValueError("there must be at least one run")
        counts = self._counts(runs)
        where = (directory or Path(tempfile.mkdtemp(prefix="run-", dir=self.directory))).resolve()
        where.mkdir(parents=True, exist_ok=True)
        self._write(where, runs, counts, stalls, seed, patience)
        try:
            self._simulate(where, timeout, seed)
            logs = {name: read_log(where, name) for name in counts}
            check(logs, counts, patience)
        except SimulationError as error:
            raise SimulationError(f"{error}\n({self.simulator}, seed {seed}, {stalls}, files in {where})") from None
        results = by_run(logs, counts, self.ports)
        if directory is None:
            shutil.rmtree(where)
        return results

    def _counts(self, runs: Sequence[Run]) -> dict[str, list[int]]:
        """For each stream of this machine its number of words in each run."""
        counts = {
            "run": [1 for _ in runs],
            "x": [len(run.x_beats) for run in runs],
            "grad": [len(run.grad_beats) for run in runs],
            "parameters": [len(run.parameters) for run in runs],
            "o": [run.output_beats for run in runs],
            "results": [run.result_words for run in runs],
        }
        present = stream_widths(self.ports)
        if absent := [name for name, words in counts.items() if any(words) and name not in present]:
            raise ValueError(f"this machine has no stream {' and no stream '.join(absent)}")
        return {name: words for name, words in counts.items() if name in present}

    def _write(
        self,
        where: Path,
        runs: Sequence[Run],
        counts: Mapping[str, list[int]],
        stalls: StallPattern | Mapping[str, StallPattern],
        seed: int,
        patience: int,
    ) -> None:
        """Write all that the harness reads."""
        words: dict[str, list[Sequence[int]]] = {
            "run": [[_descriptor(run, self.ports)] for run in runs],
            "x": [run.x_beats for run in runs],
            "grad": [run.grad_beats for run in runs],
            "parameters": [run.parameters for run in runs],
        }
        write_limits(where, patience=patience, watch=WATCH)
        for name, width in stream_widths(self.ports).items():
            pattern = stalls if isinstance(stalls, StallPattern) else stalls.get(name, NO_STALLS)
            if patience <= pattern.longest:
                raise ValueError(f"patience must exceed the longest rest, {pattern.longest} cycles, not be {patience}")
            write_stream(where, name, pattern.encode(f"{seed} {name}"), sum(counts[name]), words.get(name, []), width)

    def _simulate(self, where: Path, timeout: float, seed: int) -> None:
        """Run the simulator until the harness has finished."""
        log = where / "simulator.log"
        command = SIMULATORS[self.simulator].command(self.directory, waves=self.waves, seed=seed)
        environment = cocotb_environment() | {"COCOTB_RESULTS_FILE": str(where / "results.xml")}
        with log.open("wb") as output:
            try:
                done = subprocess.run(command, cwd=where, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                                      stderr=subprocess.STDOUT, timeout=timeout)
            except subprocess.TimeoutExpired:
                raise SimulationError(f"the simulation did not end within {timeout:g} seconds") from None
        if done.returncode != 0 or read_log(where, "run").finished is None:
            raise ToolFailed(self.simulator, log, done.returncode)


def _descriptor(run: Run, ports: Ports) -> int:
    """The run descriptor as one word."""
    word, low = 0, 0
    for name, port, width in descriptor_ports(ports):
        value = getattr(run, name)
        if not 0 <= value < 1 << width:
            raise ValueError(f"{name} must fit into the {width} bits of {port}, not be {value}")
        word |= value << low
        low += width
    return word
