"""A recorded step, drawn for readers who learn: a lane per rank, a panel per stage, all in one SVG.

Written by hand rather than by matplotlib, so that its words stay words and every panel is an
`<svg class="frame">` of its own, with its explanation as title: the report's page shows them one
after the other, and the file by itself shows them below each other.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from dmlf.benchmark.plots import palette
from dmlf.benchmark.recorded_step import Activity, Message, RecordedStep

WIDTH = 760
_LEFT, _RIGHT, _TOP = 92, 14, 10
_LANE, _BAR = 46, 20
_AXIS = 34
_CAPTION_LINE, _CAPTION_CHARACTERS = 16, 124
# Waits longer than this are drawn shorter than they were.
_KNEE_US = 25.0
COMPUTE, OPTIMIZER = "compute", "optimizer"
_COLORS = {
    COMPUTE: palette.BLUE,
    OPTIMIZER: palette.GREEN,
    "reduce_scatter": palette.ORANGE,
    "all_gather": palette.SKY,
    "push": palette.ORANGE,
    "pull": palette.SKY,
    "commit": palette.PURPLE,
}
_BEFORE_STEP = ("draw samples", "forward and backward", "gradient", "evaluate")
_PARAMETERS = ("read parameters", "write parameters")


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the step that is explained by itself: one phase, and one of its rounds."""

    phase: str
    round: int | None

    @property
    def color(self) -> str:
        """The same for all rounds of a phase."""
        return _COLORS.get(self.phase, palette.VERMILION)


def draw(step: RecordedStep) -> str:
    """Return the SVG: a panel for every stage, then the whole step to scale."""
    stages = stages_of(step)
    panels = [
        (
            _explained(stage, step),
            _frame(step, stages[:number], stage, _compressed(step)),
        )
        for number, stage in enumerate(stages, start=1)
    ]
    panels.append((_TO_SCALE, _frame(step, stages, None, _linear(step))))
    y, parts = 0.0, []
    height = frame_height(step)
    for caption, frame in panels:
        heading, _, words = caption.partition(". ")
        for line in (heading, *textwrap.wrap(words, _CAPTION_CHARACTERS)):
            y += _CAPTION_LINE
            parts.append(_text(8, y, line, size=12, weight="bold" if line is heading else "normal"))
        y += 4
        parts.append(
            f'<svg class="frame" x="0" y="{y:g}" width="{WIDTH}" height="{height}"'
            f' viewBox="0 0 {WIDTH} {height}"><title>{escape(caption)}</title>{frame}</svg>'
        )
        y += height + 10
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y:g}"'
        f' viewBox="0 0 {WIDTH} {y:g}" font-family="Helvetica, Arial, sans-serif" role="img">'
        f"<title>{escape(summary(step))}</title>"
        f'<rect width="{WIDTH}" height="{y:g}" fill="{palette.WHITE}"/>{"".join(parts)}</svg>\n'
    )


def summary(step: RecordedStep) -> str:
    """The drawing in one sentence."""
    return (
        f"Step {step.step} of a run of {step.strategy} with {step.world_size} workers, as it was "
        f"recorded: {len(step.messages)} messages in {step.duration_us / 1e3:.2f} ms, a lane per "
        "rank, arrows from sender to receiver."
    )


def frame_height(step: RecordedStep) -> int:
    """Height of one panel."""
    return _TOP + _LANE * len(step.lanes) + _AXIS


def stages_of(step: RecordedStep) -> list[Stage]:
    """The stages in the order in which they began; all rounds of an agreement are one."""
    began: dict[Stage, float] = {}
    for activity in step.activities:
        stage = _stage(activity)
        # A wait begins before what it waits for.
        moment = activity.start_us if activity.rank != activity.dst else activity.end_us
        began[stage] = min(moment, began.get(stage, math.inf))
    return sorted(began, key=lambda stage: (stage.phase != COMPUTE, began[stage]))


def _stage(activity: Activity) -> Stage:
    if activity.phase is not None:
        return _phase_stage(activity.phase, activity.round)
    if activity.name in _BEFORE_STEP:
        return Stage(COMPUTE, None)
    return Stage("pull" if activity.name in _PARAMETERS else OPTIMIZER, None)


def _phase_stage(phase: str, round_: int | None) -> Stage:
    return Stage(phase, round_ if phase in ("reduce_scatter", "all_gather") else None)


_TO_SCALE = (
    "The whole step to scale. What is long here is mostly waiting: for a rank that still computes, "
    "or for a core, where there are more ranks than cores."
)
_EXPLAINED = {
    COMPUTE: (
        "Compute. Every worker draws its part of the batch and runs forward and backward. Each now "
        "has a gradient of its own, and no worker may step before all gradients are added."
    ),
    "push": (
        "Push. Every worker sends its whole gradient to the server, which adds them in the order "
        "of their ranks, whoever comes first. All {workers} gradients go through one process: this "
        "is where a parameter server gets narrow."
    ),
    "pull": (
        "Pull. The server sends the new parameters to every worker, which writes them into its "
        "model. All replicas are the same again."
    ),
}


def _explained(stage: Stage, step: RecordedStep) -> str:
    hops = step.world_size - 1
    number = (stage.round or 0) + 1
    if stage.phase == "reduce_scatter":
        return (
            f"Reduce-scatter, round {number} of {hops}. Every rank sends one of "
            f"{step.world_size} chunks of its gradient to the next ({_chunks(stage, step, 0)}), "
            "which adds its own part to it. All links are used at the same time, and nobody holds "
            "more than its share."
        )
    if stage.phase == "all_gather":
        return (
            f"All-gather, round {number} of {hops}. Finished chunks go around the ring "
            f"({_chunks(stage, step, 1)}) and are stored as they are. After round {hops} every "
            "rank has the whole sum."
        )
    if stage.phase == "commit":
        if _has_server(step):
            return (
                "Commit. The server tells every worker that the step counts: all gradients are in "
                "the sum, and the sum is finite. Were it not, nobody would have applied it."
            )
        return (
            "Commit. Short messages without a gradient: a step counts only once every rank knows "
            "that all parts are in the sum and that the sum is finite. Then all apply it, or none."
        )
    if stage.phase == OPTIMIZER:
        who = "The server alone takes" if _has_server(step) else "Every rank takes"
        why = (
            "" if _has_server(step) else ", with the same sum and therefore to the same parameters"
        )
        return f"Optimizer. {who} the optimizer's step{why}."
    if stage.phase in _EXPLAINED:
        return _EXPLAINED[stage.phase].format(workers=step.world_size)
    return f"{stage.phase.replace('_', ' ').capitalize()}."


def _chunks(stage: Stage, step: RecordedStep, ahead: int) -> str:
    """Which chunk goes where in a round of the ring: see `protocol/algorithms/ring.py`."""
    sends = [m for m in step.messages if (m.phase, m.round) == (stage.phase, stage.round)]
    parts = [
        f"chunk {(m.src + ahead - m.round) % step.world_size} from {m.src} to {m.dst}"
        for m in sorted(sends, key=lambda m: m.src)
    ]
    return ", ".join(parts)


def _has_server(step: RecordedStep) -> bool:
    return any(lane.role == "server" for lane in step.lanes)


_Place = Callable[[float], float]


def _frame(
    step: RecordedStep, reached: Sequence[Stage], current: Stage | None, place: _Place
) -> str:
    """One panel: what is not yet reached is faint, the current stage has its arrows bold."""
    rows = {lane.rank: index for index, lane in enumerate(step.lanes)}
    parts = [_lanes(step, rows)]
    for activity in step.activities:
        stage = _stage(activity)
        strength = 0.12 if stage not in reached else 1.0 if current in (None, stage) else 0.55
        parts.append(_bar(activity, stage, rows[activity.rank], place, strength))
    for message in step.messages:
        stage = _phase_stage(message.phase, message.round)
        if stage in reached:
            parts.append(_arrow(message, stage, rows, place, bold=stage == current))
    parts.append(_axis(step, place))
    return "".join(parts)


def _lanes(step: RecordedStep, rows: dict[int, int]) -> str:
    parts = []
    for lane in step.lanes:
        middle = _TOP + _LANE * rows[lane.rank] + _LANE / 2
        parts.append(
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{middle:g}" y2="{middle:g}"'
            f' stroke="{palette.PALE}" stroke-width="{_BAR}"/>'
        )
        parts.append(_text(8, middle - 1, f"rank {lane.rank}", size=12, weight="bold"))
        parts.append(_text(8, middle + 12, lane.role, size=10.5, color=palette.GREY))
    return "".join(parts)


def _bar(activity: Activity, stage: Stage, row: int, place: _Place, strength: float) -> str:
    left, right = place(activity.start_us), place(activity.end_us)
    waiting = activity.src is not None and activity.rank == activity.dst
    height = _BAR * (0.3 if waiting else 1.0)
    top = _TOP + _LANE * row + (_LANE - height) / 2
    # Waiting is thin: nothing is done in it.
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 0.8):.1f}"'
        f' height="{height:.1f}" fill="{stage.color}" fill-opacity="{strength:g}"/>'
    )


def _arrow(
    message: Message, stage: Stage, rows: dict[int, int], place: _Place, *, bold: bool
) -> str:
    down = rows[message.dst] > rows[message.src]
    edge = _BAR / 2
    x1, x2 = place(message.start_us), place(message.end_us)
    y1 = _TOP + _LANE * rows[message.src] + _LANE / 2 + (edge if down else -edge)
    y2 = _TOP + _LANE * rows[message.dst] + _LANE / 2 + (-edge if down else edge)
    angle = math.atan2(y2 - y1, x2 - x1)
    size = 7.0 if bold else 4.5
    tips = " ".join(
        f"{x2 - size * math.cos(angle + turn):.1f},{y2 - size * math.sin(angle + turn):.1f}"
        for turn in (0.4, -0.4)
    )
    look = 'stroke-width="2"' if bold else 'stroke-width="1" stroke-opacity="0.45"'
    fill = "" if bold else ' fill-opacity="0.45"'
    color = palette.INK if bold else stage.color
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" {look}/>'
        f'<polygon points="{x2:.1f},{y2:.1f} {tips}" fill="{color}"{fill}/>'
    )


def _axis(step: RecordedStep, place: _Place) -> str:
    """True times, at the moments where something begins, as many as there is room for."""
    y = _TOP + _LANE * len(step.lanes) + 4
    moments = sorted({0.0, step.duration_us, *(a.start_us for a in step.activities)})
    chosen = [step.duration_us]
    for moment in moments:
        if all(abs(place(moment) - place(other)) > 62 for other in chosen):
            chosen.append(moment)
    parts = [
        f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="{palette.GREY}"/>'
    ]
    for moment in sorted(chosen):
        x = place(moment)
        anchor = "end" if moment == step.duration_us else "middle" if moment else "start"
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 5}" stroke="{palette.GREY}"/>'
        )
        parts.append(
            _text(x, y + 18, f"{moment / 1e3:.2f} ms", size=10.5, color=palette.GREY, anchor=anchor)
        )
    return "".join(parts)


def _linear(step: RecordedStep) -> _Place:
    scale = (WIDTH - _LEFT - _RIGHT) / max(step.duration_us, 1e-9)
    return lambda moment_us: _LEFT + scale * moment_us


def _compressed(step: RecordedStep) -> _Place:
    """Places in order of time where every gap keeps its order of size, but none fills the panel."""
    moments = sorted({m for a in step.activities for m in (a.start_us, a.end_us)})
    gaps = [math.log1p((b - a) / _KNEE_US) for a, b in itertools.pairwise(moments)]
    scale = (WIDTH - _LEFT - _RIGHT) / max(sum(gaps), 1e-9)
    places, x = {}, float(_LEFT)
    for moment, gap in zip(moments, [*gaps, 0.0], strict=True):
        places[moment] = x
        x += scale * gap
    return places.__getitem__


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: float,
    weight: str = "normal",
    color: str = palette.INK,
    anchor: str = "start",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" font-weight="{weight}"'
        f' fill="{color}" text-anchor="{anchor}">{escape(text)}</text>'
    )
