"""The report's page: self-contained, complete, and clear about what is missing."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from lightnorm_flow.figures import THEME, scatter, treemap  # noqa: E402
from lightnorm_flow.page import DARK, read_results, write_page  # noqa: E402

RESULT: dict[str, Any] = {
    "name": "tiny", "hash": "0123abcd", "format": "bfp4_e4m3", "lanes": 4, "data": "data/digits", "step_cycles": 1234,
    "config": {"implementation": {"passes": ["train", "backward"]}}, "tools": {"yosys": "0.70"},
    "simulate": [
        {"mode": mode, "bit_exact": True, "elements": 100, "cycles": 60, "latency": 9, "beats_per_cycle": 1.0,
         "bits_per_element": 12.5, "snr_db": 23.7, "arithmetic_snr_db": 27.8,
         "errors": {"limit": 0.1, "end_to_end": [1, 5, 20, 4, 0], "arithmetic": [0, 7, 21, 2, 0]}}
        for mode in ("train", "backward")
    ],
    "synth": [{"target": "a.lib", "tool": "yosys 0.70", "cells": 10, "logic_area_um2": 4000, "buffer_bits": 64,
               "logic_area_per_lane_um2": 1000.0, "stage_unit": "logic_area_um2",
               "stages": {"reduce": 2000.0, "apply": 1500.0, "pack": 400.0, "top": 100.0, "buffer": 0}}],
    "traffic": [
        {"machine": machine, "mode": mode, "passes": passes, "bits": {"x": bits * passes, "y": bits}}
        for mode in ("train", "backward") for passes in (1, 2) for machine, bits in (("LightNorm", 6.0), ("FP32", 32.0))
    ],
}  # fmt: skip


def design(name: str, area: float, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "hash": name, "statistic": "range", "format": "f", "lanes": 4, "target": "a.lib",
        "size_unit": "logic_area_um2", "logic_area_um2": 4 * area, "fmax_mhz": None, "snr_db": 20.0 + area / 1000,
        "energy_pj_per_element": {"forward": None, "backward": None}, "snr_backward_db": 20.0,
        "memory_pj_per_element": {"forward": None, "backward": None},
        "logic_area_per_lane_um2": area, "clocked_area_per_lane_um2": None, "clock_ns": None,
        "bits_per_element": {"forward": 12.0, "backward": 17.0}, "missing": {}, "error": None,
        "stages": {"reduce": 3 * area, "pack": area}, "pareto": {"size_snr": True, "size_bits": False}, **more,
    }  # fmt: skip


COMPARE = [
    design("l2-fp32", 9000, statistic="l2", energy_pj_per_element={"forward": 33.25, "backward": 44.0}),
    design("bfp16", 1000, hash="0123abcd"),
    design("bfp<4>", 0, error="no\nmore"),
]
EXPLORE = {"designs": [design("bfp4_e5m4", 1000), design("bfp8_e5m4", 900)], "refused": []}
COST = {"cycles": 10, "passes": 1, "utilization": 0.5, "buffer_need_bits": 8192, "bits_moved": 8e6, "traffic_uj": 1.0,
        "logic_uj": None}  # fmt: skip
BOTH = {"lightnorm": COST, "fp32": COST}
PLAN = {
    "title": "net, batch 1", "hash": "0123abcd", "directions": ["forward"], "total": {"forward": BOTH}, "lanes": 4,
    "buffer_elements": 64,
    "dram_pj_per_bit": 20.0, "energy_missing": "it is secret",
    "layers": [{"name": "conv1", "channels": 3, "spatial": [4, 4], "forward": BOTH}],
}  # fmt: skip


SPENT = {"internal": 1.0, "switching": 0.75, "leakage": 0.25, "total": 2.0}
ENERGY = {
    "hash": "0123abcd", "target": "a.lib", "voltage": 1.8,
    "runs": {mode: {"logic_pj_per_element": SPENT, "stages": {"apply": {"total": 1.5}, "reduce": {"total": 0.5}}}
             for mode in ("train", "backward")},
}  # fmt: skip
PNR = {
    "part": "LFE5U", "fmax_mhz": 121.25,
    "critical_path": {"ns": 8.25, "routing_ns": 5.0, "levels": 12, "from": "a.b", "to": "c", "through": ["d", "e"]},
}  # fmt: skip
TIMING = {"target": "a.lib", "fmax_mhz": 251.44, "critical_path": {"ns": 3.98, "from": "reduce.sum", "to": "pack.up"}}


class Page(HTMLParser):
    """Tags, references, identifiers and text of a page."""

    VOID = {"meta", "use"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "xlink:href", "srcset") or "url(" in (value or ""):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


ALL: dict[str, Any] = {
    "compare": COMPARE, "explore": EXPLORE, "plan": PLAN, "energy": ENERGY, "pnr": PNR, "timing": TIMING,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything in it."""
    made = tmp_path_factory.mktemp("page")
    write_page(RESULT, made, **ALL)
    return made


def read(folder: Path) -> Page:
    return Page((folder / "report.html").read_text())


def test_page_stands_alone(folder: Path) -> None:
    made = read(folder)
    assert not made.open and not {"script", "link", "img", "iframe"} & set(made.tags)
    inside = {f"#{name}" for name in made.ids}
    for reference in made.references:
        assert set(re.findall(r"#[^)\"']+", reference)) <= inside and ":" not in reference.split("url(")[0], reference
    assert len(made.ids) == len(set(made.ids)), "figures share an identifier"
    assert "@import" not in (folder / "report.html").read_text()


def test_page_shows_everything(folder: Path) -> None:
    made = read(folder)
    for text in ("1,000", "23.7", "12.5", "1,234 cycles", "l2-fp32", "33.2", "9.00", "bfp8", "9.00, 25% short", "6,750",
                 "250 too many for 12 times less than l2-fp32 (750)",
                 "Failed: bfp<4> on a.lib: no", "conv1", "as it is secret", "121.2 MHz", "251.4 MHz",
                 "reduce.sum", "d, e", "at 1.8 V", "dB the arithmetic alone"):  # fmt: skip
        assert text in made.text, text
    figures = {path.name for path in (folder / "figures").iterdir()}
    names = ("stages_0", "ladder_0", "ladder_stages_0", "energy_forward_0", "energy_backward_0", "bits_forward_0",
             "bits_backward_0", "front_snr_0", "front_bits_0",
             "errors_train", "errors_backward", "traffic_train", "traffic_backward", "plan",
             "energy_kinds", "energy_stages")  # fmt: skip
    assert figures == {f"{name}.{kind}" for name in names for kind in ("svg", "pdf")}
    assert made.tags.count("svg") == len(names)


def test_every_colour_follows_the_theme(folder: Path) -> None:
    assert THEME.keys() == DARK.keys()
    svgs = re.findall(r"<svg.*?</svg>", (folder / "report.html").read_text(), re.DOTALL)
    for svg in svgs:
        assert not re.findall(r"#[0-9a-f]{6}\b", svg), svg[:200]
        assert set(re.findall(r"var\(--(\w+)\)", svg)) <= THEME.keys()
    assert "var(" not in (folder / "figures" / "ladder_0.svg").read_text()


def test_the_same_data_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_page(RESULT, tmp_path, **ALL)
    made, again = ({path.name: path.read_bytes() for path in each.rglob("*.*")} for each in (folder, tmp_path))
    assert made == again


def test_missing_sections_name_their_command(tmp_path: Path) -> None:
    other = {"hash": "of another configuration"}
    write_page(RESULT | {"simulate": RESULT["simulate"][:1]}, tmp_path, plan=PLAN | other, energy=ENERGY | other)
    text = read(tmp_path).text
    for command in ("compare --target LIBRARY.lib", "explore --", "plan --model", "pnr --target", "energy --target"):
        assert f"Run lightnorm {command}" in text


def rectangles(sizes: dict[str, float]) -> list[tuple[float, float, float, float]]:
    axes = treemap("t", sizes, "um^2").figure.axes[0]
    filled = [patch for patch in axes.patches if patch.get_fill()]
    return [(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in filled]


@pytest.mark.parametrize("sizes", [[5], [1, 1], [50, 30, 9, 8, 2, 1], list(range(1, 40)), [1000, 1, 1, 1]])
def test_treemap_is_a_partition(sizes: list[float]) -> None:
    boxes = rectangles({f"s{index}": float(size) for index, size in enumerate(sizes)})
    areas = [width * height / 1.5 * sum(sizes) for _, _, width, height in boxes]
    assert areas == pytest.approx(sorted(sizes, reverse=True))
    for index, (x, y, width, height) in enumerate(boxes):
        assert x >= -1e-9 and y >= -1e-9 and x + width <= 1.5 + 1e-9 and y + height <= 1 + 1e-9
        for a, b, c, d in boxes[:index]:
            overlap = min(x + width, a + c) - max(x, a), min(y + height, b + d) - max(y, b)
            assert min(overlap) < 1e-9


def test_figures_are_xml() -> None:
    point = {"x": 1.0, "y": 2.0, "label": "a & b", "front": True, "color": "blue"}
    ElementTree.fromstring(scatter("s", "x < y & \"z\"", [point], "x", "y", rising=True).svg())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read: "),
        ("[]", "is not what this version's lightnorm compare writes"),
        ("3", "is not what this version's lightnorm compare writes"),
        ('[{"target": 1, "error": null}, {}]', "is not what this version's lightnorm compare writes"),
        ('{"target": 1, "designs": [{}]}', "is not what this version's lightnorm compare writes"),
    ],
)
def test_results_of_another_kind(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "compare.json"
    assert read_results("compare", path, ["target"]) is None
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        read_results("compare", path, ["target"])
    assert str(caught.value).startswith(f"{path} {message}")


@pytest.mark.parametrize(
    "good", [{"target": 1}, {"target": 1, "designs": [{"error": None}]}, [{"target": 1, "error": "no"}] * 2]
)
def test_results(tmp_path: Path, good: Any) -> None:
    path = tmp_path / "compare.json"
    path.write_text(json.dumps(good))
    assert read_results("compare", path, ["target"]) == good
