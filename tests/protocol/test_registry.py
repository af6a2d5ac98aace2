"""The registry: a name is taken once, and a new algorithm is known by being registered."""

import dataclasses

import pytest

from dmlf.errors import PluginError
from dmlf.protocol import (
    Accumulator,
    BucketShape,
    Member,
    Steps,
    Tag,
    Traffic,
    all_reduce_algorithm,
    register,
    registry,
)


@pytest.fixture
def scratch_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry(), "_registered", dict(registry()._registered))


def test_the_shipped_algorithms_are_there_sorted() -> None:
    names = list(registry())
    assert names == sorted(names)
    assert {"ring", "parameter_server", "tree", "two_shot"} <= set(names)


def test_every_name_is_its_own() -> None:
    assert all(name == algorithm.name for name, algorithm in registry().items())


@pytest.mark.usefixtures("scratch_registry")
def test_a_name_is_taken_once() -> None:
    ring = registry()["ring"]
    assert register(ring) is ring
    with pytest.raises(PluginError) as caught:
        register(dataclasses.replace(ring))
    assert (caught.value.kind, caught.value.name) == ("algorithm", "ring")
    assert "dmlf.protocol.algorithms.ring" in caught.value.problem
    assert registry()["ring"] is ring


@pytest.mark.parametrize("name", ["serial", "ddp", "native", "unsynchronized", "a-b", "", "a b"])
@pytest.mark.usefixtures("scratch_registry")
def test_a_name_that_would_be_ambiguous_is_refused(name: str) -> None:
    with pytest.raises(PluginError):
        register(dataclasses.replace(registry()["ring"], name=name))
    assert name not in registry()


@pytest.mark.usefixtures("scratch_registry")
def test_an_all_reduce_becomes_an_algorithm() -> None:
    @all_reduce_algorithm(
        "nothing", lambda numel, world_size: [(slice(0, numel), 0)], lambda numel, size: (7, 3, 2)
    )
    def all_reduce(member: Member, at: Tag, bucket: Accumulator) -> Steps[None]:
        yield from ()

    nothing = registry()["nothing"]
    assert not nothing.has_servers
    assert nothing.server_count(1) == 0
    # W = 4: a commit and a scale are 8 messages each; 7 + 7 messages of the two buckets.
    buckets = [BucketShape(10), BucketShape(10, partial_itemsize=8, scale_bytes=6)]
    expected = Traffic(8 + 7 + 7 + 8, 8 + (3 * 4 + 2 * 4) + (3 * 8 + 2 * 4) + 8 * 6)
    assert nothing.traffic(buckets, 4, 0) == expected
