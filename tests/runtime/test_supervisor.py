"""What the supervisor hears of ranks when it ends them."""

from __future__ import annotations

from dmlf.runtime import process_context
from dmlf.runtime.member import FIRED, NOTED
from dmlf.runtime.supervisor import RestartPolicy, Supervisor, _Process


def test_what_struck_a_rank_is_heard_although_the_run_has_ended() -> None:
    """Another rank's failure ends the run before this one's last words are read."""
    context = process_context([], 1)
    supervisor = Supervisor(
        context, "tests.runtime.programs:square", [], lambda _: [], RestartPolicy(0), print
    )
    process = context.Process(target=int)
    process.start()
    own, theirs = context.Pipe()
    theirs.send((NOTED, 0, "something else"))
    theirs.send((FIRED, 0, (3, 1.5)))
    theirs.close()
    supervisor._members[0] = _Process(0, process, own)
    supervisor._end()
    assert supervisor.fired == {3: 1.5}
    assert own.closed
    assert supervisor._members == {}
