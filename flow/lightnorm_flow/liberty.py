"""Reads Liberty cell libraries: what the cells compute, and Verilog models of them for simulating mapped netlists.

Only the logical side is interpreted (functions, flip-flops, latches, clock gates, area). Everything else, such as
timing and power tables, stays reachable through ``Cell.group``.
"""

import gzip
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Cell", "Group", "cell_models", "read_cells", "read_library", "read_text", "truth_table"]

STATEMENT = re.compile(
    r"""[\s;]* (?: (?P<end>\})
        | (?P<kind>\w+) \s* (?: \( (?P<arguments>(?:"(?:[^"\\]|\\.)*"|[^")])*) \) \s* (?P<group>\{)?
                            | : [ \t]* (?P<value>"(?:[^"\\]|\\.)*"|[^;\n}]*) ) )""",
    re.VERBOSE | re.DOTALL,
)
FUNCTION_TOKEN = re.compile(r"\s*([A-Za-z_]\w*|[01]|[!&*|+^()'])")


@dataclass
class Group:
    """``kind(names) { attributes; groups }`` of a Liberty file; ``attribute(values);`` keeps its values as text."""

    kind: str
    names: list[str]
    attributes: dict[str, str] = field(default_factory=dict)
    groups: list["Group"] = field(default_factory=list)

    def all(self, *kinds: str) -> list["Group"]:
        """The direct subgroups of these kinds."""
        return [group for group in self.groups if group.kind in kinds]

    def flag(self, name: str) -> bool:
        """Whether a boolean attribute is there and true."""
        return self.attributes.get(name) == "true"


@dataclass(frozen=True)
class Cell:
    """A library cell; ``functions`` maps each output pin to the Liberty expression it computes."""

    name: str
    area: float
    inputs: tuple[str, ...]
    functions: dict[str, str]
    group: Group

    @property
    def dont_use(self) -> bool:
        """Whether the library asks mappers to leave this cell alone."""
        return self.group.flag("dont_use")

    @property
    def clock_gate(self) -> str | None:
        """The kind of integrated clock gate, such as "latch_posedge"; None for every other cell."""
        return self.group.attributes.get("clock_gating_integrated_cell")

    @property
    def sequential(self) -> bool:
        """Whether the cell holds state."""
        return bool(self.group.all("ff", "latch", "statetable", "ff_bank", "latch_bank"))

    def pin_with(self, flag: str) -> str | None:
        """The pin that carries a boolean attribute such as ``clock_gate_enable_pin``."""
        return next((pin.names[0] for pin in self.group.all("pin") if pin.flag(flag)), None)

    def truth_table(self, output: str) -> int:
        """Truth table of a combinational output: bit i is its value when ``inputs`` are the bits of i, lowest first."""
        return truth_table(self.functions[output], self.inputs)


def truth_table(function: str, inputs: Sequence[str]) -> int:
    """Truth table of a Liberty expression: bit i is its value when ``inputs`` are the bits of i, lowest first."""
    expression = compile(_operators(function), "<function>", "eval")
    table = 0
    for index in range(2 ** len(inputs)):
        values = {name: index >> position & 1 for position, name in enumerate(inputs)}
        table |= (eval(expression, {}, values) & 1) << index
    return table


def read_text(path: Path) -> str:
    """The text of a Liberty file, which may be gzip-compressed."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise ValueError(f"Liberty file {path} does not exist") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"Liberty file {path} cannot be read: {error}") from None
    return data.decode(errors="replace")


def read_library(path: Path) -> tuple[Group, dict[str, Cell]]:
    """The library of a Liberty file, which may be gzip-compressed, and its cells by name."""
    library = next(iter(_parse(read_text(path), path).all("library")), Group("library", []))
    cells = {group.names[0]: _cell(group) for group in library.all("cell")}
    if not cells:
        raise ValueError(f"Liberty file {path} describes no cells")
    return library, cells


def read_cells(path: Path) -> dict[str, Cell]:
    """All cells of a Liberty file by name."""
    return read_library(path)[1]


def cell_models(liberty: Path, names: Collection[str] | None = None) -> str:
    """Verilog models, without delays, of the named cells (of all cells it can model if ``names`` is None)."""
    cells = read_cells(liberty)
    if names is None:
        models = [_model(cell) for cell in cells.values()]
    else:
        if unknown := sorted(set(names) - set(cells)):
            raise ValueError(f"Liberty file {liberty} has no cell {', '.join(unknown)}")
        models = [_model(cells[name]) for name in sorted(names)]
        if missing := [name for name, model in zip(sorted(names), models, strict=True) if model is None]:
            raise ValueError(f"no simulation model can be made of cell {', '.join(missing)} of {liberty}")
    return "\n".join(model for model in models if model is not None)


def _parse(text: str, path: Path) -> Group:
    """The whole file as a group, whose only subgroup is the library."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    opened = [Group("file", [])]
    position = 0
    while match := STATEMENT.match(text, position):
        position = match.end()
        if match["end"]:
            opened.pop()
            if not opened:
                break
        elif match["group"]:
            group = Group(match["kind"], [_unquoted(name) for name in match["arguments"].split(",")])
            opened[-1].groups.append(group)
            opened.append(group)
        else:
            opened[-1].attributes[match["kind"]] = _unquoted(match["arguments"] or match["value"] or "")
    if len(opened) != 1 or text[position:].strip(" \t\r\n;"):
        line = text.count("\n", 0, position) + 1
        raise ValueError(f"Liberty file {path} cannot be understood, at about line {line}")
    return opened[0]


def _unquoted(text: str) -> str:
    """An attribute's value without its quotes; a list of several strings stays as it is."""
    text = text.strip()
    return text[1:-1] if text.count('"') == 2 and text[0] == text[-1] == '"' else text


def _cell(group: Group) -> Cell:
    pins = [(pin.names[0], pin.attributes) for pin in group.all("pin")]
    return Cell(
        name=group.names[0],
        area=float(group.attributes.get("area", "0")),
        inputs=tuple(name for name, attributes in pins if attributes.get("direction") == "input"),
        functions={name: attributes["function"] for name, attributes in pins if "function" in attributes},
        group=group,
    )


def _model(cell: Cell) -> str | None:
    """Verilog model of a cell; None for what needs none (fillers) and what mappers never use (tri-state, scan)."""
    state = cell.group.all("ff", "latch")
    if cell.clock_gate:
        return _clock_gate_model(cell)
    if not cell.functions or (cell.sequential and len(state) != 1):
        return None
    if any("three_state" in pin.attributes for pin in cell.group.all("pin")):
        return None
    body = [f"assign {output} = {_operators(function)};" for output, function in cell.functions.items()]
    if state:
        body = _state_model(state[0]) + body
    return _module(cell.name, cell.inputs, cell.functions, body)


def _state_model(state: Group) -> list[str]:
    """The flip-flop or latch of a cell: its state, which begins at random, and the complement of it."""
    held, inverted = state.names
    given = state.attributes
    assign = "<=" if state.kind == "ff" else "="
    branches = [
        f"if ({_operators(given[force])}) {held} {assign} 1'b{value};"
        for force, value in (("clear", 0), ("preset", 1)) if force in given
    ]
    if state.kind == "ff":
        events = [_edge(given[event]) for event in ("clocked_on", "clear", "preset") if event in given]
        head = f"always @({' or '.join(events)})"
        branches.append(f"{held} <= {_operators(given['next_state'])};")
    else:
        head = "always @*"
        branches.append(f"if ({_operators(given['enable'])}) {held} = {_operators(given['data_in'])};")
    signals = [f"reg {held};", f"initial {held} = $random;", f"wire {inverted} = ~{held};"]
    return [*signals, f"{head} {' else '.join(branches)}"]


def _edge(expression: str) -> str:
    """The event at which a pin, or its complement, rises."""
    pin = expression.strip(" ()")
    if re.fullmatch(r"\w+", pin):
        return f"posedge {pin}"
    if match := re.fullmatch(r"!\s*(\w+)|(\w+)\s*'", pin):
        return f"negedge {match[1] or match[2]}"
    raise ValueError(f"a clock, clear or preset must be a pin or its complement, not {expression!r}")


def _clock_gate_model(cell: Cell) -> str | None:
    """A latch that is open while the clock is low, and an AND gate."""
    clock, enable, output = (cell.pin_with(f"clock_gate_{pin}_pin") for pin in ("clock", "enable", "out"))
    if cell.clock_gate not in ("latch_posedge", "latch_posedge_precontrol") or not (clock and enable and output):
        return None
    test = cell.pin_with("clock_gate_test_pin")
    body = [
        "reg enabled;",
        "initial enabled = $random;",
        f"always @* if (!{clock}) enabled = {enable}{f' | {test}' if test else ''};",
        f"assign {output} = {clock} & enabled;",
    ]
    return _module(cell.name, cell.inputs, [output], body)


def _module(name: str, inputs: Iterable[str], outputs: Iterable[str], body: list[str]) -> str:
    ports = [*(f"input {pin}" for pin in inputs), *(f"output {pin}" for pin in outputs)]
    return "\n".join([f"module {name} ({', '.join(ports)});", *(f"  {line}" for line in body), "endmodule", ""])


def _operators(function: str) -> str:
    """A Liberty function in the operators of Verilog and Python, all parenthesized."""
    tokens: list[str] = FUNCTION_TOKEN.findall(function)
    if "".join(tokens) != re.sub(r"\s", "", function):
        raise ValueError(f"{function!r} is not a Liberty function")
    tokens.append(";")

    def operand() -> str:
        token = tokens.pop(0)
        if token == "!":
            return f"(~{operand()})"
        if token == "(":
            token = either()
            tokens.pop(0)
        while tokens[0] == "'":
            tokens.pop(0)
            token = f"(~{token})"
        return token

    def operation(operator: str, spellings: str, inner: Callable[[], str]) -> str:
        terms = [inner()]
        while tokens[0] in spellings or (operator == "&" and re.match(r"[\w!(]", tokens[0])):
            if tokens[0] in spellings:
                tokens.pop(0)
            terms.append(inner())
        return terms[0] if len(terms) == 1 else f"({f' {operator} '.join(terms)})"

    # Of Liberty's operators ^ binds tightest, then AND (written & or * or nothing at all), then OR.
    def exclusive() -> str:
        return operation("^", "^", operand)

    def both() -> str:
        return operation("&", "&*", exclusive)

    def either() -> str:
        return operation("|", "|+", both)

    return either()
