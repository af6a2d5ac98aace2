"""Deterministic simulation of the protocols: seeded schedules, faults, exhaustive exploration."""

from dmlf.simulation.command import (
    ExplorationSummary,
    SimulationSummary,
    explore,
    explore_algorithm,
    run_single_faults,
    simulate,
    simulate_algorithm,
)
from dmlf.simulation.explore import Exploration, Explorer
from dmlf.simulation.faults import Fault, FaultKind
from dmlf.simulation.scenario import Reduction, Scenario
from dmlf.simulation.seeded import run_plan, run_seed, scenario_of
from dmlf.simulation.shrink import Counterexample, replay, shrink
from dmlf.simulation.world import Run, TraceEvent, World

__all__ = [
    "Counterexample",
    "Exploration",
    "ExplorationSummary",
    "Explorer",
    "Fault",
    "FaultKind",
    "Reduction",
    "Run",
    "Scenario",
    "SimulationSummary",
    "TraceEvent",
    "World",
    "explore",
    "explore_algorithm",
    "replay",
    "run_plan",
    "run_seed",
    "run_single_faults",
    "scenario_of",
    "shrink",
    "simulate",
    "simulate_algorithm",
]
