"""The script that packages the block for Vivado, run by Tcl with stand-ins for Vivado's commands."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lightnorm.bus import register_map
from lightnorm.bus.registers import Access
from lightnorm.config import load_config
from lightnorm_flow.packaging.vivado import package_script
from lightnorm_sim import read_ports

from .axi import HERE, MACHINE, TOP, generated

INTERFACE = re.compile(r'X_INTERFACE_INFO = "\S+ (\w+) \w+"')
SCRIPT = "package_ip.tcl"


def run_tcl(folder: Path, interfaces: list[str]) -> subprocess.CompletedProcess[str]:
    command = ["tclsh", str(HERE / "vivado.tcl"), str(folder / SCRIPT), *interfaces]
    return subprocess.run(command, capture_output=True, text=True)


def test_script() -> None:
    """Every interface that the Verilog's attributes lead to is packaged, with every port and register."""
    folder = generated()
    verilog = (folder / f"{TOP}.v").read_text()
    interfaces = sorted(set(INTERFACE.findall(verilog)))
    assert {name for name in read_ports(folder / f"{TOP}.json") if name.partition("_t")[0] not in interfaces
            and name.rpartition("_")[0] not in interfaces} == set()  # fmt: skip
    done = run_tcl(folder, interfaces)
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines() if line.startswith("/")]
    made = {name: dict(zip(words[::2], words[1::2], strict=True)) for name, *words in lines}
    core = made["/core:core"]
    assert core["saved"] == "1" and core["name"] == TOP and core["version"] == "1.1"
    assert made["/fileset:sources_1"]["top"] == TOP
    clocked = {name.rpartition(":")[2] for name, entry in made.items() if entry.get("clock") == "aclk"}
    assert clocked == set(interfaces) - {"aclk", "aresetn", "irq"}

    registers = register_map(load_config(MACHINE))
    assert made["/core:core/interface:s_axil"]["slave_memory_map_ref"] == "s_axil"
    assert [name for name in made if name.startswith("/core:core/map:") and name.count("/") == 2] == [
        "/core:core/map:s_axil"
    ]
    block = "/core:core/map:s_axil/block:registers"
    assert int(made[block]["range"]) == 1 << registers.address_bits
    found = {name: entry for name, entry in made.items() if name.startswith(f"{block}/")}
    for register in registers.registers:
        entry = found.pop(f"{block}/register:{register.name}")
        assert (int(entry["address_offset"], 0), entry["size"]) == (register.offset, "32")
        assert entry["description"] == register.text
        for field in register.fields:
            entry = found.pop(f"{block}/register:{register.name}/field:{field.name}")
            assert (int(entry["bit_offset"]), int(entry["bit_width"])) == (field.low, field.bits)
            assert entry["description"] == field.text
            written = field.access in (Access.READ_WRITE, Access.CLEAR, Access.COMMAND)
            assert ("write" in entry["access"]) == written
            assert entry.get("modified_write_value") == ("oneToClear" if field.access is Access.CLEAR else None)
    assert not found


def test_missing_interface() -> None:
    done = run_tcl(generated(), ["aclk", "aresetn", "irq", "s_axis", "s_axis_grad", "s_axil"])
    assert done.returncode == 1
    assert f"interface m_axis of {TOP} was not inferred" in done.stderr


def test_missing_verilog(tmp_path: Path) -> None:
    shutil.copy(generated() / SCRIPT, tmp_path)
    done = run_tcl(tmp_path, [])
    assert done.returncode == 1 and f"there is no {tmp_path / TOP}.v" in done.stderr


def test_words_that_tcl_would_change() -> None:
    registers = register_map(load_config(MACHINE))
    with pytest.raises(ValueError, match=r"^no word of a Tcl list may have braces or backslashes: 'a\{b'$"):
        package_script({"name": "a{b", "hash": "0", "ports": {}}, registers)
