"""The `lightnorm` command: from a configuration to Verilog, verified bits and area."""

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lightnorm.config import Config, ConfigError, load_config
from lightnorm.generate import TOP, TOPS, generate
from lightnorm.yosys import ToolError
from lightnorm_sim import SimulationError

from .bitstream import BOARDS, make_bitstream
from .compare import comparison_tables, details_tables, kept_designs, make_comparison
from .console import PlainTable, number, outcomes, print_error, print_pairs, print_table, steps
from .designs import Design, ladder
from .energy import Assumptions
from .energy_report import energy_rows, energy_steps, make_energy, stage_rows
from .explore import Grid, exploration_tables, grid_designs, make_exploration, parse_grid, read_grid
from .files import write_json, write_npy
from .gate_level import map_to_cells
from .layers import read_layers
from .measure import Job, by_target, executor, failures
from .models import MODELS, model_layers
from .nextpnr import tool_version
from .packaging import package, write_readme
from .place_route import PARTS, place_and_route
from .plan import DRAM_PJ_PER_BIT, check_plan, make_plan, plan_notes, plan_tables, read_energy
from .report import FILES, make_report, report_rows, report_steps
from .simulate import (
    MODES,
    check_mode,
    compare_with_torch,
    load_tensors,
    prepare_layers,
    simulate,
    torch_layer,
)
from .study import run_study, study_rows
from .synth import TARGETS, synthesize

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Batch-normalization hardware in block floating point: Verilog, bit-exact simulation, area.",
)

ConfigOption = Annotated[Path, typer.Option("--config", help="A TOML file such as configs/default.toml.")]
PipelineOption = Annotated[
    Literal["short", "deep"] | None,
    typer.Option(
        "--pipeline",
        help="Build for the least area, or for the fastest clock.",
        show_default="what the configuration says",
    ),
]
DefaultConfigOption = Annotated[Path, typer.Option("--config", help="A TOML file.")]
DEFAULT_CONFIG = Path("configs/default.toml")
COMPARE = Path("build/compare/compare.json")
EXPLORE = Path("build/explore/explore.json")
BESIDE = {
    "plan": ["hash", "layers", "total"], "energy": ["hash", "runs", "target", "voltage"],
    "pnr": ["part", "fmax_mhz", "critical_path"], "timing": ["target", "fmax_mhz", "critical_path"],
}  # fmt: skip
"""What the report takes from its own folder, by command, and the keys it must have."""

PassesOption = Annotated[
    str | None,
    typer.Option(
        "--passes",
        help="Build only these, such as train,infer or infer.",
        show_default="what the configuration says",
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Folder for the results.", show_default="build/<name of the configuration>")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
TopOption = Annotated[
    Literal["core", "axi", "uart"],
    typer.Option("--top", help="The bare machine, the machine on AXI buses, or behind a serial line."),
]
SimulatorOption = Annotated[Literal["verilator", "icarus"], typer.Option("--simulator", help="Simulator to use.")]
TARGET_HELP = f"{', '.join(TARGETS)}, or a Liberty file (.lib, .lib.gz)"


TargetsOption = Annotated[
    list[str] | None,
    typer.Option("--target", "--liberty", help=f"{TARGET_HELP}; may be repeated.", show_default="generic"),
]
DataOption = Annotated[Path, typer.Option("--data", help="Folder of activations and parameters.")]
DEFAULT_DATA = Path("data/digits")
JobsOption = Annotated[int, typer.Option("--jobs", min=1, help="Processes at the same time.")]
DaskOption = Annotated[
    str | None,
    typer.Option("--dask", help="Address of a Dask scheduler; its workers see the same files.", show_default="none"),
]
CacheOption = Annotated[Path, typer.Option("--cache", help="Folder of what has been measured already.")]
DEFAULT_CACHE = Path("build/cache")


@contextmanager
def _errors() -> Iterator[None]:
    """What goes wrong is one message and exit status 1."""
    try:
        yield
    except (ValueError, OSError, ToolError, SimulationError) as error:
        print_error(error)
        raise typer.Exit(1) from None


def _open(
    path: Path, out: Path | None, passes: str | None = None, pipeline: str | None = None
) -> tuple[Config, Path]:
    """The configuration, and the folder for results."""
    try:
        config = load_config(path)
    except OSError as error:
        raise ValueError(f"--config {path} cannot be read: {error.strerror or error}") from None
    if passes is not None:
        names = tuple(name.strip() for name in passes.split(","))
        try:
            config = replace(config, implementation=replace(config.implementation, passes=names))
        except ConfigError as error:
            raise ValueError(str(error).replace("implementation.passes", "--passes")) from None
    if pipeline is not None:
        config = replace(config, implementation=replace(config.implementation, pipeline=pipeline))
    out = out or Path("build") / path.stem
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is not a folder")
    return config, out


def _check_target(target: str) -> None:
    path = Path(target)
    if target in TARGETS:
        return
    if path.suffix not in (".lib", ".gz"):
        raise ValueError(f"--target must be {TARGET_HELP}, not {target!r}")
    if not path.is_file():
        raise ValueError(f"--target {target}: there is no such file")


def _targets(given: list[str] | None) -> list[str]:
    targets = given or ["generic"]
    for name in targets:
        _check_target(name)
    return targets


def _check_library(target: Path) -> None:
    if target.suffix not in (".lib", ".gz"):
        raise ValueError(f"--target must be a Liberty file (.lib, .lib.gz), not {str(target)!r}")
    if not target.is_file():
        raise ValueError(f"--target {target}: there is no such file")


def _check_data(data: Path) -> None:
    if not data.is_dir():
        raise ValueError(f"--data {data}: there is no such folder (the repository has data/digits)")


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2))


@app.command("generate")
def generate_command(
    config: ConfigOption,
    top: TopOption = "core",
    passes: PassesOption = None,
    pipeline: PipelineOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write lightnorm.v, lightnorm.json (resolved configuration, hash, ports, latency) and a README.md.

    With --top axi: lightnorm_axi.v and lightnorm_axi.json, its registers as a C header and as a page, an
    instantiation, constraints, and what FuseSoC, Vivado and LiteX take it in by. With --top uart: lightnorm_uart.v and
    lightnorm_uart.json.
    """
    with _errors():
        built, folder = _open(config, out, passes, pipeline)
        with steps(1, quiet=as_json) as step:
            step("generating the Verilog")
            description = package(built, folder, top=top)
    if as_json:
        _print_json(description)
        return
    spec, implementation = built.spec, built.implementation
    print_pairs(f"{config.stem} ({description['hash']})", {
        "Verilog": str(folder / f"{TOPS[top]}.v"),
        "description": str(folder / f"{TOPS[top]}.json"),
        "passes": ", ".join(implementation.passes),
        "activations": f"{spec.activation}, {spec.activation.bits_per_element:g} bits per element",
        "lanes": str(built.lanes),
        "beat": f"{built.lanes * spec.activation.bits_per_element:g} bits",
        "buffer": f"{built.buffer_beats:,} beats",
    })  # fmt: skip


@app.command("simulate")
def simulate_command(
    config: ConfigOption,
    x: Annotated[Path, typer.Option("--input", help="The layer's input, a .npy file (N, C, *spatial).")],
    weight: Annotated[Path | None, typer.Option(help="A .npy file (C,).", show_default="all 1")] = None,
    bias: Annotated[Path | None, typer.Option(help="A .npy file (C,).", show_default="all 0")] = None,
    running_mean: Annotated[Path | None, typer.Option(help="A .npy file (C,).", show_default="all 0")] = None,
    running_sigma: Annotated[Path | None, typer.Option(help="A .npy file (C,).", show_default="all 1")] = None,
    grad: Annotated[Path | None, typer.Option(help="Gradient of the layer's output, a .npy file like --input.")] = None,
    mode: Annotated[
        Literal["train", "infer", "backward", "step"], typer.Option(help="step: train, then backward.")
    ] = "train",
    simulator: SimulatorOption = "verilator",
    waves: Annotated[bool, typer.Option("--waves", help="Write waves.vcd.")] = False,
    stalls: Annotated[
        Literal["none", "random", "bursts", "lazy"], typer.Option(help="When the streams around the machine rest.")
    ] = "none",
    seed: Annotated[int, typer.Option(help="Of the stalls.")] = 0,
    eps: Annotated[float, typer.Option(help="Added to sigma.")] = 1e-5,
    momentum: Annotated[float, typer.Option(help="Of the running statistics.")] = 0.1,
    chunks: Annotated[int, typer.Option(help="Pieces of a channel whose ranges are averaged.")] = 16,
    from_torch: Annotated[
        Path | None, typer.Option(help="A checkpoint: its layer's parameters and running statistics; needs PyTorch.")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Of the checkpoint, such as features.1.")] = None,
    target: Annotated[
        Path | None,
        typer.Option(help="A Liberty file (.lib, .lib.gz): run the netlist that synth makes for it instead."),
    ] = None,
    passes: PassesOption = None,
    pipeline: PipelineOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the emitted Verilog on a tensor and compare every output bit with the golden model.

    With --target the mapped gates instead of the Verilog. Writes output.npy and simulate.json; in backward the output
    is the input's gradient, in a step it is in grad_input.npy. With --from-torch also compares with the PyTorch layer,
    and writes the layer's tensors.
    """
    files = {
        "x": x, "weight": weight, "bias": bias, "running_mean": running_mean, "running_sigma": running_sigma,
        "grad": grad,
    }  # fmt: skip
    with _errors():
        built, folder = _open(config, out, passes, pipeline)
        check_mode(built, mode, files)
        if target is not None:
            _check_library(target)
            if simulator != "verilator":
                raise ValueError(
                    f"--target needs --simulator verilator, not {simulator}: gates make undefined bits of defined ones"
                )
        if from_torch is not None or layer is not None:
            files |= torch_layer(from_torch, layer, files, folder / "layer")
        tensors = load_tensors(built, files)
        with steps(4 if target is None else 6, quiet=as_json) as step:
            step("computing the golden model")
            layers = prepare_layers(built, MODES[mode], tensors, eps=eps, momentum=momentum, chunks=chunks)
            step("generating the Verilog")
            generate(built, folder)
            gates = None
            if target is not None:
                mapped = map_to_cells(
                    folder / f"{TOP}.v", top=TOP, library=target, lanes=built.lanes, out_dir=folder / "gates", step=step
                )
                gates = mapped / "gates.v"
            outcomes = simulate(
                layers, folder, simulator=simulator, stalls=stalls, seed=seed, waves=waves, gates=gates, step=step
            )
        if from_torch is not None:
            compare_with_torch(outcomes, built, tensors, eps=eps, momentum=momentum, chunks=chunks)
        reports = [outcome.report for outcome in outcomes]
        if target is not None:
            reports = [report | {"target": target.name} for report in reports]
        content = reports[0] if len(reports) == 1 else _combined(mode, reports)
        names = ("output.npy", "grad_input.npy")
        for name, outcome in zip(names, outcomes, strict=False):
            write_npy(folder / name, outcome.output)
        write_json(folder / "simulate.json", content)
        if as_json:
            _print_json(content)
        else:
            _print_simulation(config, reports)
            print(", ".join(str(folder / name) for name in (*names[: len(outcomes)], "simulate.json")))
        wrong = [outcome.mismatch for outcome in outcomes if outcome.mismatch]
        wrong += [f"{r['mode']}: differs from the PyTorch layer" for r in reports if not r.get("equals_torch", True)]
        if wrong:
            raise SimulationError("\n".join(wrong))


def _combined(mode: str, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """The report of several runs: what they have together, and each of them."""
    totals = {key: sum(report[key] for report in reports) for key in ("elements", "beats", "cycles")}
    return {
        "bit_exact": all(report["bit_exact"] for report in reports),
        "mode": mode,
        **totals,
        "beats_per_cycle": min(report["beats_per_cycle"] for report in reports),
        "runs": reports,
    }


def _equals_torch(reports: list[dict[str, Any]]) -> list[list[str]]:
    """A row, if the PyTorch layer was asked."""
    said = [report["equals_torch"] for report in reports if "equals_torch" in report]
    return [["equals the PyTorch layer", *("yes" if equal else "NO" for equal in said)]] if said else []


def _print_simulation(config: Path, reports: list[dict[str, Any]]) -> None:
    labels = {"elements": "elements", "beats": "beats", "cycles": "cycles", "latency": "latency, cycles"}
    rows = [
        ["bit-exact", *("yes" if report["bit_exact"] else "NO" for report in reports)],
        *_equals_torch(reports),
        ["passes", *("2" if report["two_pass"] else "1" for report in reports)],
        *([label, *(number(report[key]) for report in reports)] for key, label in labels.items()),
        ["bits moved per element", *(f"{report['bits_per_element']:.2f}" for report in reports)],
        ["beats per cycle", *(f"{report['beats_per_cycle']:.4f}" for report in reports)],
    ]
    header = ("", *(report["mode"] for report in reports))
    what = f"{config.stem} on {reports[0]['target']}" if "target" in reports[0] else config.stem
    print_table(f"{what} in {reports[0]['simulator']}", header, rows)


@app.command("synth")
def synth_command(
    config: ConfigOption,
    target: Annotated[str, typer.Option(help=TARGET_HELP[0].upper() + TARGET_HELP[1:] + ".")] = "generic",
    unit: Annotated[str | None, typer.Option(help="Only this stage, such as apply.", show_default="all")] = None,
    clock_ns: Annotated[
        float | None,
        typer.Option("--clock-ns", help="With a library: map for this clock period, and measure the clock."),
    ] = None,
    top: TopOption = "core",
    passes: PassesOption = None,
    pipeline: PipelineOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Synthesize with Yosys; writes synth.json (area or resources, per module), netlist.v and yosys.log.

    The folder's README.md then has the sizes too.
    """
    with _errors():
        built, folder = _open(config, out, passes, pipeline)
        _check_target(target)
        with steps(3 + (clock_ns is not None), quiet=as_json) as step:
            step("generating the Verilog")
            description = package(built, folder, top=top)
            result = synthesize(
                folder / f"{TOPS[top]}.v", top=TOPS[top], target=target, out_dir=folder, lanes=built.lanes, unit=unit,
                clock_ns=clock_ns, progress=step,
            )  # fmt: skip
            if unit is None:
                write_readme(built, folder, description, result)
    if as_json:
        _print_json(result)
        return
    hidden = ("modules", "memories", "critical_path", "stages", "stage_unit", "target", "tool", "top")
    title = f"{config.stem}: {result['top']} on {result['target']} ({result['tool']})"
    facts = {key: value for key, value in result.items() if key not in hidden}
    print_pairs(title, {key: value if isinstance(value, str) else number(value) for key, value in facts.items()})
    size = result["stage_unit"]
    ordered = sorted(result["stages"].items(), key=lambda item: -item[1])
    print_table("stages", ("stage", size), [(name, number(value)) for name, value in ordered])
    print(folder / "synth.json")


@app.command("pnr")
def pnr_command(
    config: ConfigOption,
    target: Annotated[
        Literal["ecp5", "ice40"], typer.Option(help=", ".join(f"{name}: {part.name}" for name, part in PARTS.items()))
    ] = "ecp5",
    top: TopOption = "core",
    clock: Annotated[float, typer.Option("--clock", min=1, max=1000, help="What the tools aim at, MHz.")] = 100.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Where the placer begins; clocks differ by 5 %.")] = 1,
    passes: PassesOption = None,
    pipeline: PipelineOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Place and route with nextpnr; writes pnr.json (clock, resources, critical path), yosys.log and nextpnr.log.

    Needs the extra fpga: pip install "lightnorm[fpga]". The machine gets a register at every port.
    """
    with _errors():
        built, folder = _open(config, out, passes, pipeline)
        tool_version(PARTS[target].nextpnr)
        with steps(3, quiet=as_json) as step:
            step("generating the Verilog")
            generate(built, folder, top=top)
            result = place_and_route(
                folder / f"{TOPS[top]}.v", top=TOPS[top], target=target, out_dir=folder, clock_mhz=clock, seed=seed,
                progress=step,
            )  # fmt: skip
    if as_json:
        _print_json(result)
        return
    _print_placed(f"{config.stem}: {result['top']} on {result['part']}", result)
    print(folder / "pnr.json")


def _print_placed(title: str, result: dict[str, Any]) -> None:
    path = result["critical_path"]
    rows = {"clock, MHz": f"{result['fmax_mhz']:.1f}", "goal, MHz": f"{result['goal_mhz']:g}"}
    rows["seed"] = str(result["seed"])
    rows |= {name: f"{n['used']:,} of {n['available']:,}" for name, n in result["resources"].items()}
    rows |= {"critical path, ns": f"{path['ns']:.1f}, of it routing {path['routing_ns']:.1f}",
             "levels": str(path["levels"]), "from": path["from"], "to": path["to"]}  # fmt: skip
    print_pairs(title, rows)


@app.command("bitstream")
def bitstream_command(
    board: Annotated[Literal["ulx3s_85f", "ice40_hx8k_b_evn"], typer.Option("--board", help="The board.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", help="A TOML file.", show_default="what docs/board.md says for the board"),
    ] = None,
    passes: PassesOption = None,
    baud: Annotated[int, typer.Option("--baud", min=1200, max=4_000_000, help="Of the serial line.")] = 500_000,
    divide: Annotated[
        Literal["1", "2", "4", "8"] | None,
        typer.Option("--divide", help="The board's clock by this.", show_default="what the board's design needs"),
    ] = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build a bitstream: the machine behind the board's serial port; docs/board.md has the host's program.

    Writes the bitstream, bitstream.json and bitstream.md (clock, resources), lightnorm_uart.v, lightnorm_uart.json and
    logs. Needs the extra fpga: pip install "lightnorm[fpga]".
    """
    entry = BOARDS[board]
    with _errors():
        path = config or Path(entry.config)
        chosen = passes or (entry.passes if config is None else None)
        built, folder = _open(path, out or Path("build") / board, chosen)
        with steps(4, quiet=as_json) as step:
            result = make_bitstream(
                built, board, folder, baud=baud, divide=int(divide) if divide else entry.divide, progress=step
            )
    if as_json:
        _print_json(result)
        return
    _print_placed(f"{path.stem} on {board}", result)
    print(folder / result["bitstream"])


@app.command("report")
def report_command(
    config: ConfigOption,
    data: DataOption = DEFAULT_DATA,
    target: TargetsOption = None,
    simulator: SimulatorOption = "verilator",
    passes: PassesOption = None,
    pipeline: PipelineOption = None,
    compare: Annotated[Path, typer.Option(help="What lightnorm compare wrote, if it did.")] = COMPARE,
    explore: Annotated[Path, typer.Option(help="What lightnorm explore wrote, if it did.")] = EXPLORE,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Generate, simulate a training step and inference on real tensors, synthesize; writes report.html with all of it,
    its figures as SVG and PDF, report.md and report.json.

    The page also shows what compare and explore have written, and plan, energy and pnr in the folder for results. It
    needs the extra `report`.
    """
    with _errors():
        built, folder = _open(config, out, passes, pipeline)
        targets = _targets(target)
        _check_data(data)
        write_page = _page_writer(
            {"compare": compare, "explore": explore} | {name: folder / f"{name}.json" for name in BESIDE}
        )
        with steps(report_steps(targets), quiet=as_json) as step:
            result = make_report(
                built, config.stem, folder, data=data, targets=targets, simulator=simulator, step=step
            )
            write_page(result, folder)
    if as_json:
        _print_json(result)
        return
    print_pairs(f"{config.stem} ({result['hash']})", dict(report_rows(result)))
    print(folder / "report.md")
    if (folder / "report.html").exists():
        print(folder / "report.html")
    else:
        print("For report.html: pip install 'lightnorm[report]'")


def _page_writer(files: dict[str, Path]) -> Callable[[dict[str, Any], Path], None]:
    """Writes the page, with what is in the files that there are; nothing without the extra `report`."""
    if any(importlib.util.find_spec(name) is None for name in ("jinja2", "matplotlib")):
        return lambda result, folder: None
    from .page import read_results, write_page

    keys = {"compare": ["statistic", "target", "clock_ns"], "explore": ["designs", "refused"], **BESIDE}
    others = {name: read_results(name, path, keys[name]) for name, path in files.items()}
    return lambda result, folder: write_page(result, folder, **others)


@app.command("plan")
def plan_command(
    config: DefaultConfigOption = DEFAULT_CONFIG,
    model: Annotated[str | None, typer.Option(help=f"{', '.join(MODELS)}.")] = None,
    layers: Annotated[Path | None, typer.Option(help="Instead of a model: a .json or .onnx file with layers.")] = None,
    batch: Annotated[int, typer.Option(help="Images.")] = 32,
    image: Annotated[int, typer.Option(help="Height and width of a model's images.")] = 224,
    compare: Annotated[Path, typer.Option(help="compare.json, for the energy of the logic.")] = COMPARE,
    dram: Annotated[float, typer.Option(help="pJ per bit moved off chip.")] = DRAM_PJ_PER_BIT,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cycles, utilization, buffer, traffic and energy of a network's batch norms; writes plan.md, plan.json.

    The JSON file is a list of {"name": "stem", "channels": 32, "spatial": [112, 112]}.
    """
    with _errors():
        built, folder = _open(config, out)
        if (model is None) == (layers is None):
            raise ValueError("give either --model or --layers")
        if layers is not None:
            network, title = read_layers(layers), f"{layers.stem}, batch {batch}"
        else:
            network, title = model_layers(model or "", image), f"{model}, batch {batch}, {image} x {image}"
        check_plan(network, batch=batch, dram_pj_per_bit=dram)
        energy, energy_missing = read_energy(compare, built)
        with steps(2, quiet=as_json) as step:
            step("generating the Verilog")
            description = generate(built, folder)
            step(f"planning {len(network)} layers")
            plan = make_plan(
                built, description, title, network, folder, batch=batch, energy=energy, energy_missing=energy_missing,
                dram_pj_per_bit=dram,
            )  # fmt: skip
    if as_json:
        _print_json(plan)
        return
    totals, *others = plan_tables(plan, brief=True)
    for table in (*others, totals):
        print_table(*table)
    for note in plan_notes(plan):
        print(note)
    print(folder / "plan.md")


@app.command("compare")
def compare_command(
    config: DefaultConfigOption = DEFAULT_CONFIG,
    target: TargetsOption = None,
    only: Annotated[list[str] | None, typer.Option(help="A rung; may be repeated.", show_default="all")] = None,
    clock_ns: Annotated[
        float | None,
        typer.Option("--clock-ns", help="On libraries, also map for this clock period, and measure the clock."),
    ] = None,
    energy: Annotated[
        bool, typer.Option("--energy", help="On libraries, also simulate the gates, and measure their energy.")
    ] = False,
    add: Annotated[
        bool, typer.Option("--add", help="Keep what compare.json has of other rungs and targets.")
    ] = False,
    jobs: JobsOption = 2,
    dask: DaskOption = None,
    data: DataOption = DEFAULT_DATA,
    cache: CacheOption = DEFAULT_CACHE,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = COMPARE.parent,
    as_json: JsonOption = False,
) -> None:
    """Measure the ladder from conventional batch norm to LightNorm; writes compare.json, compare.md, compare.tex.

    The rungs have the formats and lanes of the configuration. What was measured before is not measured again.
    """
    with _errors():
        built, _ = _open(config, out)
        rungs = ladder(built)
        names = [design.name for design in rungs]
        if unknown := [name for name in only or () if name not in names]:
            raise ValueError(f"--only must be {', '.join(names)}, not {', '.join(unknown)}")
        designs = [design for design in rungs if not only or design.name in only]
        todo = _jobs(built, designs, target, data, cache, clock_ns=clock_ns, energy=energy)
        kept = kept_designs(out / COMPARE.name, rungs, todo) if add else []
        with outcomes(len(todo), quiet=as_json) as step, executor(jobs, dask) as pool:
            comparison = make_comparison(todo, pool, out, step=step, rungs=rungs, kept=kept)
        tables = comparison_tables(comparison, brief=True)
        for designs_there in by_target(comparison).values():
            tables += details_tables(designs_there)
        _print_study(comparison, comparison, tables, out / "compare.md", as_json=as_json)


@app.command("explore")
def explore_command(
    config: DefaultConfigOption = DEFAULT_CONFIG,
    grid: Annotated[Path | None, typer.Option(help="A TOML file with the lists below.")] = None,
    activation: Annotated[str | None, typer.Option(help="Formats, such as e5m4,e4m3.")] = None,
    gradient: Annotated[str | None, typer.Option(help="Formats, such as e6m3,e5m2.")] = None,
    block_size: Annotated[str | None, typer.Option(help="Such as 1,4,16.")] = None,
    lanes: Annotated[str | None, typer.Option(help="Such as 16,32.")] = None,
    target: TargetsOption = None,
    jobs: JobsOption = 2,
    dask: DaskOption = None,
    data: DataOption = DEFAULT_DATA,
    cache: CacheOption = DEFAULT_CACHE,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = EXPLORE.parent,
    as_json: JsonOption = False,
) -> None:
    """Measure every combination of formats, block sizes and lanes; writes explore.json, explore.md.

    Activations and gradients have blocks of the same size. What was measured before is not measured again.
    """
    with _errors():
        built, _ = _open(config, out)
        given = {"activation": activation, "gradient": gradient, "block_size": block_size, "lanes": lanes}
        wanted = parse_grid(read_grid(grid) if grid else Grid(), given)
        designs, refused = grid_designs(built, wanted)
        todo = _jobs(built, designs, target, data, cache)
        with outcomes(len(todo), quiet=as_json) as step, executor(jobs, dask) as pool:
            exploration = make_exploration(todo, refused, pool, out, step=step)
        tables = exploration_tables(exploration)
        _print_study(exploration, exploration["designs"], tables, out / "explore.md", as_json=as_json)


def _jobs(
    config: Config,
    designs: Sequence[Design],
    target: list[str] | None,
    data: Path,
    cache: Path,
    **measured: Any,
) -> list[Job]:
    targets = _targets(target)
    _check_data(data)
    tensors = load_tensors(config, {key: data / file for key, file in FILES.items()}, option="--data")
    paths = [name if name in TARGETS else str(Path(name).resolve()) for name in targets]
    return [Job(design, path, tensors, cache, **measured) for path in paths for design in designs]


def _print_study(
    content: Any, designs: Sequence[dict[str, Any]], tables: list[PlainTable], page: Path, *, as_json: bool
) -> None:
    """The results, and an error if any job failed."""
    if as_json:
        _print_json(content)
    else:
        for table in tables:
            print_table(*table)
        print(page)
    if failed := failures(designs):
        raise ToolError("\n".join(failed))


@app.command("energy")
def energy_command(
    config: ConfigOption,
    target: Annotated[Path, typer.Option(help="A Liberty file (.lib, .lib.gz).")],
    data: Annotated[Path, typer.Option(help="Folder of activations and gradients.")] = Path("data/digits"),
    wire: Annotated[float, typer.Option(help="Wire per driven pin, fF.")] = Assumptions.wire_ff,
    clock: Annotated[float, typer.Option(help="Clock, MHz; leakage depends on it.")] = Assumptions.clock_mhz,
    slew: Annotated[float, typer.Option(help="Of inputs and the clock, ns.")] = Assumptions.input_slew_ns,
    memory: Annotated[float, typer.Option(help="fJ per bit read from or written to a memory.")] = (
        Assumptions.memory_fj_per_bit
    ),
    traffic: Annotated[float, typer.Option(help="pJ per bit in or out, off chip.")] = 20.0,
    passes: PassesOption = None,
    pipeline: PipelineOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Energy per element: activity of the mapped gates on real tensors times the library's power; writes energy.json.

    Every output bit is compared with the golden model. What the numbers are not is in docs/energy.md.
    """
    with _errors():
        built, folder = _open(config, out, passes, pipeline)
        _check_library(target)
        _check_data(data)
        given = Assumptions(wire_ff=wire, clock_mhz=clock, input_slew_ns=slew, memory_fj_per_bit=memory)
        with steps(energy_steps(built), quiet=as_json) as step:
            result = make_energy(
                built, folder, data=data, library=target, given=given, traffic_pj=traffic, step=step
            )
    if as_json:
        _print_json(result)
        return
    header = ("pJ per element", *result["runs"])
    print_table(f"{config.stem} on {result['target']}, {result['voltage']:g} V", header, energy_rows(result))
    print_table("stages", header, stage_rows(result))
    print(folder / "energy.json")


@app.command("study")
def study_command(
    seeds: Annotated[
        int | None,
        typer.Option(help="Of most settings; three times as many in the main comparison.", show_default="10; quick: 2"),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few settings for one epoch: shows that it runs, not what comes out.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the results.", show_default="build/study[-quick]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train small networks with the hardware's arithmetic, with others and in FP32, and compare their accuracies.

    Needs the extra `study`, and about an hour of a processor core. Finished runs are kept in runs.jsonl: the same
    command goes on where it was stopped. Writes study.json, study.md and plots.
    """
    with _errors():
        folder = out or Path("build") / ("study-quick" if quick else "study")
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--out {folder} is not a folder")
        content = run_study(folder, seeds=(2 if quick else 10) if seeds is None else seeds, quick=quick, quiet=as_json)
    if as_json:
        _print_json(content)
        return
    print_table("points of accuracy against nn.BatchNorm2d in FP32, 95 % interval", *study_rows(content))
    print(folder / "study.md")


def main() -> None:
    """Entry point."""
    sys.exit(app())


if __name__ == "__main__":
    main()
