"""Who takes a turn when: rounds over all sizes, and every sample at its own point."""

from __future__ import annotations

from dmlf.benchmark.collective.config import CollectiveConfig
from dmlf.benchmark.collective.measure import _measure_all_sizes

CONFIG = CollectiveConfig(
    strategies=("ring-shm",), peers=(), world_sizes=(2,), sizes=(4, 400, 40), rounds=3, round_s=0.01
)


def test_a_round_visits_every_size_and_each_sample_finds_its_point() -> None:
    turns: list[tuple[str, int, int]] = []

    def call(name: str, numel: int, calls: int) -> float:
        """Seconds that tell contestants and sizes apart."""
        turns.append((name, numel, calls))
        return calls * numel * (1e-5 if name == "fast" else 2e-5)

    cells = _measure_all_sizes(CONFIG, 2, {"fast": 2, "slow": 3}, call)
    measured = turns[-len(CONFIG.sizes) * CONFIG.rounds * 2 :]
    sizes = [numel for _, numel, _ in measured]
    assert sizes == [1, 1, 100, 100, 10, 10] * CONFIG.rounds
    for start in range(0, len(measured), 2):
        assert {name for name, _, _ in measured[start : start + 2]} == {"fast", "slow"}
    orders = {
        tuple(name for name, _, _ in measured[start : start + 2]) for start in range(0, 18, 2)
    }
    assert len(orders) == 2  # shuffled anew
    expected = [(size, name) for size in CONFIG.sizes for name in ("fast", "slow")]
    assert [(cell.size_bytes, cell.contestant) for cell in cells] == expected
    for cell in cells:
        per_element = 1e-5 if cell.contestant == "fast" else 2e-5
        assert cell.processes == (2 if cell.contestant == "fast" else 3)
        assert len(cell.call_s) == CONFIG.rounds
        for call_s in cell.call_s:
            assert abs(call_s / (cell.size_bytes // 4 * per_element) - 1) < 1e-9
        assert cell.calls == max(1, round(0.01 / (cell.size_bytes // 4 * per_element)))
