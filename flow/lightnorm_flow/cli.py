"""The `lightnorm` command: from a configuration to Verilog, verified bits and area."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lightnorm.config import Config, ConfigError, load_config
from lightnorm.generate import TOPS, generate
from lightnorm.yosys import ToolError
from lightnorm_sim import SimulationError

from .console import number, print_error, print_pairs, print_table, steps
from .files import write_json, write_npy
from .report import make_report, report_rows, report_steps
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
    Literal["core", "axi"], typer.Option("--top", help="The bare machine, or the machine on AXI buses.")
]
SimulatorOption = Annotated[Literal["verilator", "icarus"], typer.Option("--simulator", help="Simulator to use.")]
TARGET_HELP = f"{', '.join(TARGETS)}, or a Liberty file (.lib, .lib.gz)"


@contextmanager
def _errors() -> Iterator[None]:
    """What goes wrong is one message and exit status 1."""
    try:
        yield
    except (ValueError, OSError, ToolError, SimulationError) as error:
        print_error(error)
        raise typer.Exit(1) from None


def _open(path: Path, out: Path | None, passes: str | None = None) -> tuple[Config, Path]:
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


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2))


@app.command("generate")
def generate_command(
    config: ConfigOption,
    top: TopOption = "core",
    passes: PassesOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write lightnorm.v and lightnorm.json (resolved configuration, hash, ports, latency).

    With --top axi: lightnorm_axi.v and lightnorm_axi.json, its registers as a C header and as a page, an
    instantiation, constraints, and a FuseSoC core.
    """
    with _errors():
        built, folder = _open(config, out, passes)
        with steps(1, quiet=as_json) as step:
            step("generating the Verilog")
            description = generate(built, folder, top=top)
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
    passes: PassesOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the emitted Verilog on a tensor and compare every output bit with the golden model.

    Writes output.npy and simulate.json; in backward the output is the input's gradient, in a step it is in
    grad_input.npy. With --from-torch also compares with the PyTorch layer, and writes the layer's tensors.
    """
    files = {
        "x": x, "weight": weight, "bias": bias, "running_mean": running_mean, "running_sigma": running_sigma,
        "grad": grad,
    }  # fmt: skip
    with _errors():
        built, folder = _open(config, out, passes)
        check_mode(built, mode, files)
        if from_torch is not None or layer is not None:
            files |= torch_layer(from_torch, layer, files, folder / "layer")
        tensors = load_tensors(built, files)
        with steps(4, quiet=as_json) as step:
            step("computing the golden model")
            layers = prepare_layers(built, MODES[mode], tensors, eps=eps, momentum=momentum, chunks=chunks)
            step("generating the Verilog")
            generate(built, folder)
            outcomes = simulate(
                layers, folder, simulator=simulator, stalls=stalls, seed=seed, waves=waves, step=step
            )
        if from_torch is not None:
            compare_with_torch(outcomes, built, tensors, eps=eps, momentum=momentum, chunks=chunks)
        reports = [outcome.report for outcome in outcomes]
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
    print_table(f"{config.stem} in {reports[0]['simulator']}", header, rows)


@app.command("synth")
def synth_command(
    config: ConfigOption,
    target: Annotated[str, typer.Option(help=TARGET_HELP[0].upper() + TARGET_HELP[1:] + ".")] = "generic",
    unit: Annotated[str | None, typer.Option(help="Only this stage, such as apply.", show_default="all")] = None,
    top: TopOption = "core",
    passes: PassesOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Synthesize with Yosys; writes synth.json (area or resources, per module), netlist.v and yosys.log."""
    with _errors():
        built, folder = _open(config, out, passes)
        _check_target(target)
        with steps(3, quiet=as_json) as step:
            step("generating the Verilog")
            generate(built, folder, top=top)
            result = synthesize(
                folder / f"{TOPS[top]}.v", top=TOPS[top], target=target, out_dir=folder, lanes=built.lanes, unit=unit,
                progress=step,
            )  # fmt: skip
    if as_json:
        _print_json(result)
        return
    hidden = ("modules", "memories", "stages", "stage_unit", "target", "tool", "top")
    title = f"{config.stem}: {result['top']} on {result['target']} ({result['tool']})"
    print_pairs(title, {key: number(value) for key, value in result.items() if key not in hidden})
    size = result["stage_unit"]
    ordered = sorted(result["stages"].items(), key=lambda item: -item[1])
    print_table("stages", ("stage", size), [(name, number(value)) for name, value in ordered])
    print(folder / "synth.json")


@app.command("report")
def report_command(
    config: ConfigOption,
    data: Annotated[Path, typer.Option(help="Folder of activations and parameters.")] = Path("data/digits"),
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "--liberty", help=f"{TARGET_HELP}; may be repeated.", show_default="generic"),
    ] = None,
    simulator: SimulatorOption = "verilator",
    passes: PassesOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Generate, simulate a training step and inference on real tensors, synthesize; writes report.md, report.json."""
    with _errors():
        built, folder = _open(config, out, passes)
        if not data.is_dir():
            raise ValueError(f"--data {data}: there is no such folder (the repository has data/digits)")
        targets = target or ["generic"]
        for name in targets:
            _check_target(name)
        with steps(report_steps(targets), quiet=as_json) as step:
            result = make_report(
                built, config.stem, folder, data=data, targets=targets, simulator=simulator, step=step
            )
    if as_json:
        _print_json(result)
        return
    print_pairs(f"{config.stem} ({result['hash']})", dict(report_rows(result)))
    print(folder / "report.md")


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
