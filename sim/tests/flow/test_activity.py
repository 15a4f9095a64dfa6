"""Transitions in waves, counted by hand and by a plain count of random waves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lightnorm_flow import activity
from lightnorm_flow.activity import read_activity

HEADER = """\
$version test $end
$timescale 1ps $end
 $scope module bench $end
  $var wire 4 % count [3:0] $end
  $scope module dut $end
   $var wire 1 ! a $end
   $var wire 1 "# b $end
   $var wire 3 $ bus [2:0] $end
   $var wire 1 ! alias $end
   $scope module inner $end
    $var wire 1 & c $end
   $upscope $end
  $upscope $end
 $upscope $end
$enddefinitions $end
"""


def write(folder: Path, text: str, header: str = HEADER) -> Path:
    path = folder / "waves.vcd"
    path.write_text(header + text)
    return path


def test_counts_by_hand(tmp_path: Path) -> None:
    waves = write(tmp_path, """\
#0
$dumpvars
b0000 %
0!
1"#
b001 $
0&
$end
#10
b0001 %
1!
b010 $
#15
0!
1&
#20
1!
0"#
b0010 %
#30
b0011 %
0!
b111 $
""")
    found = read_activity(waves, "bench.dut", clock="bench.count", window=(1, 3))
    assert found.cycles == 2
    # from 10 on, before 30
    assert {name: counts.tolist() for name, counts in found.toggles.items()} == {
        "a": [3], "b": [1], "bus": [1, 1, 0], "alias": [3],
    }  # fmt: skip
    assert {name: shares.tolist() for name, shares in found.high.items()} == {
        "a": [0.75], "b": [0.5], "bus": [0, 1, 0], "alias": [0.75],
    }  # fmt: skip
    assert read_activity(waves, "bench.dut.inner", clock="bench.count", window=(0, 2)).toggles["c"].tolist() == [2]


@pytest.mark.parametrize("chunk", [7, 100, 1 << 20])
def test_random_waves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """In pieces of any size, and with codes of one to four characters."""
    monkeypatch.setattr(activity, "CHUNK", chunk)
    rng = np.random.default_rng(chunk)
    codes = ["".join(chr(33 + letter) for letter in rng.integers(0, 94, rng.integers(1, 5))) for _ in range(60)]
    codes = sorted(set(codes) - {"%"})
    header = "$scope module dut $end\n$var wire 8 % count $end\n"
    header += "".join(f"$var wire 1 {code} s{index} $end\n" for index, code in enumerate(codes))
    values, lines, toggles, high = [0] * len(codes), [], [0] * len(codes), [0] * len(codes)
    for cycle in range(40):
        lines += [f"#{cycle * 5}", f"b{cycle:b} %"]
        for index, code in enumerate(codes):
            if cycle == 0 or rng.integers(0, 3) == 0:
                values[index] ^= 1
                lines.append(f"{values[index]}{code}")
                toggles[index] += 4 <= cycle < 31
            high[index] += values[index] * (4 <= cycle < 31)
    waves = write(tmp_path, "\n".join(lines) + "\n", header + "$upscope $end\n$enddefinitions $end\n")
    found = read_activity(waves, "dut", clock="dut.count", window=(4, 31))
    assert [int(found.toggles[f"s{index}"][0]) for index in range(len(codes))] == toggles
    shares = [found.high[f"s{index}"][0] for index in range(len(codes))]
    np.testing.assert_allclose(shares, np.array(high) / 27, atol=1e-12)


@pytest.mark.parametrize(
    ("scope", "clock", "window", "message"),
    [
        ("bench.dut", "bench.time", (0, 1), "has no signal bench.time"),
        ("bench.top", "bench.count", (0, 1), "has no signals in bench.top"),
        ("bench.dut", "bench.count", (0, 9), "bench.count does not take the values 0 and 9"),
    ],
)
def test_missing(tmp_path: Path, scope: str, clock: str, window: tuple[int, int], message: str) -> None:
    waves = write(tmp_path, "#0\nb0000 %\n0!\n#10\nb0001 %\n")
    with pytest.raises(ValueError, match=message):
        read_activity(waves, scope, clock=clock, window=window)
