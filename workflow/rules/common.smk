# The names that the rules share: strategies, paths, figures, and what may stand in a path.
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

from dmlf.benchmark.collective.config import CollectiveConfig
from dmlf.benchmark.plots import FIGURES as DRAWN
from dmlf.benchmark.plots import FAULTS, RECORD_FIGURES
from dmlf.benchmark.plots.projected import PROJECTION_FIGURES
from dmlf.config import REDUCTIONS, UNSYNCHRONIZED
from dmlf.errors import ConfigError
from dmlf.protocol import registry
from dmlf.transport import TRANSPORTS

# `python -m dmlf` in the rules is the Python that runs this workflow, also when its environment
# was not activated.
shell.prefix(f"set -euo pipefail; PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")

# What dmlf has registered can be asked for by name with no edit here.
PROTOCOL_STRATEGIES = [f"{name}-{transport}" for name in registry() for transport in TRANSPORTS]
NATIVE = "native-process_group"
GROUP_STRATEGIES = [*(f"{name}-process_group" for name in registry()), NATIVE]
OWN_PROCESSES = [name for name in PROTOCOL_STRATEGIES if name not in GROUP_STRATEGIES]
STRATEGIES = ["serial", *PROTOCOL_STRATEGIES, NATIVE, "ddp-gloo", UNSYNCHRONIZED]

RUN = "{task}/{strategy}/{reduction}/world_size={world_size}/seed={seed}/rep={rep}"
REPLAY = "{task}/{algorithm}-replay/{reduction}/world_size={world_size}/seed={seed}"
METRICS_PATH = f"results/{RUN}/metrics.json"
REFERENCE_PATH = f"results/{REPLAY}/reference.json"

# The figures of the table, of the collectives and of the faults; those of the projection come with it.
FIGURES = expand(
    "report/figures/{figure}.{kind}", figure=[*DRAWN, *RECORD_FIGURES, FAULTS], kind=["svg", "png"]
)
PARTIAL_FIGURES = expand(
    "report/partial/figures/{figure}.{kind}",
    figure=[*DRAWN, *RECORD_FIGURES, FAULTS],
    kind=["svg", "png"],
)
PROJECTED = expand("report/figures/{figure}.{kind}", figure=PROJECTION_FIGURES, kind=["svg", "png"])
PROJECTION = "results/projection.json"
COLLECTIVES = "results/collective.json"
CAMPAIGN = "results/faults.json"
OVERHEAD = "results/overhead.json"
# Steps of these are recorded and drawn in the report; any protocol's can be asked for by its path.
RECORDED = ["parameter_server-shm", "ring-shm"]
STEPS = expand("report/figures/step-{strategy}.svg", strategy=RECORDED)
TIMELINE = "results/timelines/{strategy}/timeline.json"


def one_of(names):
    return "|".join(map(re.escape, names))


# Whatever fits can be asked for by its path; a typing error finds no rule.
wildcard_constraints:
    task=one_of(config["tasks"]),
    strategy=one_of(STRATEGIES),
    algorithm=one_of(registry()),
    reduction=one_of(REDUCTIONS),
    world_size=r"[1-9]\d*",
    seed=r"0|[1-9]\d*",
    rep=r"0|[1-9]\d*",
    figure=one_of(DRAWN),
    record_figure=one_of(RECORD_FIGURES),


def run_of(wildcards):
    """What a run's path says, from the wildcards of a rule."""
    return SimpleNamespace(**dict(wildcards.items()))


def timeline_flags(strategy):
    """A small run of three ranks, whose gradient is one bucket: few messages, each to be seen."""
    algorithm, _, transport = strategy.partition("-")
    settings = {
        "task": "synthetic",
        "task-option": "parameter_dim=16384",
        "algorithm": algorithm,
        "transport": transport,
        "world-size": 3,
        "num-shards": 6,
        "global-batch-size": 252,
        "max-steps": 16,
        "warmup-steps": 1,
        "bucket-cap-bytes": 1 << 22,
    }
    return shlex.join(f"--{name}={value}" for name, value in settings.items())


def partial_steps(wildcards):
    """Drawings of the recorded steps that are there."""
    there = [name for name in RECORDED if Path(TIMELINE.format(strategy=name)).exists()]
    return expand("report/partial/figures/step-{strategy}.svg", strategy=there)


def collective_flags():
    """The command-line flags of the benchmark as one text, which any change of a value changes.

    The time limit is left out, as for training runs.
    """
    try:
        values = CollectiveConfig(**config["collective"]).as_mapping()
    except ConfigError as error:
        refuse(["collective"], error)
    del values["timeout_s"]
    return flags_of(values)


def found(*paths):
    """For rules: a text that changes whenever one of the files comes, goes or changes."""

    def stamp(path):
        return str(path.stat().st_mtime_ns) if path.exists() else "absent"

    return lambda wildcards: " ".join(stamp(Path(path)) for path in paths)


def flags_of(section):
    """The flags of the verb that a section of the configuration is handed to, as one text."""
    words = []
    for key, value in section.items():
        words.append(f"--{key.replace('_', '-')}")
        words += map(str, value if isinstance(value, list) else [value])
    return shlex.join(words)
