"""The ranks that members of a group are given."""

from __future__ import annotations

from dmlf.runtime.roster import Doing, Roster


def roster(workers: int, servers: int = 0) -> Roster:
    """All have joined, each under the number of its rank."""
    found = Roster(workers, servers)
    for number in range(workers):
        found.add(number, None, 1.0).wait()
    for server in range(servers):
        found.add(workers + server, server, 1.0).wait()
    return found


def test_servers_come_after_workers_that_keep_their_order() -> None:
    group = roster(3, servers=2)
    assert group.start(9.0) == [0, 1, 2, 3, 4]
    assert {member.due_s for member in group.all()} == {9.0}
    group.remove(1)
    group.remove(3)
    assert group.vacant_servers() == [0]
    for member in group.all():
        member.wait()
    group.add(5, 0, 9.0).wait()
    assert group.start(9.0) == [0, 2, 5, 4]
    assert group.add(6, None, 9.0).rank == 2
    group.remove(5)
    assert group.add(7, 0, 9.0).rank == 2  # after the two workers that run


def test_the_first_free_rank_is_taken_and_numbers_are_never_used_twice() -> None:
    group = roster(3)
    group.start(9.0)
    group.remove(1)
    assert group.add(group.next_number, None, 9.0).rank == 1
    group.remove(3)
    assert group.next_number == 4


def test_of_two_meant_for_one_rank_the_one_with_the_lower_number_comes_first() -> None:
    group = roster(2)
    late = group.add(9, None, 1.0)  # meant for rank 2
    group.remove(0)
    assert group.start(9.0) == [1]
    other = group.add(5, None, 1.0)
    other.rank = late.rank
    for member in group.all():
        member.wait()
    assert group.start(9.0) == [1, 5, 9]
    assert [member.doing for member in group.all()] == [Doing.RUNNING] * 3
