"""What must hold after every event of a simulation, by name.

Checks on one rank are made where its state changes (`replica`, `process`); checks across ranks
are here, as pure functions of what is seen of each rank, so that the seeded simulation and the
exhaustive exploration share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dmlf.errors import SimulationFailure

ONE_CONTRIBUTION = "one_contribution_per_member_and_step"
"""Every element that is applied holds each worker's gradient of that step exactly once."""

PUBLISHED_ORDER = "published_fold_order"
"""Every element was added in the order that the algorithm publishes."""

CORRECT_SUM = "correct_sum"
"""The applied sum equals the serial reference bit for bit."""

EQUAL_HASH = "equal_version_equal_hash"
"""Parameters after step s are equal on all ranks that have them, and equal the reference's."""

APPLIED_ONCE = "every_step_applied_once"
"""A rank asks for gradients of its current step, and changes parameters once in each step."""

NOTHING_FOREIGN = "nothing_foreign_accepted"
"""A protocol goes on only with the message that it waits for, undamaged, first copy."""

NO_RANK_AHEAD = "no_rank_ahead_of_commit"
"""A step is applied only when it is committed, and no rank is two steps ahead of another."""

NON_FINITE = "non_finite_refused_by_all"
"""A gradient that holds NaN or infinity is applied nowhere, and all ranks say so alike."""

PAYLOAD_KEPT = "payload_kept_until_received"
"""A sent payload keeps its value until it is received: transports need not copy."""

TYPED_ERRORS = "typed_errors_only"
"""A protocol raises DmlfError and nothing else."""

TERMINATION = "termination"
"""All ranks complete if no harmful fault fired, and else end within a bound of virtual time."""


class View(NamedTuple):
    """What can be seen of one rank from outside.

    Of all buckets, or of those that a server owns: version: steps whose result is in its
    parameters. gradients_in: its gradients of `step` are handed to the protocol. holds_sum: they
    hold the whole sum, and it is finite.
    """

    step: int
    version: int
    gradients_in: bool
    holds_sum: bool


def check_commit(views: Sequence[View], world_size: int) -> None:
    """Raise SimulationFailure unless every applied step is committed.

    views: workers 0 .. world_size - 1, then servers. Without servers a step is committed when
    every worker holds the sum. With servers it is when every server holds the sum of what it owns,
    which needs every worker's gradient; and no worker may have what any server has not.
    """
    newest = max(view.version for view in views)
    oldest = min(view.version for view in views)
    if newest == oldest:
        return
    if newest > oldest + 1:
        raise SimulationFailure(
            NO_RANK_AHEAD, f"one rank has applied {newest} steps and another {oldest}"
        )
    workers, servers = views[:world_size], views[world_size:]
    workers_done = max(worker.version for worker in workers)
    for rank, server in enumerate(servers, start=world_size):
        if server.version < workers_done:
            raise SimulationFailure(
                NO_RANK_AHEAD, f"a worker is at version {workers_done} before server {rank}"
            )
    for rank, view in enumerate(views):
        if view.version == newest:
            continue
        only_pushes = bool(servers) and rank < world_size
        ready = view.gradients_in if only_pushes else view.holds_sum
        if view.step != newest - 1 or not ready:
            missing = "gradient is not in" if only_pushes else "buckets do not hold a finite sum"
            raise SimulationFailure(
                NO_RANK_AHEAD, f"step {newest - 1} was applied while rank {rank}'s {missing}"
            )
