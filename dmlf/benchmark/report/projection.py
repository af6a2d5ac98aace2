"""Beyond this machine: what the protocols would reach on other networks and at other sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dmlf.benchmark.plots.projected import PROJECTION_FIGURES
from dmlf.benchmark.projection.document import Projection, read_projection
from dmlf.benchmark.projection.rows import Row, contestant_label
from dmlf.benchmark.report.markdown import (
    bullets,
    code,
    count,
    details,
    escape,
    listing,
    percent,
    table,
)
from dmlf.benchmark.report.material import Material
from dmlf.benchmark.statistics import significant
from dmlf.errors import MetricsError

HEADING = "## Projection"
_WHAT = (
    "No run, but a model: the very protocol code that trains here, driven in virtual time under a "
    "model of links, ports and computation; beyond the sizes that can be simulated, closed forms "
    "that were held against the simulator. The last column of the table says which. What is "
    "modelled and what is not: `docs/projection.md`."
)
_CAPTIONS = {
    "projected_efficiency": (
        "Efficiency over world size. Weak: every rank computes as long as one rank alone; strong: "
        "the ranks share the work of one. Large marks are simulated, small ones from closed "
        "forms; where one contestant overtakes another, the figure says what the other waits for: "
        "the resource that would shorten the step most if it were twice as good. Servers beyond "
        "the number of buckets own none, so that more of them change nothing."
    ),
    "projected_sensitivity": (
        "How the efficiency moves when computation varies from rank to rank, and with the largest "
        "size of a bucket."
    ),
}


def loaded(path: str | Path | None) -> dict[str, Any]:
    """The parts of a Material that a projection's file gives, or why there is none."""
    if path is None:
        return {}
    try:
        return {"projection": read_projection(Path(path))}
    except (MetricsError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return {"projection_problem": f"{path}: {reason}"}


def section(material: Material) -> Iterator[str]:
    """The section; it says so where there is no projection."""
    yield HEADING
    projection = material.projection
    if projection is None:
        yield (
            "There is no projection to show: "
            f"{escape(material.projection_problem)}. Make it: `snakemake results/projection.json`, "
            "or `dmlf project --help`."
        )
        return
    yield _WHAT
    yield _request(projection)
    for name, title in PROJECTION_FIGURES.items():
        yield f"![{title}]({material.places.link}/{name}.svg)"
        yield f"*{_CAPTIONS[name]}*"
    yield "**What the model says**\n\n" + bullets(_statements(projection.rows))
    yield details(f"{len(projection.rows)} projected points", _table(projection.rows))
    yield "Rebuild it: `snakemake results/projection.json`."


def _request(projection: Projection) -> str:
    request = projection.request
    return (
        f"Assumed: links {code(str(request.get('link')))}, "
        f"{request.get('samples_per_rank')} samples per rank and step."
    )


def _statements(rows: Sequence[Row]) -> list[str]:
    """What is said of every contestant and scaling; the same of several is said once."""
    said: dict[str, dict[str, list[str]]] = {}
    for scaling in ("weak", "strong"):
        own = [row for row in rows if row.scaling == scaling]
        for name in dict.fromkeys(_label(row) for row in own):
            line = sorted((r for r in own if _label(r) == name), key=lambda r: r.world_size)
            sentence = _sentence(line)
            if sentence is not None:
                said.setdefault(sentence, {}).setdefault(name, []).append(scaling)
    lines = []
    for sentence, names in said.items():
        subjects = [f"{code(name)} ({listing(own)} scaling)" for name, own in names.items()]
        lines.append(f"{'; '.join(subjects)}: {sentence}.")
    return lines or ["No contestant falls below 80 % efficiency at the sizes asked for."]


def _sentence(line: Sequence[Row]) -> str | None:
    """Up to where one contestant, by world size, is efficient; None where it is at every size."""
    kept = [row for row in line if row.efficiency >= 0.8]
    if not kept:
        return (
            f"less than 80 % efficient at every size: {percent(line[0].efficiency)} at "
            f"{count(line[0].world_size, 'rank')}, where {_doubled(line[0])}"
        )
    if kept[-1] is line[-1]:
        return None
    following = line[line.index(kept[-1]) + 1]
    return (
        f"at least 80 % efficient up to {kept[-1].world_size:,} ranks; at "
        f"{following.world_size:,} it is {100 * following.efficiency:.1f} %, where "
        f"{_doubled(following)}"
    )


def _doubled(row: Row) -> str:
    """What the bottleneck means: the resource that would help most if it were twice as good."""
    gain = percent(row.bottleneck_gain)
    return f"{row.bottleneck} twice as good would take {gain} off the step, the most of all"


def _label(row: Row) -> str:
    return contestant_label(row.algorithm, row.num_servers)


def _table(rows: Sequence[Row]) -> str:
    header = (
        "scaling",
        "contestant",
        "ranks",
        "samples/s",
        "efficiency",
        "exposed communication (ms)",
        "waits for",
        "by",
    )
    cells = [
        [
            row.scaling,
            code(_label(row)),
            f"{row.world_size:,}",
            significant(row.throughput_samples_per_s),
            percent(row.efficiency),
            significant(1e3 * row.exposed_communication_s),
            row.bottleneck,
            row.method,
        ]
        for row in rows
    ]
    return table(header, cells, right=(2, 3, 4, 5))
