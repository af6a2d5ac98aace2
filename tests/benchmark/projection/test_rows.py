"""Projected rows: by which method, what a step waits for, and a file that can be read again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dmlf.benchmark.plots.projected import PROJECTION_FIGURES, draw_projection
from dmlf.benchmark.plots.projected_efficiency import crossings, label
from dmlf.benchmark.projection import (
    Projection,
    Request,
    Row,
    contestants,
    make_projection,
    project,
    read_projection,
    sensitivities,
    write_projection,
)
from dmlf.benchmark.projection import rows as module
from dmlf.benchmark.projection.bottleneck import bottleneck
from dmlf.benchmark.projection.model import even_tensors, make_workload
from dmlf.errors import ConfigError, MetricsError
from dmlf.protocol import Algorithm, registry
from dmlf.simulation.timed import Cluster, Link, Straggling, Workload
from dmlf.simulation.timed.closed_forms import closed_form_step_s

CLUSTER = Cluster(
    port=Link(2e-5, 1.25e9), local=Link(1e-6, 1e10), overhead_s=3e-6, reduction_s_per_byte=1e-10
)


def workload_of(cap_bytes: int) -> Workload:
    tensors = even_tensors(1_000_000, cap_bytes)
    return make_workload(tensors, compute_s=0.02, cap_bytes=cap_bytes, overlap=True, exact=False)


REQUEST = Request(
    cluster=CLUSTER,
    workload=workload_of(1 << 20),
    contestants=contestants(["ring", "parameter_server"], [1, 4]),
    world_sizes=(1, 2, 8, 16, 20_000),
    samples_per_rank=32,
    simulate_up_to=8,
)


@pytest.fixture(scope="module")
def projection() -> Projection:
    rows = list(project(REQUEST))
    return make_projection(REQUEST, "ethernet-10g", rows, list(sensitivities(REQUEST, workload_of)))


def rows_of(projection: Projection, **values: object) -> Iterator[Row]:
    for row in projection.rows:
        if all(getattr(row, key) == value for key, value in values.items()):
            yield row


def test_every_row_says_where_it_comes_from(projection: Projection) -> None:
    assert len(projection.rows) == 2 * 3 * 5
    for row in projection.rows:
        assert row.method == ("simulated" if row.world_size <= 8 else "closed form")


def test_simulated_and_closed_rows_fit_together() -> None:
    """The same points by both methods."""
    closed = project(replace(REQUEST, simulate_up_to=0, world_sizes=(2, 8)))
    simulated = project(replace(REQUEST, world_sizes=(2, 8)))
    for one, other in zip(closed, simulated, strict=True):
        assert (one.method, other.method) == ("closed form", "simulated")
        assert one.step_s == pytest.approx(other.step_s, rel=0.03)


def test_a_step_is_its_parts(projection: Projection) -> None:
    for row in projection.rows:
        parts = row.compute_s + row.straggling_s + row.exposed_communication_s
        assert parts == pytest.approx(row.step_s)
        assert row.straggling_s == 0
        assert 0 < row.efficiency <= 1 + 1e-12


def test_weak_and_strong_scaling_by_hand(projection: Projection) -> None:
    (weak,) = rows_of(projection, algorithm="ring", world_size=8, scaling="weak")
    (strong,) = rows_of(projection, algorithm="ring", world_size=8, scaling="strong")
    assert weak.compute_s == 0.02
    assert strong.compute_s == pytest.approx(0.02 / 8)
    assert weak.throughput_samples_per_s == pytest.approx(8 * 32 / weak.step_s)
    assert strong.throughput_samples_per_s == pytest.approx(32 / strong.step_s)
    assert weak.efficiency == pytest.approx(0.02 / weak.step_s)
    assert strong.efficiency == pytest.approx(0.02 / (8 * strong.step_s))


def test_straggling_is_told_apart_from_communication() -> None:
    slow = Straggling(slow_ranks=1, slow_factor=3.0)
    request = replace(REQUEST, straggling=slow, world_sizes=(4, 16), scalings=("weak",))
    for row in project(request):
        assert row.straggling_s == pytest.approx(0.04)
        assert row.step_s >= 0.06


@pytest.mark.parametrize(
    ("resource", "cluster", "algorithm", "world_size", "straggling"),
    [
        ("compute", CLUSTER, "ring", 2, Straggling()),
        ("straggling", CLUSTER, "ring", 2, Straggling(slow_ranks=1, slow_factor=9.0)),
        ("latency", replace(CLUSTER, port=Link(0.1, 1e9)), "ring", 8, Straggling()),
        ("message overhead", replace(CLUSTER, overhead_s=0.1), "ring", 8, Straggling()),
        ("port bandwidth", replace(CLUSTER, port=Link(1e-6, 1e6)), "ring", 8, Straggling()),
        (
            "server port",
            replace(CLUSTER, port=Link(1e-6, 1e6)),
            "parameter_server",
            8,
            Straggling(),
        ),
        ("reduction", replace(CLUSTER, reduction_s_per_byte=1e-5), "ring", 8, Straggling()),
        (
            "link within hosts",
            replace(CLUSTER, local=Link(1e-6, 1e5), ranks_per_host=8),
            "ring",
            8,
            Straggling(),
        ),
    ],
)  # fmt: skip
def test_the_bottleneck_is_what_was_made_scarce(
    resource: str, cluster: Cluster, algorithm: str, world_size: int, straggling: Straggling
) -> None:
    def step_s(on: Cluster, what: Workload, with_straggling: Straggling) -> float:
        return closed_form_step_s(algorithm, on, what, world_size, 1, with_straggling)

    found = bottleneck(step_s, cluster, workload_of(1 << 20), straggling)
    assert found.resource == resource
    assert 0.2 < found.gain < 0.6


def test_a_ring_of_too_many_messages_is_not_simulated() -> None:
    request = replace(REQUEST, max_messages=100, scalings=("weak",))
    methods = {row.world_size: row.method for row in project(request) if row.algorithm == "ring"}
    assert methods[2] == "simulated"
    assert methods[8] == "closed form"


def test_an_algorithm_without_closed_form_is_simulated_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ring = registry()["ring"]
    own = Algorithm("own", ring.worker_step, None, ring.fold, ring.traffic)
    monkeypatch.setattr(module, "registry", lambda: {"own": own})
    request = replace(REQUEST, contestants=contestants(["own"], [1]), world_sizes=(4,))
    rows = list(project(request))
    assert [row.method for row in rows] == ["simulated"] * 2
    assert rows[0].bottleneck == "compute"
    with pytest.raises(ConfigError, match="no closed form"):
        list(project(replace(request, world_sizes=(16,))))


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: replace(REQUEST, world_sizes=()), "world_sizes"),
        (lambda: replace(REQUEST, world_sizes=(0,)), "world_sizes"),
        (lambda: replace(REQUEST, world_sizes=(100_001,)), "world_sizes"),
        (lambda: replace(REQUEST, simulate_up_to=1025), "simulate_up_to"),
        (lambda: replace(REQUEST, samples_per_rank=0), "samples_per_rank"),
        (lambda: contestants(["rink"], [1]), "algorithms"),
        (lambda: contestants(["ring"], [0]), "num_servers"),
    ],
)
def test_a_bad_request_is_named(make: Any, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.key == key


def test_servers_count_only_where_there_are_any() -> None:
    found = contestants(["ring", "ring", "parameter_server"], [1, 4, 4])
    assert [(c.algorithm, c.num_servers) for c in found] == [
        ("ring", 0), ("parameter_server", 1), ("parameter_server", 4),
    ]  # fmt: skip


def test_a_projection_can_be_read_again(projection: Projection, tmp_path: Path) -> None:
    path = tmp_path / "projection.json"
    write_projection(path, projection)
    found = read_projection(path)
    assert found.rows == projection.rows
    assert found.sensitivities == projection.sensitivities
    assert found.request["link"] == "ethernet-10g"
    assert found.request["workload"]["compute_s"] == 0.02


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda value: value.update(kind="metrics"), "kind"),
        (lambda value: value.update(schema_version=99), "schema_version"),
        (lambda value: value.pop("request"), "request"),
        (lambda value: value.update(rows=3), "rows"),
        (lambda value: value["rows"][0].pop("step_s"), "rows[0]"),
        (lambda value: value["rows"][2].update(step_s="fast"), "rows[2].step_s"),
        (lambda value: value["rows"][2].update(world_size=True), "rows[2].world_size"),
        (lambda value: value["sensitivities"].insert(0, 7), "sensitivities[0]"),
    ],
)
def test_a_file_that_is_no_projection_is_refused(
    projection: Projection, tmp_path: Path, change: Any, field: str
) -> None:
    path = tmp_path / "projection.json"
    write_projection(path, projection)
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(MetricsError) as caught:
        read_projection(path)
    assert caught.value.field == field


def test_sensitivities_vary_one_thing(projection: Projection) -> None:
    points = projection.sensitivities
    assert {point.quantity for point in points} == {"straggling_sigma", "bucket_cap_bytes"}
    assert {point.world_size for point in points} == {16}
    calm = {
        p.algorithm: p.step_s for p in points if p.quantity == "straggling_sigma" and not p.value
    }
    rough = {p.algorithm: p.step_s for p in points if p.value == 0.4}
    assert all(rough[name] > calm[name] for name in calm)


def test_crossings_are_found_where_lines_cross(projection: Projection) -> None:
    (row,) = rows_of(projection, algorithm="ring", num_servers=0, world_size=2, scaling="weak")

    def line(name: str, *efficiencies: float) -> list[Row]:
        return [
            replace(row, algorithm=name, world_size=size, efficiency=value, bottleneck=name * 2)
            for size, value in zip((1, 10, 100), efficiencies, strict=True)
        ]

    lines = {"a": line("a", 1.0, 0.8, 0.2), "b": line("b", 0.6, 0.6, 0.4)}
    (crossing,) = crossings(lines)
    assert (crossing.winner, crossing.loser, crossing.waits_for) == ("b", "a", "aa")
    assert crossing.world_size == pytest.approx(10 * 10**0.5)
    assert crossing.efficiency == pytest.approx(0.5)
    nearly = {"a": line("a", 0.501, 0.8, 0.9), "b": line("b", 0.5, 0.801, 0.89)}
    assert crossings(nearly) == []
    assert label(row) == "ring"


@pytest.mark.parametrize("name", PROJECTION_FIGURES)
def test_figures_are_drawn_the_same_each_time(
    projection: Projection, tmp_path: Path, name: str
) -> None:
    first, second = tmp_path / "a" / f"{name}.svg", tmp_path / "b" / f"{name}.svg"
    for path in (first, second):
        draw_projection(name, projection, path)
    assert first.read_bytes() == second.read_bytes()
    assert PROJECTION_FIGURES[name] in first.read_text()
    assert first.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", PROJECTION_FIGURES)
def test_a_projection_of_nothing_says_so(name: str, tmp_path: Path) -> None:
    draw_projection(name, Projection({}, (), ()), tmp_path / "empty.svg")
    assert (tmp_path / "empty.png").stat().st_size > 0


def test_an_unknown_figure_is_refused(projection: Projection, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        draw_projection("throughput", projection, tmp_path / "x.svg")
    with pytest.raises(ConfigError):
        draw_projection("projected_efficiency", projection, tmp_path / "x.pdf")
