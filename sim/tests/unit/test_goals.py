"""LightNorm's goals beside what was measured."""

from typing import Any

from lightnorm_flow.goals import goal_notes, goal_table, sizes_by_stage, stage_table


def design(name: str, area: float | None, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "lanes": 2, "logic_area_per_lane_um2": area, "clocked_area_per_lane_um2": None,
        "energy_pj_per_element": {"forward": None, "backward": None}, "buffer_bits": 100,
        "memory_pj_per_element": {"forward": None, "backward": None},
        "bits_per_element": {"forward": 12.6, "backward": 18.9}, "stages": {}, **more,
    }  # fmt: skip


def energy(forward: float, backward: float, memory: float) -> dict[str, Any]:
    return {
        "energy_pj_per_element": {"forward": forward, "backward": backward},
        "memory_pj_per_element": {"forward": memory, "backward": 2 * memory},
    }


DESIGNS = [
    design("l2-fp32", 12_000, clocked_area_per_lane_um2=15_000.0, buffer_bits=500, **energy(240, 360, 20),
           stages={"reduce": 14_000.0, "apply": 9_900.0, "baseline": 100.0}),
    design("range-fp16", 5_000),
    design("bfp16", 1_000, **energy(20, 40, 4), stages={"apply": 1_500.0, "unpack": 400.0, "lightnorm": 100.0}),
    design("bfp16-deep", 1_250, clocked_area_per_lane_um2=1_500.0,
           stages={"apply": 1_500.0, "unpack": 900.0, "lightnorm": 100.0}),
]  # fmt: skip


def test_goals() -> None:
    title, header, rows = goal_table(DESIGNS)
    assert (title, header) == ("Goals", ["", "goal", "bfp16", "bfp16-deep"])
    assert rows == [
        ["logic area per lane, l2-fp32 /", "at least 12", "12.00", "9.60, 20% short"],
        ["logic area per lane, mapped for the clock, l2-fp32 /", "at least 12", "", "10.00, 17% short"],
        ["energy per element, forward, l2-fp32 /", "at least 12", "12.00", ""],
        ["energy per element, backward, l2-fp32 /", "at least 12", "9.00, 25% short", ""],
        ["energy with memories, forward, l2-fp32 /", "", "10.83", ""],
        ["energy with memories, backward, l2-fp32 /", "", "8.33", ""],
        ["bits of memory, l2-fp32 /", "", "5.00", "5.00"],
        ["bits per element, forward", "at most 13", "12.6", "12.6"],
        ["bits per element, backward", "at most 18", "18.9, 5% over", "18.9, 5% over"],
    ]
    notes = goal_notes([*DESIGNS, design("l2-bf16", 3_000)])
    assert notes == [
        "bfp16 has 1,000 um^2 per lane, 250 too many for 4 times less than l2-bf16 (750).",
        "bfp16-deep has 1,250 um^2 per lane, 250 too many for 12 times less than l2-fp32 (1,000).",
        "bfp16-deep has 1,250 um^2 per lane, 500 too many for 4 times less than l2-bf16 (750).",
    ]


def test_where_the_area_goes() -> None:
    assert sizes_by_stage(DESIGNS)["l2-fp32"] == {"reduce": 7_000, "apply": 4_950, "top": 50}
    _, header, rows = stage_table(DESIGNS)
    assert header == ["stage, um^2 per lane", "l2-fp32", "bfp16", "bfp16-deep"]
    assert rows == [
        ["reduce", "7,000", "", ""],
        ["apply", "4,950", "750", "750"],
        ["unpack", "", "200", "450"],
        ["top", "50", "50", "50"],
        ["all", "12,000", "1,000", "1,250"],
    ]


def test_without_areas_or_ours() -> None:
    assert goal_table([design("l2-fp32", 1)])[2] == [] == stage_table([design("range-fp16", 1)])[2]
    fpga = [design(name, None) for name in ("l2-fp32", "bfp16")]
    assert [row[0] for row in goal_table(fpga)[2]] == [
        "bits of memory, l2-fp32 /", "bits per element, forward", "bits per element, backward",
    ]  # fmt: skip
    assert goal_notes(fpga) == [] == stage_table(fpga)[2]
