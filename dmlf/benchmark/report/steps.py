"""How a step runs: real ones, recorded and drawn, for readers who come to learn."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from dmlf.benchmark.report.markdown import code
from dmlf.benchmark.report.material import Material

PREFIX = "step-"
_NAME = re.compile(rf"{PREFIX}([a-z0-9_]+-[a-z0-9_]+)\.svg")
_CAPTION = (
    "A lane per process, time to the right, a colour per stage; arrows go from the sender to the "
    "receiver, from the begin of sending to the end of waiting. Thick is work (computing, adding, "
    "writing a message), with the wait for a core in it where there are more ranks than cores; "
    "thin is waiting for a message, and what lies ahead is pale. Long times are drawn shorter than "
    "they were: the axis has the true ones, and the last panel is to scale."
)


def drawn(figures_dir: Path) -> tuple[str, ...]:
    """The strategies whose recorded step lies among the figures."""
    if not figures_dir.is_dir():
        return ()
    names = (_NAME.fullmatch(path.name) for path in sorted(figures_dir.iterdir()))
    return tuple(name[1] for name in names if name is not None)


def section(material: Material) -> Iterator[str]:
    """A drawing for every recorded step."""
    yield "## How a step runs"
    if not material.steps:
        yield (
            "No step was recorded. Record and draw one: "
            f"`snakemake report/figures/{PREFIX}ring-shm.svg`."
        )
        return
    yield (
        "These are not sketches: each shows one step of a real run, recorded on this machine with "
        "`--timeline` and not part of any measurement. Of the recorded steps it is the shortest, "
        "the one that the machine disturbed least."
    )
    for strategy in material.steps:
        path = f"{PREFIX}{strategy}.svg"
        yield f"### One step of {strategy}"
        alternative = f"One recorded step of {strategy}, stage by stage: a lane per rank, messages"
        yield f"![{alternative} as arrows]({material.places.link}/{path})"
        yield f"*{_CAPTION}*"
        yield (
            f"Rebuild it: {code(f'snakemake {material.places.figures}/{path}')}. The whole "
            f"recording, `results/timelines/{strategy}/timeline.json`, opens in "
            "Perfetto (ui.perfetto.dev)."
        )
