"""The harness and its runner, tried on a small machine that breaks a rule on request."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from lightnorm.yosys import ToolError, ToolMissing
from lightnorm_sim import STALL_PATTERNS, Build, Run, SimulationError, StallPattern, build, lint, read_ports
from lightnorm_sim.harness import harness_text, stream_widths
from lightnorm_sim.tools import make_once

BUILD_DIR = Path(__file__).parents[3] / "build" / "sim"

# Output words are the x words, through a buffer of four, the last of each four marked; result words are the parameters,
# inverted. i_channels is how many words make a run, i_eps the rule to break.
STUB = """
module lightnorm (
    input clk, input rst,
    input i_run_valid, output o_run_ready, input [1:0] i_mode, input [15:0] i_channels, input [24:0] i_elements,
    input [31:0] i_eps, output o_two_pass,
    input [11:0] i_x__payload, input i_x__valid, output i_x__ready,
    input [31:0] i_parameters__payload, input i_parameters__valid, output i_parameters__ready,
    output [12:0] o__payload, output o__valid, input o__ready,
    output [31:0] o_results__payload, output o_results__valid, input o_results__ready
);
    localparam NO_ACKNOWLEDGE = 1, CHANGE = 2, FALL = 3, DROP = 4, SURPLUS = 5, STOP = 6, WAIT = 7, HASTE = 8;

    reg [11:0] buffer [0:3];
    reg [2:0] put, got;
    reg [15:0] taken, given;
    reg blink, started;
    wire [31:0] rule = i_run_valid ? i_eps : 0;
    wire [2:0] level = put - got;
    wire take = i_x__ready && (i_x__valid || rule == HASTE);
    wire give = o__valid && o__ready;
    wire twice = rule == SURPLUS && given == 3;
    integer i;

    assign o_two_pass = i_elements > 100;
    assign o_run_ready = i_run_valid && rule != NO_ACKNOWLEDGE && given == i_channels;
    assign i_x__ready = i_run_valid && level < 4 && taken < i_channels && !(rule == STOP && taken == 7);
    assign o__valid = level > 0 && !(rule == FALL && blink) && !(rule == WAIT && !o__ready);
    assign o__payload = {given[1:0] == 3, buffer[got[1:0]] ^ {11'b0, rule == CHANGE && blink}};
    assign i_parameters__ready = o_results__ready && started;
    assign o_results__valid = i_parameters__valid && started;
    assign o_results__payload = ~i_parameters__payload;

    initial begin
        {put, got, taken, given, blink, started} = 0;
        for (i = 0; i < 4; i = i + 1) buffer[i] = 0;
    end

    always @(posedge clk) begin
        blink <= o__valid && !o__ready;
        started <= started || i_run_valid;
        if (take) begin
            taken <= taken + 1;
            buffer[put[1:0]] <= i_x__payload;
            if (!(rule == DROP && taken == 5)) put <= put + 1;
        end
        if (give) begin
            given <= given + 1;
            if (!twice) got <= got + 1;
        end
        if (o_run_ready) {taken, given} <= 0;
        if (rst) {put, got, taken, given, blink, started} <= 0;
    end
endmodule
"""

PORTS = {
    name: ("output" if direction == "output" else "input", int(high or 0) + 1)
    for direction, high, name in re.findall(r"\b(input|output) (?:\[(\d+):0\] )?(\w+)", STUB)
}
RULES = ["none", *(name.lower() for name in re.findall(r"([A-Z_]+) = \d", STUB))]


def make_run(words: int, rule: str = "none") -> Run:
    """A run of the stub with words that tell their place."""
    return Run(mode=1, channels=words, elements=words, eps=RULES.index(rule), x_beats=[0x800 + i for i in range(words)],
               parameters=[7 * i for i in range(words // 10)], output_beats=words, result_words=words // 10)


def compile_stub(directory: Path, simulator: str, *, text: str = STUB, waves: bool = False) -> Build:
    verilog = directory / "lightnorm.v"
    verilog.write_text(text)
    return build(verilog, PORTS, simulator, BUILD_DIR, waves=waves)


@pytest.fixture(scope="module", params=["icarus", "verilator"])
def stub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Build:
    return compile_stub(tmp_path_factory.mktemp("stub"), request.param)


@pytest.mark.parametrize("pattern", STALL_PATTERNS)
def test_words_come_back_in_their_runs(stub: Build, pattern: str) -> None:
    runs = [make_run(40), make_run(12), make_run(300)]
    results = stub.run(runs, stalls=STALL_PATTERNS[pattern], seed=1)
    for run, result in zip(runs, results, strict=True):
        assert result.output == list(run.x_beats)
        assert [index % 4 == 3 for index in range(run.output_beats)] == result.last
        assert result.results == [word ^ 0xFFFFFFFF for word in run.parameters]
        assert result.two_pass == (run.elements > 100)
    starts = [result.start for result in results]
    assert starts == sorted(starts)


def test_full_speed_is_a_word_a_cycle_without_drain(stub: Build) -> None:
    first, second = stub.run([make_run(100), make_run(100)])
    x, o = first.transfers["x"], first.transfers["o"]
    assert (x.last - x.first, x.held, o.last - o.first, o.held, o.starved) == (99, 0, 99, 0, 0)
    assert second.transfers["run"].offered == first.transfers["run"].last + 1
    assert first.cycles == o.last - first.start + 1 or first.cycles == first.transfers["run"].last - first.start + 1


def test_cycles_are_the_same_in_both_simulators(tmp_path: Path) -> None:
    builds = [compile_stub(tmp_path, simulator) for simulator in ("icarus", "verilator")]
    stalls = {"x": StallPattern.bursts(0.1, 3, 9), "o": StallPattern.random(0.5)}
    one, other = (build.run([make_run(50), make_run(70)], stalls=stalls, seed=5) for build in builds)
    assert [run.transfers for run in one] == [run.transfers for run in other]
    assert builds[0].run([make_run(50), make_run(70)], stalls=stalls, seed=6)[0].transfers != one[0].transfers


@pytest.mark.parametrize(("rule", "pattern", "message"), [
    ("no_acknowledge", "none", r"hang.*\n(.*\n)*stream run: 0 of 2 words, waiting at run 0, word 0 of 1"),
    ("change", "random", r"stream o: payload changed while waiting: 0800 became 0801 .*run 0, word 0 of 40"),
    ("fall", "random", r"stream o: valid fell before ready rose \(cycle \d+\), run 0"),
    ("drop", "none", r"hang: nothing moved for 500 cycles"),
    ("surplus", "none", r"stream o: 1 words more than the 80 expected \(cycle \d+\)"),
    ("stop", "none", r"stream x: 7 of 80 words, waiting at run 0, word 7 of 40"),
    ("wait", "lazy", r"stream o: 0 of 80 words, waiting at run 0, word 0 of 40"),
])
def test_broken_rules_are_found(stub: Build, tmp_path: Path, rule: str, pattern: str, message: str) -> None:
    with pytest.raises(SimulationError, match=message) as failure:
        stub.run([make_run(40, rule), make_run(40)], stalls=STALL_PATTERNS[pattern], seed=9, patience=500,
                 directory=tmp_path)
    assert "seed 9" in str(failure.value)


def test_payload_without_valid_is_garbage(stub: Build, tmp_path: Path) -> None:
    run = make_run(40, "haste")
    stalls = {"x": StallPattern.random(0.5)}
    if stub.simulator == "icarus":
        with pytest.raises(SimulationError, match="stream o: undefined bits in"):
            stub.run([run], stalls=stalls, patience=500, directory=tmp_path)
    else:
        with pytest.raises(SimulationError, match="stream x: "):
            stub.run([run], stalls=stalls, patience=500, directory=tmp_path)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("o__valid = ", "o__valid = 1 || ", "stream o: valid is high in reset"),
    ("o__valid = ", "o__valid = !rst || ", "stream o: valid is high before any run was asked for"),
    ("o__valid = ", "o__valid = 1'bx || ", "stream o: valid is undefined"),
    ("i_x__ready = ", "i_x__ready = 1'bx && ", "stream x: ready is undefined"),
])
def test_silence_before_the_first_run(tmp_path: Path, old: str, new: str, message: str) -> None:
    stub = compile_stub(tmp_path, "icarus", text=STUB.replace(old, new))
    with pytest.raises(SimulationError, match=message):
        stub.run([make_run(40)], directory=tmp_path)


def test_endless_simulation_is_stopped(stub: Build, tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="did not end within 0.01 seconds"):
        stub.run([make_run(40)], timeout=0.01, directory=tmp_path)


def test_waves_are_written(tmp_path: Path) -> None:
    compile_stub(tmp_path, "icarus", waves=True).run([make_run(10)], directory=tmp_path / "run")
    assert "o__payload" in (tmp_path / "run" / "waves.vcd").read_text()


def test_ports_decide_what_is_connected(tmp_path: Path) -> None:
    text = harness_text(PORTS)
    assert stream_widths(PORTS) == {"run": 75, "x": 12, "parameters": 32, "o": 13, "results": 32}
    assert ".i_eps(run_payload[74:43])" in text and "i_chunk_blocks" not in text and "grad" not in text
    with pytest.raises(ValueError, match="unknown inputs .'i_typo'"):
        harness_text({**PORTS, "i_typo": ("input", 1)})
    description = tmp_path / "lightnorm.json"
    description.write_text('{"ports": {"clk": {"direction": "input", "width": 1}}}')
    assert read_ports(description) == {"clk": ("input", 1)}


@pytest.mark.parametrize(("run", "message"), [
    (replace(make_run(10), grad_beats=[1]), "this machine has no stream grad"),
    (replace(make_run(10), x_beats=[1, 1 << 12]), "word 1 of stream x must have 12 bits, not be 0x1000"),
    (replace(make_run(10), channels=1 << 16), "channels must fit into the 16 bits of i_channels, not be 65536"),
])
def test_impossible_runs_are_refused(stub: Build, tmp_path: Path, run: Run, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stub.run([run], directory=tmp_path)


def test_failures_of_tools_say_where_to_look(tmp_path: Path) -> None:
    for simulator in ("icarus", "verilator"):
        with pytest.raises(ToolError, match=r"its log is .*(compile|translate)\.log, which ends with\n.*syntax error"):
            compile_stub(tmp_path, simulator, text="module lightnorm (nonsense")
    with pytest.raises(ValueError, match="simulator must be verilator or icarus, not 'spice'"):
        build(tmp_path / "lightnorm.v", PORTS, "spice", tmp_path)


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="iverilog was not found: install"):
        compile_stub(tmp_path, "icarus")
    with pytest.raises(ToolMissing, match=r"g\+\+ or clang\+\+ was not found: install"):
        compile_stub(tmp_path, "verilator")


def test_lint_lists_warnings(tmp_path: Path) -> None:
    verilog = tmp_path / "lightnorm.v"
    verilog.write_text("module lightnorm (input [3:0] a, output [2:0] b); assign b = a; endmodule\n")
    warnings = lint(verilog)
    assert any(warning.startswith("WIDTHTRUNC: ") for warning in warnings)
    verilog.write_text("module lightnorm (input a, output b); assign b = ~a; endmodule\n")
    assert lint(verilog) == []


def test_a_failed_build_is_made_again(tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        (directory / "part").touch()
        raise OSError

    with pytest.raises(OSError):
        make_once(tmp_path / "made", fail)
    assert not (tmp_path / "made").exists()
    make_once(tmp_path / "made", lambda directory: (directory / "whole").touch())
    make_once(tmp_path / "made", fail)
    assert [file.name for file in (tmp_path / "made").iterdir()] == ["whole"]
