"""Files in and out: tensors with errors a user understands, and results that are never there half-written."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["load_tensor", "markdown_table", "write_json", "write_npy", "write_text"]


def load_tensor(option: str, path: Path) -> NDArray[Any]:
    """The array in a .npy file; `option` is how the user named it. Raises ValueError."""
    named = f"{option} {path}"
    if path.is_dir():
        raise ValueError(f"{named} is a directory, not a .npy file")
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{named}: there is no such file") from None
    except OSError as error:
        raise ValueError(f"{named} cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise ValueError(f"{named} is not a .npy file of numbers: {error}") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f"{named} is a .npz archive; give one array, saved by numpy.save")
    return array


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines; the first column is left-aligned, the others right."""
    lines = [f"| {' | '.join(header)} |", "|---|" + "---:|" * (len(header) - 1)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def write_text(path: Path, text: str) -> None:
    """Write a file under another name first."""
    _write(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_npy(path: Path, array: NDArray[Any]) -> None:
    partial = _partial(path)
    try:
        with partial.open("wb") as file:
            np.save(file, array)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    partial = _partial(path)
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.partial")
