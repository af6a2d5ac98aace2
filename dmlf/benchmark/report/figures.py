"""The figures with captions, texts for those who cannot see them, and what the data say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dmlf.benchmark.claims import Judged, Outcome
from dmlf.benchmark.cohorts import Cohort
from dmlf.benchmark.plots import FIGURES
from dmlf.benchmark.report.collapse import collapsed
from dmlf.benchmark.report.convergence import target_table
from dmlf.benchmark.report.markdown import bullets, count, details, escape, listing
from dmlf.benchmark.report.material import Material, Places
from dmlf.benchmark.targets import TARGET_SHARE

_POINTS = (
    "Small dots are single runs, large marks their medians, bars the 95 % intervals; hollow marks "
    "are oversubscribed."
)
_CAPTIONS = {
    "throughput": (
        "Training samples per second, all workers together. The global batch is the same at every "
        "world size (strong scaling), but for the panels of weak scaling, where each worker's part "
        "of it is. The dashed line is the ideal, world size times serial, and "
        "may leave the panel; the dotted line is serial. The dark line across a world size, where "
        "there is one, is the measured ceiling: the same ranks at the same time without any "
        "message (`unsynchronized`, float32), which is no training. Its band is the 95 % interval. "
        f"{_POINTS}"
    ),
    "efficiency": (
        "Efficiency is throughput at world size W over W times the throughput of the base at world "
        "size 1. In strong scaling the global batch is the same at every world size: does the same "
        "step get done sooner? In weak scaling each worker's part of it is, and the base has one "
        "worker's part: does W times the work take as long on W workers? Intervals resample "
        "numerator and denominator together. Where the base is the strategy itself at world size "
        "1, what its own overhead at one worker hides is not seen. Where the base is serial "
        "training, it is what a user gains. The servers' own "
        f"processes are not counted in W. {_POINTS}"
    ),
    "convergence": (
        "Test accuracy (test loss, where a task has none) over that of serial (broad grey lines). "
        "By epoch, of every run: curves that lie on each other mean that all learn as serial does. "
        "By training time (without evaluation), one panel for each world size and of each strategy "
        "the run of median length: a curve to the left of the grey ones learns sooner."
    ),
    "target": (
        "Training time without evaluation, and epochs where they differ between runs, until the "
        f"test accuracy first reached {100 * TARGET_SHARE:g} % of what the serial run of the same "
        "seed ends with. "
        "Accuracy is measured after every epoch. The dotted line is serial. Repeats of a seed are "
        f"the same training, so that their epochs agree and their times differ. {_POINTS}"
    ),
    "communication": (
        "The median step of the slowest worker, split into its parts (medians over runs; `W` is "
        "the world size). Communication is in two parts: to reduce and send (convert, add and copy "
        "gradients, which serial training with exact reduction does too), and to wait until a "
        "message comes, which includes waiting for slower workers and, with a parameter server, "
        "for the server's optimizer. `other` is what the parts' medians leave of the step's. Dots "
        "are the step times of single runs. Bars marked `*` are calibrated, not measured: only "
        "the sum of their communication is known, which has a colour of its own."
    ),
    "exactness": (
        "Exact reduction gives the same bits at every world size and with every strategy. Left, "
        "its throughput relative to float32; right, the bytes that it sends relative to float32. "
        f"At 1 (dashed) it costs nothing. Dots are exact runs over the median of float32. {_POINTS}"
    ),
}


FIRST = ("throughput", "exactness")
"""Speed and its price, which most readers look for."""


def first_section(material: Material) -> Iterator[str]:
    """The figures that most readers look for."""
    yield from figure_sections(material.judged, material.places, FIRST)


def other_section(material: Material) -> Iterator[str]:
    """The table's other figures."""
    others = [name for name in FIGURES if name not in FIRST]
    yield from figure_sections(material.judged, material.places, others)


def figure_sections(
    judged: Sequence[tuple[Cohort, Sequence[Judged]]], places: Places, names: Sequence[str]
) -> Iterator[str]:
    """A heading, the figure, its caption, what the data say, and how to rebuild it."""
    for name in names:
        if name == "exactness" and not any(
            run.reduction == "exact" for cohort, _ in judged for run in cohort.runs
        ):
            continue
        yield f"## {FIGURES[name]}"
        if not any(cohort.points() for cohort, _ in judged):
            yield "No run with a passed correctness check: there is nothing to show."
            continue
        yield f"![{_alternative(name, judged)}]({places.link}/{name}.svg)"
        yield f"*{_CAPTIONS[name]}*"
        if name == "target":
            yield from filter(None, (target_table(cohort) for cohort, _ in judged))
        shown = [
            (cohort, [c for c in claims if c.claim.figure == name]) for cohort, claims in judged
        ]
        for cohort, own in shown:
            # Weak scaling, for one, has no part in convergence.
            if own or not any(others for _, others in shown):
                yield _interpretation(cohort, own)
        target = f"{places.figures}/{name}.svg"
        yield f"Rebuild it: `snakemake {target}` (the bitmap `{name}.png` comes with it)."


def _alternative(name: str, judged: Sequence[tuple[Cohort, Sequence[Judged]]]) -> str:
    """The figure in words: what is drawn, and how many statements it carries which way."""
    points = [point for cohort, _ in judged for point in cohort.points()]
    shown = listing(list(dict.fromkeys(point.contestant.strategy for point in points)))
    sizes = listing([str(s) for s in sorted({point.contestant.world_size for point in points})])
    tasks = listing([cohort.label for cohort, _ in judged])
    holding = [
        claim.text
        for _, claims in judged
        for claim in claims
        if claim.claim.figure == name and claim.outcome != Outcome.NO_DATA
    ]
    text = f"{FIGURES[name]} for {tasks}: {shown}, world size {sizes}."
    if holding:
        text += f" First of {count(len(holding), 'statement')} below: {holding[0]}"
    return escape(text)


def _lines(claims: Sequence[Judged]) -> list[str]:
    return [escape(sentence) for sentence in collapsed(claims)]


def _interpretation(cohort: Cohort, claims: Sequence[Judged]) -> str:
    said = [claim for claim in claims if claim.outcome != Outcome.NO_DATA]
    unsaid = [claim for claim in claims if claim.outcome == Outcome.NO_DATA]
    silent = _lines(unsaid)
    clear = _lines([claim for claim in said if not claim.finding.reservation])
    reserved = _lines([claim for claim in said if claim.finding.reservation])
    parts = [f"**{escape(cohort.label)}: what the data say**"]
    if clear:
        parts.append(bullets(clear))
    if reserved and clear:
        why = "with a reservation: oversubscribed, or measured beside other work"
        parts.append(details(f"{count(len(reserved), 'statement')} {why}", bullets(reserved)))
    elif reserved:
        parts.append(bullets(reserved))
    if silent:
        summary = f"{count(len(unsaid), 'comparison')} without enough data for a statement"
        parts.append(details(summary, bullets(silent)))
    if not said and not silent:
        parts.append("No comparison was planned.")
    return "\n\n".join(parts)
