"""ElasticSampler: whatever happens to the world size, each sample of an epoch comes once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmlf import ElasticSampler
from dmlf.errors import ConfigError


def ranks(world_size: int, *arguments: Any, **options: Any) -> list[ElasticSampler]:
    return [
        ElasticSampler(*arguments, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, int, bool, list[tuple[int, int, bool]]]:
    """Samples, batch, drop_last, and (world size, batches done with it, through a checkpoint)."""
    batch = draw(st.integers(1, 40))
    samples = draw(st.integers(batch, 300))
    drop_last = draw(st.booleans())
    smallest = batch if drop_last else samples // -(-samples // batch)
    parts = draw(
        st.lists(
            st.tuples(st.integers(1, min(smallest, 9)), st.integers(0, 12), st.booleans()),
            min_size=1,
            max_size=6,
        )
    )
    return samples, batch, drop_last, parts


@given(histories(), st.integers(0, 5), st.integers(0, 3))
def test_no_sample_is_lost_and_none_comes_twice(
    history: tuple[int, int, bool, list[tuple[int, int, bool]]], seed: int, epoch: int
) -> None:
    samples, batch, drop_last, parts = history
    options = {"seed": seed, "drop_last": drop_last}
    alone = ElasticSampler(samples, batch, **options)  # type: ignore[arg-type]
    alone.set_epoch(epoch)
    expected = list(alone)
    seen: list[list[int]] = []
    group = ranks(parts[0][0], samples, batch, **options)
    for sampler in group:
        sampler.set_epoch(epoch)
    for world_size, done, through_checkpoint in [*parts, (1, samples, True)]:
        state = group[0].state_dict()
        assert all(sampler.state_dict() == state for sampler in group)
        if through_checkpoint:
            group = ranks(world_size, samples, batch, **options)
            for sampler in group:
                sampler.load_state_dict(state)
        else:
            joining = ranks(world_size, samples, batch, **options)[len(group) :]
            group = [*group[:world_size], *joining]
            for rank, sampler in enumerate(group):
                sampler.load_state_dict(state)
                sampler.reset(rank, world_size)
        assert len({len(sampler) for sampler in group}) == 1
        iterators = [iter(sampler) for sampler in group]
        for _ in range(min(done, len(group[0]))):
            dealt = [next(iterator) for iterator in iterators]
            assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
            assert min(map(len, dealt)) >= 1
            seen.append([sample for part in dealt for sample in part])
            for sampler in group:
                sampler.advance()
    assert seen == expected  # the same global batches, whatever the world sizes were
    flat = [sample for part in seen for sample in part]
    assert len(flat) == len(set(flat)) == (samples // batch * batch if drop_last else samples)
    assert max(map(len, seen)) <= batch
    assert max(map(len, seen)) - min(map(len, seen)) <= 1


def test_drawing_ahead_does_not_move_the_place() -> None:
    sampler = ElasticSampler(100, 10)
    ahead = iter(sampler)
    drawn = [next(ahead) for _ in range(5)]
    sampler.advance(2)
    assert list(sampler)[:3] == drawn[2:]
    assert (sampler.batch, len(sampler)) == (2, 8)


@pytest.mark.parametrize(
    "change",
    [
        lambda sampler: sampler.reset(0, 2),
        lambda sampler: sampler.set_epoch(1),
        lambda sampler: sampler.load_state_dict(sampler.state_dict()),
    ],
)
def test_an_iteration_that_outlives_its_deal_is_refused(change: Any) -> None:
    sampler = ElasticSampler(100, 10)
    iterator = iter(sampler)
    next(iterator)
    change(sampler)
    with pytest.raises(RuntimeError, match="iterate anew"):
        next(iterator)


def test_epochs_differ_and_are_the_same_again() -> None:
    sampler = ElasticSampler(range(50), 8, seed=2)
    first = list(sampler)
    sampler.advance()
    sampler.set_epoch(0)  # where it is already
    assert sampler.batch == 1
    sampler.set_epoch(1)
    assert (sampler.epoch, sampler.batch) == (1, 0)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(ElasticSampler(50, 8, seed=3)) != first
    in_order = list(ElasticSampler(5, 5, shuffle=False))
    assert in_order == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"dataset": 0}, "num_samples"),
        ({"dataset": []}, "num_samples"),
        ({"global_batch_size": 0}, "global_batch_size"),
        ({"global_batch_size": 101, "drop_last": True}, "global_batch_size"),
        ({"seed": -1}, "seed"),
        ({"world_size": 0}, "world_size"),
        ({"world_size": 11}, "world_size"),
        ({"rank": 2, "world_size": 2}, "rank"),
    ],
    ids=str,
)
def test_what_cannot_be_dealt_is_refused(arguments: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ElasticSampler(**{"dataset": 100, "global_batch_size": 10, **arguments})
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("other", "key"),
    [
        (ElasticSampler(99, 10), "num_samples"),
        (ElasticSampler(100, 20), "global_batch_size"),
        (ElasticSampler(100, 10, seed=1), "seed"),
        (ElasticSampler(100, 10, shuffle=False), "shuffle"),
        (ElasticSampler(100, 10, drop_last=True), "drop_last"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_place_of_something_else_is_refused(other: ElasticSampler, key: str) -> None:
    sampler = ElasticSampler(100, 10)
    sampler.advance(3)
    with pytest.raises(ConfigError) as caught:
        other.load_state_dict(sampler.state_dict())
    assert caught.value.key == key
    for batch in (-1, 11, "3"):
        with pytest.raises(ConfigError):
            sampler.load_state_dict({**sampler.state_dict(), "batch": batch})
    with pytest.raises(ConfigError):
        sampler.advance(8)
    assert sampler.batch == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_it_feeds_torchs_loader(workers: int) -> None:
    torch = pytest.importorskip("torch")
    data = torch.arange(103)
    sampler = ElasticSampler(data, 10, rank=1, world_size=3)
    sampler.advance(4)
    loader = torch.utils.data.DataLoader(data, batch_sampler=sampler, num_workers=workers)
    assert len(loader) == len(sampler) == 7
    assert [batch.tolist() for batch in loader] == list(sampler)
