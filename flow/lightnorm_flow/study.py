"""Runs the training study of lightnorm_torch, which is an optional extra."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .console import steps

__all__ = ["run_study", "study_rows"]


def run_study(folder: Path, *, seeds: int, quick: bool, quiet: bool) -> dict[str, Any]:
    """Finish the study in the folder: -> what its study.json holds. Raises ValueError, also without the extra."""
    try:
        from lightnorm_torch.study.study import Study
    except ModuleNotFoundError as error:
        raise ValueError(
            f"lightnorm study needs PyTorch, scikit-learn and matplotlib, pip install 'lightnorm[study]': {error}"
        ) from None
    study = Study(folder, seeds=seeds, quick=quick)
    with steps(len(study.missing) + 1, quiet=quiet) as step:
        content: dict[str, Any] = study.run(step)
    return content


def study_rows(content: dict[str, Any]) -> tuple[Sequence[str], list[list[str]]]:
    """Header and rows of the main comparison."""
    main = next(section for section in content["sections"] if section["name"] == "main")
    compared = [row for row in main["rows"] if "difference" in row["cells"][0]]
    header = ["", *(row["label"] for row in compared)]
    rows = []
    for cells in zip(*(row["cells"] for row in compared), strict=True):
        where = cells[0]["training"]
        texts = ["{mean:+.2f} [{low:+.2f}, {high:+.2f}]".format(**cell["difference"]) for cell in cells]
        rows.append([f"{where['data']}, {where['network']}", *texts])
    return header, rows
