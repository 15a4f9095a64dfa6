"""What the user sees: progress and errors on stderr, results on stdout."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

__all__ = [
    "PlainTable", "Step", "number", "outcomes", "print_error", "print_pairs", "print_table", "steps", "without_empty",
]  # fmt: skip

Step = Callable[[str], None]
"""Tells the user what begins now."""

PlainTable = tuple[str, list[str], list[list[str]]]
"""Title, header and rows, see `print_table`."""


@contextmanager
def steps(total: int, *, quiet: bool = False) -> Iterator[Step]:
    """Progress over `total` steps; where stderr is no terminal, a line for each step. `quiet`: nothing at all."""
    console = Console(stderr=True, quiet=quiet)
    if quiet or not console.is_terminal:

        def say(what: str) -> None:
            console.print(Text(f"{what} ..."))

        yield say
        return
    with Progress(*_columns(), console=console, transient=True) as progress:
        task = progress.add_task("", total=total)
        begun = 0

        def advance(what: str) -> None:
            nonlocal begun
            progress.update(task, description=what, completed=min(begun, total))
            begun += 1

        yield advance


@contextmanager
def outcomes(total: int, *, quiet: bool = False) -> Iterator[Step]:
    """Progress over `total` jobs that run side by side: a line for each that is done."""
    console = Console(stderr=True, quiet=quiet, soft_wrap=True)
    with Progress(*_columns(), console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task("running", total=total)

        def done(what: str) -> None:
            progress.advance(task)
            console.print(Text(what))

        yield done


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(),
    )  # fmt: skip


def print_error(error: BaseException) -> None:
    message = str(error) or type(error).__name__
    Console(stderr=True, soft_wrap=True).print(Text("error: ", "bold red"), Text(message), sep="")


def print_pairs(title: str, pairs: Mapping[str, str]) -> None:
    print_table(title, ("", ""), list(pairs.items()))


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first column left-aligned, the others right."""
    table = Table(box=SIMPLE_HEAD, show_header=any(header))
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    console.print(Text(title, "bold"))
    console.print(table)


def without_empty(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, hidden: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Header and rows without the columns in which no row has anything, and without the hidden ones."""
    kept = [i for i, name in enumerate(header) if any(row[i] for row in rows) and name not in hidden]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def number(value: float) -> str:
    """With thousands separators, and three decimals where they are needed."""
    return f"{value:,}" if isinstance(value, int) or value == int(value) and abs(value) >= 1000 else f"{value:,.3f}"
