"""What is written of a register map: a C header, a Markdown page, SystemRDL and IP-XACT for other tools."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from peakrdl_ipxact import IPXACTExporter
from systemrdl import RDLCompiler

from lightnorm_golden.spec import GAINS

from ..config import Config
from ..datapath.beat import beat_layout
from ..datapath.coefficients import MODES
from .axi_stream import bytes_per_beat
from .registers import ERRORS, MAP_VERSION, WORD_BYTES, Access, Field, Register, RegisterMap, most_channels

__all__ = ["beat_bytes", "c_header", "ip_xact", "register_page", "system_rdl"]


def beat_bytes(config: Config) -> dict[str, int]:
    """Bytes of a beat of each stream: of x, of the gradient g, of what comes out in inference and training (y) and in
    backward (dx). Output beats of one build have one size, that of the longer; the shorter are followed by zeros."""
    spec = config.spec
    activation, gradient = (beat_layout(fmt, config.lanes).size for fmt in (spec.activation, spec.gradient))
    sizes = {"x": activation}
    if config.has("backward"):
        sizes["grad"] = gradient
    passes = config.implementation.passes
    sizes["output"] = max(activation * (passes != ("backward",)), gradient * config.has("backward"))
    return {name: bytes_per_beat(bits) for name, bits in sizes.items()}


def c_header(config: Config, registers: RegisterMap) -> str:
    """C constants: offsets in bytes, masks, shifts, modes, beats."""
    lines = [
        f"/* LightNorm, configuration {config.hash}. Generated: change the configuration, not this file. */",
        "#ifndef LIGHTNORM_REGISTERS_H",
        "#define LIGHTNORM_REGISTERS_H",
        "",
        *(_define(name, value) for name, value in _constants(config, registers)),
        "",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def _define(name: str, value: int) -> str:
    return f"#define LIGHTNORM_{name} 0x{value:x}u"


def _constants(config: Config, registers: RegisterMap) -> Iterator[tuple[str, int]]:
    spec, built = config.spec, config.implementation
    for register in registers.registers:
        yield f"{register.name}_OFFSET", register.offset
        for field in register.fields:
            name = register.name if field.name == "value" else f"{register.name}_{field.name.upper()}"
            yield f"{name}_MASK", field.mask
            yield f"{name}_SHIFT", field.low
            if field.access is Access.CONSTANT:
                yield f"{name}_VALUE", field.value
    yield "STATUS_ERRORS", sum(field.mask for field in registers["STATUS"].fields if field.name in ERRORS)
    if registers.channels:
        yield "WINDOW_OFFSET", registers.window
        yield "RECORD_BYTES", registers.record * WORD_BYTES
    for slot, name, _ in registers.slots:
        yield f"RECORD_{name.upper()}", slot * WORD_BYTES
    yield "ADDRESS_BITS", registers.address_bits
    for name, number in MODES.items():
        yield f"MODE_{name.upper()}", number
    yield "LANES", config.lanes
    yield "BLOCK_SIZE", spec.activation.block_size
    yield "BUFFER_BEATS", config.buffer_beats
    yield "MAX_CHANNELS", most_channels(config)
    yield "MAX_CHUNKS", built.max_chunks
    yield "COEF_MAN_BITS", spec.coef_man_bits
    for number, name in enumerate(GAINS):
        yield f"GAIN_{name.upper()}", number
    yield "GAIN", GAINS.index(spec.gain)
    for name, size in beat_bytes(config).items():
        yield f"{name.upper()}_BEAT_BYTES", size


def register_page(config: Config, registers: RegisterMap) -> str:
    """The map as a Markdown page."""
    rows = [row for register in registers.registers for row in _rows(register)]
    return "\n".join([
        f"# Registers, configuration {config.hash}",
        "",
        "32-bit words, little-endian, at byte offsets from the block's base. Writes must be whole, aligned words. What",
        "is not in this table answers SLVERR, as do unaligned accesses, writes with WSTRB other than 1111, and, during",
        "a run, writes to what is marked *locked*; such a write changes nothing. Bits without a field read 0 and take",
        "any value. Float32 words are IEEE 754 binary32.",
        "",
        "| offset | register | bits | field | access | reset | meaning |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        *(_window(registers) if registers.channels else ()),
    ])  # fmt: skip


def _window(registers: RegisterMap) -> list[str]:
    words = [f"| 0x{slot * WORD_BYTES:02x} | {name} | {text} |" for slot, name, text in registers.slots]
    end = registers.window + registers.record * WORD_BYTES * registers.channels
    return [
        f"## Window: 0x{registers.window:x} to 0x{end - 1:x}, locked",
        "",
        f"A record of {registers.record * WORD_BYTES} bytes per channel, {registers.channels} of them, of float32",
        "words; during a run reads answer SLVERR too. Contents are undefined after power-up and survive a reset. A run",
        "reads parameters and writes its results only: a backward run behind a training run leaves the new running",
        "statistics where they are.",
        "",
        "| offset in record | word | |",
        "|---|---|---|",
        *words,
        "",
    ]  # fmt: skip


def _rows(register: Register) -> Iterator[str]:
    note = ", *locked*" if register.locked else ""
    whole = len(register.fields) == 1 and register.fields[0].name == "value"
    if not whole:
        yield f"| 0x{register.offset:02x} | {register.name} | | | | | {register.text.rstrip('.')}{note} |"
    for field in register.fields:
        first = f"0x{register.offset:02x} | {register.name}" if whole else " | "
        name, text = ("", register.text.rstrip(".") + note) if whole else (field.name, field.text)
        value = f"0x{field.value:x}" if field.access is not Access.READ_ONLY else ""
        yield f"| {first} | {_bits(field)} | {name} | {field.access.value} | {value} | {text} |"


def _bits(field: Field) -> str:
    return str(field.low) if field.bits == 1 else f"{field.low + field.bits - 1}:{field.low}"


def system_rdl(config: Config, registers: RegisterMap) -> str:
    """The map in SystemRDL 2.0, from which PeakRDL makes IP-XACT, HTML and more."""
    rights = {
        Access.CONSTANT: "sw = r; hw = na;",
        Access.READ_ONLY: "sw = r; hw = w;",
        Access.READ_WRITE: "sw = rw; hw = r;",
        Access.CLEAR: "sw = rw; onwrite = woclr; hw = w; hwset;",
        Access.COMMAND: "sw = w; singlepulse; hw = r;",
    }
    lines = [f"// LightNorm, configuration {config.hash}. Generated: change the configuration, not this file.",
             "addrmap lightnorm {", "    default regwidth = 32;", "    default accesswidth = 32;"]  # fmt: skip
    for register in registers.registers:
        lines += ["    reg {", f"        desc = {_quoted(register.text)};"]
        for field in register.fields:
            reset = "" if field.access is Access.READ_ONLY else f" = 0x{field.value:x}"
            lines.append(f"        field {{ desc = {_quoted(field.text)}; {rights[field.access]} }}"
                         f" {field.name}[{field.low + field.bits - 1}:{field.low}]{reset};")  # fmt: skip
        lines.append(f"    }} {register.name} @ 0x{register.offset:x};")
    if registers.channels:
        lines += [
            "    regfile {",
            '        desc = "Parameters and results of a channel.";',
            f"        reg {{ field {{ sw = rw; hw = rw; }} value[31:0]; }} WORD[{registers.record}];",
            f"    }} RECORD[{registers.channels}] @ 0x{registers.window:x} += 0x{registers.record * WORD_BYTES:x};",
        ]
    return "\n".join([*lines, "};", ""])


def ip_xact(name: str, rdl: str) -> str:
    """A map in SystemRDL as IP-XACT (IEEE 1685-2014): the memory map of the component `name`."""
    exporter = IPXACTExporter(vendor="lightnorm", library="lightnorm", version="{}.{}".format(*MAP_VERSION))
    with tempfile.TemporaryDirectory(prefix="lightnorm-") as folder:
        source, made = Path(folder, "registers.rdl"), Path(folder, "registers.xml")
        source.write_text(rdl, encoding="utf-8")
        compiler = RDLCompiler()
        compiler.compile_file(str(source))
        exporter.export(compiler.elaborate(), str(made), component_name=name)
        return made.read_text(encoding="utf-8")


def _quoted(text: str) -> str:
    return '"' + text.replace('"', "'") + '"'
