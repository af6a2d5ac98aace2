"""The cost model: what a message and a byte cost, and how wrong predictions from that are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dmlf.benchmark.collective.summary import size_text
from dmlf.benchmark.cost_model.fit import Calibration
from dmlf.benchmark.cost_model.judged import JudgedModel, judge_models
from dmlf.benchmark.plots import COST_MODEL, COST_MODEL_TITLE
from dmlf.benchmark.report.markdown import bullets, code, count, escape, listing, table
from dmlf.benchmark.report.material import Material
from dmlf.benchmark.statistics import Estimate, significant

HEADING = "## Cost model"
_AIM = 0.15
_MODEL = (
    "The time of an all-reduce as rounds x latency + bytes / bandwidth, with the rounds and bytes "
    "of each algorithm's closed form "
    "([their sources](https://doi.org/10.1016/j.jpdc.2008.09.002 "
    '"Patarasuk & Yuan, 2009; Thakur, Rabenseifner & Gropp, 2005")). The parameters of each '
    "transport are fitted to every other size of the collectives above, by least squares on "
    "relative errors; the sizes between them were held out and are predicted. Beyond a knee a "
    "second bandwidth is fitted if it takes a fifth off the error of the fitted sizes. Rings "
    "and trees add in proportion to what they carry, so a transport's bandwidth has "
    "the additions in it. Only where every rank has a core of its own."
)
_CAPTION = (
    "Above: measured times (medians) and the model's curve. Below: what the model gets wrong, in "
    "percent of what was measured; the band is 15 %. Large marks with a dark edge were "
    "held out."
)


def section(material: Material) -> Iterator[str]:
    """The section; it says so where there is nothing to fit."""
    yield HEADING
    record = material.collectives.record
    models = judge_models(record) if record is not None else []
    if not models:
        reason = material.collectives.problem if record is None else "too few sizes were measured"
        yield f"There is no cost model: {escape(reason)}."
        return
    yield _MODEL
    names = listing([model.transport for model in models])
    yield f"![{COST_MODEL_TITLE}: {names}]({material.places.link}/{COST_MODEL}.svg)"
    yield f"*{_CAPTION}*"
    yield "**What the data say**\n\n" + bullets([_verdict(model) for model in models])
    yield _table(models)
    yield f"Rebuild it: `snakemake {material.places.figures}/{COST_MODEL}.svg`."


def _verdict(model: JudgedModel) -> str:
    median, largest = model.errors.median, model.errors.maximum
    verdict = "within the aim of 15 %" if median <= _AIM else "above the aim of 15 %"
    return (
        f"{code(model.transport)}: {count(model.calibration.parameters, 'parameter')} fitted to "
        f"{count(len(model.seen), 'point')}; the median error on "
        f"{count(len(model.held_out), 'held-out point')} is {100 * median:.0f} %, {verdict}; "
        f"the largest is {100 * largest:.0f} %."
        f"{_knee(model.calibration)}"
    )


def _knee(calibration: Calibration) -> str:
    """What the second bandwidth stands for, by whether it is the lower or the higher one."""
    if calibration.knee_bytes is None:
        return ""
    where = size_text(calibration.knee_bytes)
    before, beyond = (estimate.median for estimate in calibration.s_per_byte)
    if beyond >= before:
        return f" Bandwidth falls beyond {where}, as it does where vectors leave the caches."
    return (
        f" Bandwidth is higher beyond {where}: smaller vectors cost more than a latency for each "
        "round accounts for. Caches are no reason for that."
    )


def _table(models: Sequence[JudgedModel]) -> str:
    header = (
        "transport",
        "points / parameters",
        "latency of a round (us)",
        "bandwidth (GB/s)",
        "knee",
        "median error, held out",
        "largest",
    )
    rows = [
        [
            code(model.transport),
            f"{len(model.seen)} / {model.calibration.parameters}",
            _scaled(model.calibration.latency_s, 1e6),
            listing([_bandwidth(estimate) for estimate in model.calibration.s_per_byte]),
            "none"
            if model.calibration.knee_bytes is None
            else size_text(model.calibration.knee_bytes),
            f"{100 * model.errors.median:.0f} %",
            f"{100 * model.errors.maximum:.0f} %",
        ]
        for model in models
    ]
    return table(header, rows, right=(1, 2, 3, 4, 5, 6))


def _scaled(estimate: Estimate, factor: float) -> str:
    shown = significant(factor * estimate.median)
    if estimate.low is None or estimate.high is None:
        return shown
    low, high = (significant(factor * value) for value in (estimate.low, estimate.high))
    return f"{shown} [{low}, {high}]"


def _bandwidth(s_per_byte: Estimate) -> str:
    """GB/s; the interval of the reciprocal, so its ends change places."""
    if s_per_byte.median <= 0.0:
        return "not limiting"
    shown = significant(1e-9 / s_per_byte.median)
    low, high = s_per_byte.low, s_per_byte.high
    if not low or not high:
        return shown
    return f"{shown} [{significant(1e-9 / high)}, {significant(1e-9 / low)}]"
