"""The protocols in virtual time, under a link model: how long a step takes on other machines."""

from dmlf.simulation.timed.engine import TimedWorld, Timing
from dmlf.simulation.timed.links import MAX_SECONDS, Cluster, Link
from dmlf.simulation.timed.sized import Clock, SizedAccumulator
from dmlf.simulation.timed.workload import Straggling, Workload, evenly_ready

__all__ = [
    "MAX_SECONDS",
    "Clock",
    "Cluster",
    "Link",
    "SizedAccumulator",
    "Straggling",
    "TimedWorld",
    "Timing",
    "Workload",
    "evenly_ready",
]
