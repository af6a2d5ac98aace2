"""Faults survived: what was broken on purpose, what became of it, and what readiness costs."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dmlf.benchmark.claims import Outcome
from dmlf.benchmark.faults.load import Faults
from dmlf.benchmark.faults.overhead import SAMPLES
from dmlf.benchmark.faults.statements import Statement, statements
from dmlf.benchmark.faults.summary import Kind, failures, kinds, phases, plain_step_s
from dmlf.benchmark.plots import FAULTS, FAULTS_TITLE
from dmlf.benchmark.report.markdown import (
    bullets,
    code,
    count,
    details,
    escape,
    listing,
    table,
)
from dmlf.benchmark.report.material import Material
from dmlf.benchmark.statistics import median_estimate, significant

HEADING = "## Faults survived"
_WHAT = (
    "Small runs are broken at places that a seed chooses: ranks and servers are killed, stopped "
    "and delayed, messages dropped, doubled, misdirected and garbled, links silenced and cut, "
    "gradients made infinite, parameters flipped, disks filled. Each run must then end in the very "
    "bits of the run that nothing has happened to: by itself where a restart can mend it, else "
    "with its typed error, and in these bits once it is resumed from its checkpoint. A fault that "
    "did not strike, or that nobody noticed, counts as a failure. A pause shorter than "
    "the timeout must not be taken for one."
)
_CAPTION = (
    "Left: from the fault to the first sign of it; right: from there until all ranks train again. "
    "A death is seen at once; a message that never comes only by the timeout. Who hangs is given "
    "a second to stop before it is killed."
)
_PRICE = (
    "**What readiness costs.** The same training plain, with restarts allowed, and with "
    "checkpoints, in turns. The price of restarts is a ratio within each round; that of "
    "checkpoints one within each run, of steps with a checkpoint to those between, without one."
)


def section(material: Material) -> Iterator[str]:
    """The section; it says so where there is no campaign, or no measurement of the price."""
    faults = material.faults
    yield HEADING
    if faults.campaign is None:
        yield (
            f"No faults were injected: {escape(faults.campaign_problem)}. Nothing is claimed. "
            "Break something: `snakemake results/faults.json`, or `dmlf faults --help`."
        )
    else:
        yield from _campaign(faults.campaign, material)
    yield from _overhead(faults)


def answer(faults: Faults) -> str | None:
    """The sentence for the answer; None without a campaign."""
    survived = statements(faults)[0]
    if survived.outcome == Outcome.NO_DATA:
        return None
    return f"**When something fails.** {escape(survived.text)} See [below](#faults-survived)."


def _campaign(campaign: Mapping[str, Any], material: Material) -> Iterator[str]:
    yield _WHAT
    found = kinds(campaign)
    links = material.places.link
    yield f"![{_alternative(found)}]({links}/{FAULTS}.svg)"
    yield f"*{_CAPTION}*"
    survived = statements(material.faults)[0]
    yield f"**What the data say.** {escape(survived.text)}"
    failed = failures(campaign)
    if failed:
        lines = [
            f"Run {failure.number} ({escape(failure.what)}): {escape(failure.problem)}. Repeat it: "
            f"{code(failure.command)}"
            for failure in failed
        ]
        yield "**What failed**\n\n" + bullets(lines)
    yield _by_kind(found)
    yield details(
        f"{count(sum(kind.injected for kind in found), 'fault')} by phase of the step",
        _by_phase(campaign),
    )
    asked = campaign["request"]
    strategies = f"{listing(asked['algorithms'])} over {listing(asked['transports'])}"
    yield (
        f"Planned from seed {asked['seed']} for {escape(strategies)}. Rebuild it: "
        f"`snakemake {material.places.figures}/{FAULTS}.svg`."
    )


def _alternative(found: Sequence[Kind]) -> str:
    names = listing([kind.name for kind in found if kind.recovery_s]) or "none"
    return escape(f"{FAULTS_TITLE}, by kind of fault: {names}")


def _by_kind(found: Sequence[Kind]) -> str:
    header = (
        "fault",
        "struck",
        "noticed",
        "recovered",
        "resumed",
        "same bits",
        "noticed after (s)",
        "back after (s)",
    )
    rows = [
        [
            code(kind.name),
            f"{kind.struck} of {kind.injected}",
            str(kind.noticed or ""),
            str(kind.recovered or ""),
            str(kind.resumed or ""),
            f"{kind.equal} of {kind.runs}",
            _times(kind.detection_s),
            _times(kind.recovery_s),
        ]
        for kind in found
    ]
    note = (
        "Runs are listed by their first fault; a second one strikes while they recover. Pauses are "
        "not to be noticed; runs that ended with their typed error were resumed. Same bits: whose "
        "final state is the undisturbed run's. Times are medians, with the longest in brackets."
    )
    return f"{table(header, rows, right=tuple(range(1, len(header))))}\n\n{note}"


def _times(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{_seconds(statistics.median(values))} ({_seconds(max(values))})"


def _seconds(value: float) -> str:
    return "< 0.001" if value < 0.001 else significant(value, 2)


def _by_phase(campaign: Mapping[str, Any]) -> str:
    found = phases(campaign)
    names = sorted({kind for counts in found.values() for kind in counts})
    rows = [
        ["any" if phase == "-" else code(phase), *(str(counts[name] or "") for name in names)]
        for phase, counts in found.items()
    ]
    return table(("phase", *names), rows, right=tuple(range(1, len(names) + 1)))


def _overhead(faults: Faults) -> Iterator[str]:
    overhead = faults.overhead
    if overhead is None:
        yield (
            f"What being ready for faults costs was not measured: "
            f"{escape(faults.overhead_problem)}. Measure it: `snakemake results/overhead.json`, or "
            "`dmlf overhead`."
        )
        return
    yield _PRICE
    yield bullets([_line(statement) for statement in statements(faults)[1:]])
    config = overhead["config"]
    samples = [
        [name, *(significant(1e3 * value) for value in overhead["step_s"][name])]
        for name in SAMPLES
    ]
    rounds = len(samples[0]) - 1
    header = ("ms per step", *(f"round {number + 1}" for number in range(rounds)))
    yield details(
        f"{count(rounds, 'round')} of {config['max_steps']} steps "
        f"({config['task']}, {config['algorithm']}-{config['transport']}, world size "
        f"{config['world_size']}; plain steps took {significant(1e3 * plain_step_s(overhead))} ms)",
        table(header, samples, right=tuple(range(1, rounds + 1))),
    )
    yield "Rebuild it: `snakemake results/overhead.json`."


def _line(statement: Statement) -> str:
    return escape(statement.text.replace("`", ""))


def data(faults: Faults) -> dict[str, Any]:
    """The same for programs: claims, counts, times, and failing runs with their commands."""
    campaign, overhead = faults.campaign, faults.overhead
    return {
        "claims": [
            {
                "name": item.name,
                "claim": item.tested,
                "outcome": str(item.outcome),
                "text": item.text,
                "numbers": dict(item.numbers),
                "rebuild": item.rebuild,
            }
            for item in statements(faults)
        ],
        "campaign": None
        if campaign is None
        else {
            "request": campaign["request"],
            "summary": campaign["summary"],
            "by_kind": [
                {
                    "kind": kind.name,
                    "injected": kind.injected,
                    "struck": kind.struck,
                    "runs": kind.runs,
                    "noticed": kind.noticed,
                    "recovered": kind.recovered,
                    "resumed": kind.resumed,
                    "equal_final_states": kind.equal,
                    "detection_s": list(kind.detection_s),
                    "recovery_s": list(kind.recovery_s),
                }
                for kind in kinds(campaign)
            ],
            "by_phase": {phase: dict(counts) for phase, counts in phases(campaign).items()},
            "failures": [
                {"run": f.number, "what": f.what, "problem": f.problem, "command": f.command}
                for f in failures(campaign)
            ],
        },
        "overhead": None
        if overhead is None
        else {
            variant: {
                "median_step_s": median_estimate(overhead["step_s"][variant]).median,
                "step_s": overhead["step_s"][variant],
            }
            for variant in SAMPLES
        },
    }
