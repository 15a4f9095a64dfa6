"""What `lightnorm generate --top axi` writes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from systemrdl import RDLCompiler
from typer.testing import CliRunner

from lightnorm.bus import register_map
from lightnorm.bus.package import with_attributes
from lightnorm.bus.registers import Access, Field, Register, RegisterMap
from lightnorm.config import ConfigError, load_config
from lightnorm.datapath.program import PARAMETERS, RESULTS
from lightnorm.generate import generate
from lightnorm_flow.cli import app
from lightnorm_flow.packaging import package
from lightnorm_sim import lint, read_ports

from .axi import HERE, MACHINE, STREAMS, TOP, generated
from .drivers import compile_driver
from .header import read_header

CONFIGS = HERE.parents[2] / "configs"
AGAIN = """
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from lightnorm.config import load_config
from lightnorm_flow.packaging import package
package(load_config(Path(sys.argv[1])), Path(sys.argv[2]), top="axi")
"""
FILES = {
    "README.md", "lightnorm_axi.v", "lightnorm_axi.json", "lightnorm_registers.h", "registers.md", "registers.rdl",
    "registers.xml", "lightnorm_axi_instance.v", "lightnorm_axi.sdc", "lightnorm_axi.xdc", "lightnorm_axi.core",
    "lightnorm_axi_tb.v", "lightnorm_axi_vectors.vh", "lightnorm_litex.py",
    "package_ip.tcl",
}  # fmt: skip


LARGEST = pytest.param(HERE / "largest.toml", marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "config", [CONFIGS / "default.toml", STREAMS, HERE / "inference.toml", LARGEST], ids=lambda path: path.stem
)
def test_verilog(config: Path, tmp_path: Path) -> None:
    description = package(load_config(config), tmp_path, top="axi")
    assert {path.name for path in tmp_path.iterdir()} == FILES | {"generate.log"}
    assert json.loads((tmp_path / "lightnorm_axi.json").read_text()) == description
    verilog = tmp_path / "lightnorm_axi.v"
    assert lint(verilog) == []
    text = verilog.read_text()
    assert str(tmp_path) not in text and not re.search(r"posedge 1'h0|/\w+/\w+\.py\b", text)
    top = text[text.index("\nmodule lightnorm_axi(") :]
    top = top[: top.index("\nendmodule")]
    attributes = dict(re.findall(r'^  \(\* X_INTERFACE_INFO = "([^"]+)".*\*\)\n  (?:in|out)put .*?(\w+);', top, re.M))
    ports = read_ports(tmp_path / "lightnorm_axi.json")
    assert set(attributes.values()) == set(ports), "every port belongs to an interface"
    for info, port in attributes.items():
        bus, role = info.split()[-2:]
        assert port in (f"{bus}_{role.lower()}", bus)
    assert ("s_axis_grad_tdata" in ports) == load_config(config).has("backward")


def test_same_bytes_every_time(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONHASHSEED": "4711"}
    subprocess.run([sys.executable, "-c", AGAIN, str(MACHINE), str(tmp_path)], env=environment, check=True)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (generated() / name).read_bytes()


def test_one_register_description() -> None:
    """The C header, SystemRDL (read by its reference compiler), the page and the JSON file tell the same."""
    folder = generated()
    description = register_map(load_config(MACHINE))
    header = read_header(folder / "lightnorm_registers.h")
    entries = json.loads((folder / "lightnorm_axi.json").read_text())["registers"]
    page = (folder / "registers.md").read_text()
    compiler = RDLCompiler()
    compiler.compile_file(str(folder / "registers.rdl"))
    found = {register.inst_name: register for register in compiler.elaborate().top.registers()}
    assert list(found) == list(entries) == [register.name for register in description.registers]
    for register in description.registers:
        node = found[register.name]
        assert header[f"{register.name}_OFFSET"] == node.absolute_address == entries[register.name]["offset"]
        assert f"| 0x{node.absolute_address:02x} | {register.name} |" in page
        fields = {field.inst_name: (field.low, field.high) for field in node.fields()}
        for field in register.fields:
            name = register.name if field.name == "value" else f"{register.name}_{field.name.upper()}"
            low, high = fields.pop(field.name)
            assert header[f"{name}_SHIFT"] == low
            assert header[f"{name}_MASK"] == ((2 << high) - 1) & ~((1 << low) - 1)
        assert not fields


def test_ip_xact() -> None:
    """Every register, field and record of the description is in the IP-XACT file, with its place, access and reset."""
    description = register_map(load_config(MACHINE))
    root = ET.parse(generated() / "registers.xml").getroot()
    space = {"x": root.tag.partition("}")[0].lstrip("{")}

    def number(element: ET.Element, name: str) -> int:
        text = element.findtext(f"x:{name}", namespaces=space)
        assert text is not None, name
        return int(text.replace("'h", "0x"), 0)

    def word(element: ET.Element, name: str) -> str | None:
        return element.findtext(f"x:{name}", namespaces=space)

    block = root.find("x:memoryMaps/x:memoryMap/x:addressBlock", space)
    assert block is not None and word(root, "name") == TOP and number(block, "baseAddress") == 0
    assert number(block, "range") == description.window + 32 * description.channels
    rights = {Access.CONSTANT: "read-only", Access.READ_ONLY: "read-only", Access.READ_WRITE: "read-write",
              Access.CLEAR: "read-write", Access.COMMAND: "write-only"}  # fmt: skip
    found = block.findall("x:register", space)
    assert [word(register, "name") for register in found] == [register.name for register in description.registers]
    for element, register in zip(found, description.registers, strict=True):
        assert (number(element, "addressOffset"), number(element, "size")) == (register.offset, 32)
        fields = element.findall("x:field", space)
        assert [word(field, "name") for field in fields] == [field.name for field in register.fields]
        for entry, field in zip(fields, register.fields, strict=True):
            assert (number(entry, "bitOffset"), number(entry, "bitWidth")) == (field.low, field.bits)
            assert word(entry, "access") == rights[field.access]
            assert word(entry, "modifiedWriteValue") == ("oneToClear" if field.access is Access.CLEAR else None)
            if field.access is not Access.READ_ONLY:
                assert number(entry, "resets/x:reset/x:value") == field.value
    records = block.find("x:registerFile", space)
    assert records is not None
    assert [number(records, name) for name in ("addressOffset", "dim", "range")] == [
        description.window, description.channels, 32
    ]  # fmt: skip


def test_readme() -> None:
    """Every file of the folder and every port has its row."""
    folder = generated()
    page = (folder / "README.md").read_text()
    files = set(re.findall(r"^\| `([\w.]+)` \| [^|]+ \|$", page, re.M))
    assert files == FILES - {"README.md"} | {"generate.log"}
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (\d+) \|", page, re.M)
    ports = read_ports(folder / "lightnorm_axi.json")
    assert {name: (direction, int(width)) for name, direction, width in rows} == ports
    assert "The generated Verilog belongs to whoever generated it." in page


def test_readme_of_the_core(tmp_path: Path) -> None:
    package(load_config(MACHINE), tmp_path)
    page = (tmp_path / "README.md").read_text()
    files = set(re.findall(r"^\| `([\w.]+)` \| [^|]+ \|$", page, re.M))
    assert files | {"README.md"} == {path.name for path in tmp_path.iterdir()}
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (\d+) \| ([^|]*) \|$", page, re.M)
    assert {name: (way, int(width)) for name, way, width, _ in rows} == read_ports(tmp_path / "lightnorm.json")
    assert {name for name, *_, text in rows if not text} == {
        name for name in read_ports(tmp_path / "lightnorm.json") if re.search("__(ready|valid|payload__last)$", name)
    }  # fmt: skip


def test_readme_with_sizes(tmp_path: Path) -> None:
    arguments = ["--config", str(HERE / "inference.toml"), "--top", "axi", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, ["synth", *arguments])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "synth.json").read_text())
    page = (tmp_path / "README.md").read_text()
    assert f"| buffer_bits | {found['buffer_bits']:,} |" in page
    for part, size in found["stages"].items():
        assert f"| {part} | {size:,} |" in page
    assert CliRunner().invoke(app, ["generate", *arguments]).exit_code == 0
    assert "| buffer_bits |" not in (tmp_path / "README.md").read_text()


def test_documented_registers() -> None:
    """The page on integration has every register, field and word."""
    page = (HERE.parents[2] / "docs" / "integration.md").read_text()
    description = register_map(load_config(CONFIGS / "default.toml"))
    for register in description.registers:
        row = re.search(rf"^\| 0x{register.offset:02x} \| {register.name} \| (.*) \|$", page, re.M)
        assert row, register.name
        for field in register.fields:
            assert field.name == "value" or field.name in row[1], f"{register.name}.{field.name}"
    for _, word, text in description.slots:
        assert text != "parameter" or word in page


def test_instance_fits(tmp_path: Path) -> None:
    """The instantiation template is Verilog that connects every port."""
    folder = generated()
    ports = read_ports(folder / "lightnorm_axi.json")
    wires = "".join(f"wire [{width - 1}:0] {name};\n" for name, (_, width) in ports.items())
    design = tmp_path / "soc.v"
    instance = (folder / "lightnorm_axi_instance.v").read_text()
    design.write_text(f"{(folder / 'lightnorm_axi.v').read_text()}\nmodule soc;\n{wires}{instance}endmodule\n")
    done = subprocess.run(["iverilog", "-g2005", "-Wall", "-s", "soc", "-o", os.devnull, str(design)],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not re.search("unconnected|not connected|expects|dangling", done.stderr), done.stderr
    assert set(re.findall(r"\.(\w+)\(", instance)) == set(ports)
    constraints = (folder / "lightnorm_axi.sdc").read_text()
    assert set(ports) <= set(re.findall(r"\w+", constraints))


def test_command(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["generate", "--config", str(HERE / "inference.toml"), "--top", "axi",
                                    "--out", str(tmp_path / "out"), "--json"])  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["name"] == "lightnorm_axi"
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES | {"generate.log"}
    done = CliRunner().invoke(app, ["generate", "--config", str(MACHINE), "--top", "ahb"])
    assert done.exit_code == 2 and "'ahb' is not one of 'core', 'axi'" in done.output


@pytest.mark.parametrize("config", [MACHINE, STREAMS, HERE / "inference.toml"], ids=lambda path: path.stem)
def test_c_driver_compiles(config: Path, tmp_path: Path) -> None:
    """For every build, also where a pass and its results are missing."""
    assert compile_driver(generated(config) / "lightnorm_registers.h", [], tmp_path / "driver.so") == []


def test_c_structures_are_packets() -> None:
    """Arrays of the C driver's structures are what the streams of parameters and results carry."""
    header = (HERE.parents[2] / "driver" / "c" / "lightnorm.h").read_text()
    for structure, words in (
        ("parameters", PARAMETERS["train"]),
        ("statistics", [name.removeprefix("new_") for name in RESULTS["train"]]),
        ("gradients", [name.removeprefix("grad_") for name in RESULTS["backward"]]),
    ):
        assert f"typedef struct {{\n    float {', '.join(words)};\n}} lightnorm_{structure};" in header
    assert PARAMETERS["infer"] == PARAMETERS["train"] and PARAMETERS["backward"] == ("weight",)


def test_errors(tmp_path: Path) -> None:
    config = load_config(MACHINE)
    with pytest.raises(ValueError, match="^top must be one of core, axi, uart, not 'ahb'$"):
        generate(config, tmp_path, top="ahb")
    assert not list(tmp_path.iterdir())
    toml = tmp_path / "c.toml"
    toml.write_text(MACHINE.read_text().replace("max_channels = 6", "max_channels = 65536"))
    with pytest.raises(ConfigError, match="max_channels must be an integer between 0 and 65535, not 65536"):
        load_config(toml)
    with pytest.raises(ValueError, match="^m has no port b$"):
        with_attributes("module m(a);\n  input a;\nendmodule\n", "m", {"a": {"X": "y"}, "b": {"X": "y"}})

    def register(offset: int, *fields: Field) -> Register:
        return Register("R", offset, "", fields)

    whole = Field("value", 0, 32, Access.READ_WRITE, "")
    for registers, message in (
        ([register(0), register(0)], "^registers must be at different multiples of 4$"),
        ([register(2)], "^registers must be at different multiples of 4$"),
        ([register(128)], "^registers must lie below the window$"),
        ([register(0, whole, whole)], "^field value of R must have 32-bit places of its own$"),
        ([register(0, Field("value", 1, 32, Access.READ_WRITE, ""))], "^field value of R must have 32-bit places"),
    ):
        with pytest.raises(ValueError, match=message):
            RegisterMap(tuple(registers), 128, 4, (), 8)
