"""When each contestant reached the target accuracy, as a table."""

from __future__ import annotations

from dmlf.benchmark.cohorts import Cohort, Contestant
from dmlf.benchmark.report.markdown import code, escape, table
from dmlf.benchmark.statistics import median_estimate, ratio_estimate
from dmlf.benchmark.table import RunRow
from dmlf.benchmark.targets import TARGET_SHARE


def target_table(cohort: Cohort) -> str | None:
    """Epochs and time to the target for every contestant with one; None where there is none."""
    rows = []
    for contestant in cohort.contestants():
        runs = [run for run in cohort.checked(contestant) if run.target_accuracy is not None]
        if runs:
            rows.append(_row(cohort, contestant, runs))
    if not rows:
        return None
    header = (
        "strategy",
        "reduction",
        "world size",
        "runs",
        "target accuracy",
        "epochs",
        "training time (s)",
        "times as long as serial",
    )
    return (
        f"**{escape(cohort.label)}: to {100 * TARGET_SHARE:g} % of serial's final test "
        f"accuracy**\n\n{table(header, rows, right=range(2, 8))}"
    )


def _row(cohort: Cohort, contestant: Contestant, runs: list[RunRow]) -> list[str]:
    targets = sorted({run.target_accuracy for run in runs if run.target_accuracy is not None})
    times = [run.time_to_target_s for run in runs if run.time_to_target_s is not None]
    serial = cohort.point(Contestant("serial", contestant.reduction, 1))
    base = [] if serial is None else serial.values("time_to_target_s")
    return [
        code(contestant.strategy),
        contestant.reduction,
        str(contestant.world_size),
        str(len(runs)),
        " / ".join(f"{100 * target:.2f} %" for target in targets),
        _epochs(runs),
        median_estimate(times).text() if times else "",
        ratio_estimate(times, base).text()
        if times and base and contestant.strategy != "serial"
        else "",
    ]


def _epochs(runs: list[RunRow]) -> str:
    """All values that occur, fewest first, with how many runs never got there."""
    known = sorted({run.epochs_to_target for run in runs if run.epochs_to_target is not None})
    never = sum(run.epochs_to_target is None for run in runs)
    shown = ", ".join(map(str, known))
    if never:
        shown += f"{'; ' if shown else ''}never in {never} run{'s' * (never != 1)}"
    return shown
