"""The register map: one description, of which the RTL, the C header and the documentation are made."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from lightnorm_golden.spec import MAX_ELEMENTS

from ..config import PASSES, Config
from ..datapath.coefficients import MODES
from ..datapath.program import CONSTANTS, PARAMETERS, PROGRAMS, RESULTS
from ..datapath.unpack import CHANNEL_BITS, ELEMENT_BITS

__all__ = [
    "ERRORS",
    "ID",
    "MAP_VERSION",
    "WORD_BYTES",
    "Access",
    "Field",
    "Register",
    "RegisterMap",
    "most_channels",
    "register_map",
]

WORD_BYTES = 4
ID = int.from_bytes(b"LNRM", "big")
MAP_VERSION = (1, 1)
"""Version of this map: a new major number breaks drivers, a new minor one adds."""

ERRORS = ("length", "keep", "illegal_run", "aborted")
"""Fields of STATUS that end a run; they must be cleared before the next."""


class Access(Enum):
    """What a field does when it is read or written."""

    CONSTANT = "read-only, constant"
    READ_ONLY = "read-only"
    READ_WRITE = "read-write"
    CLEAR = "read, write 1 to clear"
    COMMAND = "write 1 to act, reads 0"


@dataclass(frozen=True)
class Field:
    """Bits `low` to `low + bits - 1` of a register. `value`: what a constant reads, what any other is after reset."""

    name: str
    low: int
    bits: int
    access: Access
    text: str
    value: int = 0

    @property
    def mask(self) -> int:
        return ((1 << self.bits) - 1) << self.low


@dataclass(frozen=True)
class Register:
    """A 32-bit word. `locked`: it can not be written during a run."""

    name: str
    offset: int
    text: str
    fields: tuple[Field, ...]
    locked: bool = False

    @property
    def reset(self) -> int:
        """What is read after reset; what the machine's state decides counts as 0."""
        return sum(field.value << field.low for field in self.fields)


@dataclass(frozen=True)
class RegisterMap:
    """Every address that answers.

    The window holds `channels` records of `record` words, which begin at byte `window`: the words in `slots` by their
    number in the record. With 0 channels there is none. All of it lies in 2^`address_bits` bytes.
    """

    registers: tuple[Register, ...]
    window: int
    channels: int
    slots: tuple[tuple[int, str, str], ...]
    address_bits: int
    record: int = 8

    def __post_init__(self) -> None:
        offsets = [register.offset for register in self.registers]
        if len(set(offsets)) != len(offsets) or any(offset % WORD_BYTES for offset in offsets):
            raise ValueError("registers must be at different multiples of 4")
        if max(offsets) >= self.window:
            raise ValueError("registers must lie below the window")
        for register in self.registers:
            used = 0
            for field in register.fields:
                if used & field.mask or field.mask >> 32:
                    raise ValueError(f"field {field.name} of {register.name} must have 32-bit places of its own")
                used |= field.mask

    def __getitem__(self, name: str) -> Register:
        return next(register for register in self.registers if register.name == name)


def _field(name: str, low: int, access: Access, text: str, *, bits: int = 1, value: int = 0) -> Field:
    return Field(name, low, bits, access, text, value)


def _word(name: str, offset: int, access: Access, text: str, *, bits: int = 32, value: int = 0) -> Register:
    """A register that is one field."""
    return Register(name, offset, text, (Field("value", 0, bits, access, text, value),))


def most_channels(config: Config) -> int:
    """Channels of a run."""
    return config.implementation.max_channels or (1 << CHANNEL_BITS) - 1


def _run_time(config: Config) -> list[Register]:
    """The words of a run; those that the build does not use are constant 0, and writing them changes nothing."""
    spec, passes = config.spec, config.implementation.passes
    used = {operand for name in passes for operation in PROGRAMS[name] for operand in operation.operands}
    reduces = passes != ("infer",)
    dropped = 23 - spec.coef_man_bits
    texts = {
        "inv_count": "1 / elements per channel",
        "range_gain": "calibration of the range over the number of chunks",
        "eps": "added to sigma",
        "momentum": "weight of a new statistic in the running one",
    }
    modes = ", ".join(f"{number} {name}" for name, number in MODES.items() if name in passes)
    words = [
        Register("MODE", 0x40, "What the next run does.", (
            _field("mode", 0, Access.READ_WRITE, f"pass: {modes}", bits=2),
            _field("two_pass", 8, Access.READ_ONLY, "with MODE and ELEMENTS as they are, every channel is sent twice"),
        ), locked=True),
        _word("CHANNELS", 0x44, Access.READ_WRITE, f"channels, 1 to {most_channels(config)}", bits=16),
        _word("ELEMENTS", 0x48, Access.READ_WRITE, f"elements per channel, 1 to {MAX_ELEMENTS}", bits=ELEMENT_BITS),
        _word("CHUNK_BLOCKS", 0x4C, Access.READ_WRITE if reduces else Access.CONSTANT,
              "blocks per chunk (not used in inference); in backward a channel has at most MAX_CHUNKS chunks",
              bits=(-(-MAX_ELEMENTS // spec.activation.block_size)).bit_length()),
    ]  # fmt: skip
    for index, name in enumerate(CONSTANTS):
        built = name in used
        note = f"; float32, the lowest {dropped} bits are dropped" if dropped and built else "; float32"
        words.append(Register(name.upper(), 0x50 + WORD_BYTES * index, texts[name] + note, (
            _field("value", dropped, Access.READ_WRITE if built else Access.CONSTANT, texts[name], bits=32 - dropped),
        )))  # fmt: skip
    return [Register(word.name, word.offset, word.text, word.fields, locked=True) for word in words]


def _slots(config: Config) -> tuple[tuple[int, str, str], ...]:
    """(number, name, text) of a record's words: the parameters, then each pass's results from word 4 on."""
    slots = [(index, name, "parameter") for index, name in enumerate(PARAMETERS["train"])]
    for name in ("train", "backward"):
        if config.has(name):
            slots += [(4 + index, word, f"result of {name}") for index, word in enumerate(RESULTS[name])]
    return tuple(slots)


def register_map(config: Config) -> RegisterMap:
    """The map of a configuration's AXI build. Its registers are the same in every build, the window's place is not."""
    implementation = config.implementation
    channels = implementation.max_channels
    size = 1 << max((8 * WORD_BYTES * channels - 1).bit_length(), 7)
    ro, clear, command = Access.READ_ONLY, Access.CLEAR, Access.COMMAND
    registers = [
        Register("CTRL", 0x00, "Starts and stops runs.", (
            _field("start", 0, command, "start a run; refused (SLVERR) unless ready"),
            _field("done", 1, ro, "the last run that was started has ended without an error"),
            _field("idle", 2, ro, "no run is in progress"),
            _field("ready", 3, ro, "a run can be started"),
            _field("abort", 4, command, "end the run with STATUS.aborted; after an error: forget open input packets"),
        )),
        _word("GIE", 0x04, Access.READ_WRITE, "Interrupts enabled at all.", bits=1),
        Register("IER", 0x08, "Which events raise irq.", (
            _field("done", 0, Access.READ_WRITE, "a run ended without an error"),
            _field("error", 1, Access.READ_WRITE, "a run ended with an error, or was refused as illegal"),
        )),
        Register("ISR", 0x0C, "Events since they were cleared; irq is high while an enabled one is set.", (
            _field("done", 0, clear, "a run ended without an error"),
            _field("error", 1, clear, "a run ended with an error, or was refused as illegal"),
        )),
        _word("ID", 0x10, Access.CONSTANT, "\"LNRM\" in ASCII.", value=ID),
        Register("VERSION", 0x14, "Version of this map.", (
            _field("minor", 0, Access.CONSTANT, "additions", bits=16, value=MAP_VERSION[1]),
            _field("major", 16, Access.CONSTANT, "incompatible changes", bits=16, value=MAP_VERSION[0]),
        )),
        Register("CAPS0", 0x18, "What is built.", (
            *(_field(name, MODES[name], Access.CONSTANT, f"{name} is built", value=config.has(name))
              for name in sorted(PASSES, key=MODES.__getitem__)),
            _field("lanes", 8, Access.CONSTANT, "elements per beat", bits=24, value=config.lanes),
        )),
        Register("CAPS1", 0x1C, "Limits.", (
            _field("max_channels", 0, Access.CONSTANT, "channels that the window holds; 0: parameters and results are"
                   " streams", bits=16, value=channels),
            _field("max_chunks", 16, Access.CONSTANT, "chunks per channel in backward (65535: or more)", bits=16,
                   value=min(implementation.max_chunks, 0xFFFF)),
        )),
        _word("SCRATCH", 0x20, Access.READ_WRITE, "Free for the host."),
        _word("CONFIG_HASH", 0x24, Access.CONSTANT, "First 32 bits of the configuration's hash.",
              value=int(config.hash, 16)),
        Register("STATUS", 0x28, "What has happened since it was cleared. Bits 0 to 3 end the run and must be cleared"
                 " before the next.", (
            _field("length", 0, clear, "TLAST came before or after the last beat of a channel, or the last parameter"),
            _field("keep", 1, clear, "TKEEP left out a byte that holds an element"),
            _field("illegal_run", 2, clear, "the words of a run were outside of what is built; it did not begin"),
            _field("aborted", 3, clear, "CTRL.abort ended a run"),
            _field("nonfinite", 8, clear, "a parameter was NaN or infinite and was read as 0"),
            _field("saturated", 9, clear, "an output element was beyond its format"),
            _field("refused", 10, clear, "a write during a run, or a start without CTRL.ready, was answered SLVERR"),
        )),
        _word("CYCLES", 0x30, ro, "Clock cycles of the run. Counters restart with a run and wrap at 2^32."),
        _word("INPUT_STALLS", 0x34, ro, "Cycles of the run in which the machine waited for input beats."),
        _word("OUTPUT_STALLS", 0x38, ro, "Cycles of the run in which an output beat waited."),
        _word("SATURATED", 0x3C, ro, "Output elements of the run that were beyond their format."),
        *_run_time(config),
    ]  # fmt: skip
    bits = size.bit_length() if channels else size.bit_length() - 1
    return RegisterMap(tuple(registers), size, channels, _slots(config) if channels else (), bits)
