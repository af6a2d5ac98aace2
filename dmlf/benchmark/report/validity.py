"""How far the numbers can be trusted: repeats, noise, crowded cores, things that were mixed."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence

from dmlf.benchmark.cohorts import Cohort, Contestant, Point, mixtures
from dmlf.benchmark.noise import UNSTEADY, WIDE, Noise, noise
from dmlf.benchmark.report.counts import planned
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
from dmlf.benchmark.statistics import MIN_REPEATS_FOR_CLAIM
from dmlf.benchmark.table import RunRow
from dmlf.runtime.others import OTHERS_MATTER


def box_section(material: Material) -> Iterator[str]:
    """Three lines for readers who go no further."""
    yield "## How far to trust it"
    runs = material.table.runs
    verdicts = [verdict for cohort in material.cohorts for verdict in noise(cohort)]
    lines = [planned(runs)]
    if verdicts:
        lines.append(_points(verdicts))
    lines.append(f"{' '.join(_interference(runs))} Details: [Validity](#validity).".lstrip())
    yield bullets(lines)


def _points(verdicts: Sequence[Noise]) -> str:
    """What was noticed of how many points; only what was is named and explained."""
    noticed = Counter(word for verdict in verdicts for word in verdict.noticed)
    parts = [f"{word} ({number})" for word, number in noticed.most_common()]
    meaning = {
        "wide": f"wide is an interval of more than {percent(WIDE)} of the median",
        "unsteady": f"unsteady one of more than {percent(UNSTEADY)}",
    }
    explained = "".join(f"; {text}" for word, text in meaning.items() if noticed[word])
    return (
        f"Noticed of {count(len(verdicts), 'point')} (strategy, reduction and world size): "
        f"{listing(parts) or 'nothing'}{explained}."
    )


def section(material: Material) -> Iterator[str]:
    """How far the numbers can be trusted, all in all and point by point."""
    yield "## Validity"
    yield validity(material.table.runs, material.cohorts)
    rows = [_noise_row(cohort, verdict) for cohort in material.cohorts for verdict in noise(cohort)]
    if rows:
        header = (
            "task",
            "strategy",
            "world size",
            "runs with a speed",
            "contaminated",
            "interval / median",
            "others' CPU time, at most",
            "noticed",
            "excluded from",
        )
        summary = f"Noise, point by point: {count(len(rows), 'point')}"
        yield details(summary, table(header, rows, right=range(2, 7)))


def _noise_row(cohort: Cohort, verdict: Noise) -> list[str]:
    return [
        escape(cohort.label),
        code(str(verdict.contestant)),
        str(verdict.contestant.world_size),
        str(verdict.runs),
        str(verdict.contaminated),
        "" if verdict.spread is None else percent(verdict.spread),
        "" if verdict.others is None else percent(verdict.others),
        ", ".join(verdict.noticed),
        verdict.excluded_from,
    ]


def validity(runs: Sequence[RunRow], parts: Sequence[Cohort]) -> str:
    """What qualifies the numbers below it, as a list of findings."""
    points = [(cohort, point) for cohort in parts for point in cohort.points()]
    lines = [planned(runs)]
    lines.append(
        "Speeds are medians over runs, not over steps, and brackets hold 95 % bootstrap intervals "
        "of those medians. Two speeds are called different when the 95 % interval of their ratio "
        f"leaves out 1 and both have at least {MIN_REPEATS_FOR_CLAIM} runs; of comparisons where "
        "nothing differs, one in twenty to thirty is then called different by chance. A run's "
        "speed is the global batch over the median time of its full-size steps after warm-up; the "
        "slowest worker counts."
    )
    if points:
        lines += [_repeats(points), _spread(parts), _oversubscription(runs, points)]
    lines += _interference(runs)
    lines += _warnings(runs)
    lines += _mixed(runs)
    if any(run.phase_source == "calibrated" for run in runs):
        lines.append(
            "Stock `ddp` communicates inside the backward pass, where its time cannot be measured "
            "apart. Its communication is calibrated: what a step takes beyond the median of steps "
            "without synchronisation, which were timed before training. It is marked as such."
        )
    return bullets(lines)


def _repeats(points: Sequence[tuple[Cohort, Point]]) -> str:
    numbers = sorted({len(point.runs) for _, point in points})
    shown = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    text = f"Every point stands for {shown} checked run{'s' * (numbers[-1] != 1)}."
    if numbers[0] == 1:
        text += " A point with a single run has no interval."
    if numbers[0] < MIN_REPEATS_FOR_CLAIM:
        text += (
            f" Points with fewer than {MIN_REPEATS_FOR_CLAIM} are drawn, but nothing is claimed "
            "from them."
        )
    return text


def _spread(parts: Sequence[Cohort]) -> str:
    verdicts = [(cohort, verdict) for cohort in parts for verdict in noise(cohort)]
    if all(verdict.spread is None for _, verdict in verdicts):
        return "Noise cannot be judged: every point is a single run."
    wide = [
        f"{_named(cohort, verdict.contestant)} ({percent(verdict.spread)})"
        for cohort, verdict in verdicts
        if verdict.spread is not None and verdict.spread > WIDE
    ]
    if not wide:
        return f"Noise: no interval of a throughput is wider than {percent(WIDE)} of its median."
    return (
        f"Noise: the interval is wider than {percent(WIDE)} of the median throughput at "
        f"{count(len(wide), 'point')}: {listing(wide[:8])}{_more(wide[8:])}. Nothing is claimed "
        f"from a point whose interval is wider than {percent(UNSTEADY)}."
    )


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names)} more, in the table)" if names else ""


def _oversubscription(runs: Sequence[RunRow], points: Sequence[tuple[Cohort, Point]]) -> str:
    sizes: dict[str, list[str]] = {}
    for cohort, point in points:
        if point.oversubscribed:
            name = f"{escape(cohort.label)} {code(str(point.contestant))}"
            sizes.setdefault(name, []).append(str(point.contestant.world_size))
    crowded = [f"{name} at world size {listing(found)}" for name, found in sizes.items()]
    cores = sorted({run.affinity_cores for run in runs if run.affinity_cores is not None})
    have = f"{listing([str(number) for number in cores])} core{'s' * (cores != [1])}"
    if not crowded:
        return f"No point is oversubscribed: all processes fit the {have}."
    return (
        "Oversubscribed means that more processes want to compute than there are cores, so that "
        "they take turns. Such a run shows what happens on this machine, not what the algorithm "
        f"does where each process has a core of its own. With {have}, this holds for "
        f"{'; '.join(crowded)}. They are hollow or pale in the "
        "figures and take no part in the answer above. A parameter server has its servers as "
        "processes beside its workers: one unless its name says more."
    )


def _interference(runs: Sequence[RunRow]) -> list[str]:
    completed = [run for run in runs if run.status == "completed"]
    contaminated = [run for run in completed if run.contaminated_by is not None]
    loaded = sum(run.loaded is True for run in completed)
    if not completed:
        return []
    lines = []
    if contaminated:
        pairs = [
            f"{code(run.path)} beside {code(run.contaminated_by or '')}" for run in contaminated
        ]
        lines.append(
            f"**Contaminated runs.** {count(len(contaminated), 'run')} shared the machine with "
            "another measured run; their speeds are in no number of this report, their final "
            f"states are: {listing(pairs[:6])}"
            + (f", and {len(pairs) - 6} more." if len(pairs) > 6 else ".")
        )
    else:
        lines.append("No two measured runs overlap in time.")
    if loaded:
        lines.append(
            f"**Loaded machine.** In {count(loaded, 'run')} other processes took more than "
            f"{percent(OTHERS_MATTER)} of the cores' time. Points with such runs for at least half "
            "of theirs take no part in the answer."
        )
    shares = [s for s in (run.others_cpu_share for run in completed) if s is not None]
    if shares:
        lines.append(
            f"Other processes took {percent(min(shares))} to {percent(max(shares))} of the cores' "
            f"time during a run, {percent(statistics.median(shares))} in the median."
        )
    else:
        lines.append("How much of the cores' time other processes took is not known.")
    return lines


def _named(cohort: Cohort, contestant: Contestant) -> str:
    return f"{escape(cohort.label)} {code(str(contestant))} at world size {contestant.world_size}"


def _warnings(runs: Sequence[RunRow]) -> list[str]:
    kinds = Counter(
        text.partition(":")[0]
        for run in runs
        for text in (run.warning_texts or "").split("; ")
        if text and not text.startswith(("oversubscribed", "beside other work"))
    )
    return [f"Warning in {count(number, 'run')}: {escape(kind)}." for kind, number in kinds.items()]


def _mixed(runs: Sequence[RunRow]) -> list[str]:
    lines = [
        f"**Mixed runs.** {escape(sentence)}. They are kept apart as variants and never put into "
        "one number."
        for sentence in mixtures(runs)
    ]
    if not lines and any(run.status == "completed" for run in runs):
        lines.append(
            "All completed runs of a task share one configuration (apart from what is compared), "
            "one version of the sources, one set of pinned dependencies and one machine."
        )
    dirty = sum(run.git_dirty is True for run in runs)
    if dirty:
        lines.append(
            f"{count(dirty, 'run')} had source changes that were not committed: the commit alone "
            "does not name what ran; the hash of the sources does."
        )
    return lines
