"""Bandwidths and ratios, worked out by hand."""

from __future__ import annotations

import pytest

from dmlf.benchmark.collective.summary import contestants, points, size_text
from dmlf.benchmark.collective.table import render
from tests.benchmark.collective.records import TIMES, collectives, record


def test_bandwidths_are_those_of_nccl_tests() -> None:
    (two,) = [
        point
        for point in points(collectives(), 2)
        if point.cell.contestant == "ring-shm" and point.cell.size_bytes == 1 << 20
    ]
    assert two.algbw == pytest.approx((1 << 20) / 1e-3)
    assert two.busbw.median == pytest.approx(two.algbw)
    (four,) = [
        point
        for point in points(collectives(), 4)
        if point.cell.contestant == "ring-shm" and point.cell.size_bytes == 1 << 20
    ]
    assert four.algbw == pytest.approx((1 << 20) / 2e-3)
    assert four.busbw.median == pytest.approx(1.5 * four.algbw)
    assert four.busbw.low is not None
    assert four.busbw.high is not None
    assert four.busbw.low <= four.busbw.median <= four.busbw.high


def test_ratios_are_taken_round_by_round() -> None:
    # The machine slows down threefold in the middle; everybody's ratio stays what it is.
    drift = [1.0, 1.0, 3.0, 3.0, 3.0]
    times = {name: [m * d for m, d in zip([2.0] * 5, drift, strict=True)] for name in TIMES}
    times["ring-shm"] = drift
    point = next(p for p in points(collectives(times), 2) if p.cell.contestant == "ring-shm")
    for ratio in (point.speedups["gloo"], point.speedups["openmpi"], point.limit_share):
        assert ratio is not None
        assert (ratio.low, ratio.median, ratio.high) == pytest.approx((2.0, 2.0, 2.0))
    assert point.call_s.low != pytest.approx(point.call_s.high)


def test_a_peer_is_not_compared_with_itself() -> None:
    found = {point.cell.contestant: point for point in points(collectives(), 2)}
    assert set(found["gloo"].speedups) == {"openmpi"}
    assert found["limit"].speedups == {}
    assert found["limit"].limit_share is None


def test_order_and_crowding() -> None:
    found = points(collectives(), 2)
    order = ["parameter_server-shm", "ring-shm", "gloo", "openmpi", "limit"]
    assert contestants(found) == order
    crowded = {point.cell.contestant for point in found if point.oversubscribed}
    assert crowded == {"parameter_server-shm"}
    assert all(point.oversubscribed for point in points(collectives(), 4))
    assert not any(point.oversubscribed for point in points(collectives(cores=8), 4))


@pytest.mark.parametrize(
    ("size", "text"),
    [(20, "20 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (65536, "64 KiB"), (1 << 26, "64 MiB")],
)
def test_sizes_are_read_as_people_say_them(size: int, text: str) -> None:
    assert size_text(size) == text


def test_the_terminals_table() -> None:
    text = render(collectives())
    line = next(line for line in text.splitlines() if line.startswith("1 MiB  ring-shm"))
    assert "1.00" in line
    assert "4.00 [3.73, 4.33]" in line
    assert line.endswith("25 %")
    assert "world size 4, 5 rounds, oversubscribed: 2 cores" in text
    times = {name: TIMES[name] for name in ("ring-shm", "openmpi", "limit")}
    shown = render(collectives(times, {"gloo": "torch is not installed"}))
    assert "skipped at world size 2: gloo: torch is not installed" in shown
    assert "x gloo" not in shown
    assert record(times, {"gloo": "no"})["skipped"]
