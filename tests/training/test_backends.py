"""Both backends compute, step and describe their state alike."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from dmlf.config import RunConfig
from dmlf.errors import ConfigError, ReplicaDivergence, SchemaMismatch
from dmlf.tasks import Dataset, TorchTask
from dmlf.training.backend import Backend
from dmlf.training.numpy_backend import NumpyBackend
from dmlf.training.replica import Replica, make_backend
from dmlf.training.state import RankState, entries_of, merge_states

SYNTHETIC = RunConfig(task="synthetic", learning_rate=0.05)


def state_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    return RankState(entries_of(arrays), None).sha256()


def test_state_hash_covers_name_shape_dtype_and_every_bit() -> None:
    base = {"a": np.array([1.0, 0.0], np.float32)}
    variants = [
        {"b": base["a"]},
        {"a": base["a"].reshape(1, 2)},
        {"a": base["a"].view(np.int32)},
        {"a": np.array([1.0, -0.0], np.float32)},
        {**base, "c": base["a"]},
    ]
    assert len({state_sha256(state) for state in [base, *variants]}) == 6
    assert state_sha256(dict(base)) == state_sha256(base)
    assert state_sha256({"b": base["a"], **base}) == state_sha256({**base, "b": base["a"]})


def test_entries_take_any_array() -> None:
    arrays = {
        "nothing": np.zeros((0, 3), np.float32),
        "one": np.array(3, np.int64),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }
    digests = {name: entry.rpartition("|")[2] for name, entry in entries_of(arrays).items()}
    assert digests == {
        name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()
    }


@pytest.mark.parametrize("num_servers", [1, 2, 3, 9])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("task", ["synthetic", "digits"])
def test_parts_of_the_parameters_step_to_the_same_bits(
    task: str, optimizer: str, num_servers: int
) -> None:
    """Weight decay, momentum and the counts of AdamW are a matter of each parameter."""
    if task == "digits":
        pytest.importorskip("torch", reason="trains a torch model")
    config = replace(SYNTHETIC, task=task, hidden_sizes=(8,), optimizer=optimizer, weight_decay=0.1)
    whole = make_backend(config)
    names = list(whole.parameters())
    parts = [make_backend(config) for _ in range(num_servers)]
    for server, part in enumerate(parts):
        part.keep(names[server::num_servers])
        assert list(part.parameters()) == names[server::num_servers]
    generator = np.random.default_rng(1)
    for _ in range(5):
        gradients = {
            name: generator.standard_normal(value.shape).astype(np.float32)
            for name, value in whole.parameters().items()
        }
        whole.step({name: value.copy() for name, value in gradients.items()})
        for part in parts:
            part.step({name: gradients[name].copy() for name in part.parameters()})
    states = [
        RankState(entries_of(b.parameters()), entries_of(b.optimizer_state()))
        for b in (whole, *parts)
    ]
    assert merge_states(states[1:]) == states[0]
    assert merge_states(states).sha256() == states[0].sha256()
    for part in parts:
        kept = tuple(part.parameters())
        state = part.optimizer_state()
        assert all(name == "steps" or name.startswith(kept) for name in state)


def test_states_that_contradict_or_lack_a_part_are_refused() -> None:
    parameters = {"a": "1", "b": "2"}
    worker = RankState(parameters, None)
    servers = [RankState({"a": "1"}, {"a.m": "5"}), RankState({"b": "2"}, {"b.m": "6"})]
    merged = merge_states([worker, *servers])
    assert merged == RankState(parameters, {"a.m": "5", "b.m": "6"})
    with pytest.raises(ReplicaDivergence, match="parameter b at the end") as caught:
        merge_states([worker, servers[0], RankState({"b": "3"}, {"b.m": "6"})])
    assert (caught.value.rank, caught.value.expected, caught.value.received) == (2, "2", "3")
    with pytest.raises(ReplicaDivergence, match=r"optimizer state a\.m"):
        merge_states([*servers, RankState({}, {"a.m": "7"})])
    with pytest.raises(ReplicaDivergence, match="no rank has the optimizer of the parameter b"):
        merge_states([worker, servers[0]])
    with pytest.raises(ReplicaDivergence, match="no rank has the optimizer"):
        merge_states([worker, worker])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_numpy_optimizers_follow_torch(optimizer: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is the reference")
    config = replace(SYNTHETIC, optimizer=optimizer, weight_decay=0.1, learning_rate=0.01)
    backend = make_backend(config)
    assert isinstance(backend, NumpyBackend)
    tensors = {
        name: torch.nn.Parameter(torch.from_numpy(value.copy()))
        for name, value in backend.parameters().items()
    }
    options = {"lr": 0.01, "weight_decay": 0.1}
    reference = (
        torch.optim.SGD(tensors.values(), momentum=config.momentum, **options)
        if optimizer == "sgd"
        else torch.optim.AdamW(tensors.values(), **options)
    )
    generator = np.random.default_rng(0)
    for _ in range(20):
        gradients = {
            name: generator.standard_normal(value.shape).astype(np.float32)
            for name, value in backend.parameters().items()
        }
        backend.step(gradients)
        for name, tensor in tensors.items():
            tensor.grad = torch.from_numpy(gradients[name])
        reference.step()
    for name, tensor in tensors.items():
        np.testing.assert_allclose(
            backend.parameters()[name], tensor.detach().numpy(), rtol=2e-5, atol=2e-6
        )


def test_synthetic_training_converges() -> None:
    backend = make_backend(SYNTHETIC)
    replica = Replica(SYNTHETIC, backend, 0, range(SYNTHETIC.num_shards))
    before, _ = backend.evaluate()
    for step in range(40):
        replica.compute(step, replica.sampler.shards(step))
        replica.apply(step)
    assert backend.evaluate()[0] < before / 2


def test_parameters_of_another_dtype_are_refused() -> None:
    torch = pytest.importorskip("torch", reason="builds a torch model")
    from dmlf.training.torch_backend import TorchBackend

    data = Dataset(
        train_inputs=np.ones((2, 3), np.float32),
        train_targets=np.zeros(2, np.int64),
        test_inputs=np.ones((2, 3), np.float32),
        test_targets=np.zeros(2, np.int64),
        num_classes=2,
    )
    task = TorchTask(
        name="half",
        load=lambda: data,
        build=lambda: torch.nn.Linear(3, 2).to(torch.float64),
        loss=lambda outputs, targets: outputs.sum(),
    )
    with pytest.raises(ConfigError, match=r"torch\.float32"):
        TorchBackend(RunConfig(), task)


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("task", ["synthetic", "digits"])
def test_a_loaded_state_goes_on_to_the_same_bits(task: str, optimizer: str, steps: int) -> None:
    """Also where torch has made no state yet, and over a state that had gone elsewhere."""
    if task == "digits":
        pytest.importorskip("torch", reason="trains a torch model")
    config = replace(SYNTHETIC, task=task, hidden_sizes=(8,), optimizer=optimizer, weight_decay=0.1)
    generator = np.random.default_rng(2)
    first, second = make_backend(config), make_backend(replace(config, seed=9))
    shapes = {name: value.shape for name, value in first.parameters().items()}
    gradients = [
        {name: generator.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
        for _ in range(5)
    ]

    def step(backend: Backend, index: int) -> None:
        backend.step({name: value.copy() for name, value in gradients[index].items()})

    for index in range(steps):
        step(first, index)
    step(second, 4)
    second.load_state(first.parameters(), first.optimizer_state())
    held = [(b.parameters(), b.optimizer_state()) for b in (first, second)]
    assert entries_of(held[0][0]) == entries_of(held[1][0])
    assert entries_of(held[0][1]) == entries_of(held[1][1])
    for index in (3, 4):
        step(first, index)
        step(second, index)
    assert entries_of(first.parameters()) == entries_of(second.parameters())
    assert entries_of(first.optimizer_state()) == entries_of(second.optimizer_state())
    second.load_state(make_backend(config).parameters(), None)
    assert entries_of(second.optimizer_state()) == entries_of(first.optimizer_state())


def test_a_state_of_other_parameters_is_refused_before_anything_changes() -> None:
    replica = Replica(SYNTHETIC, make_backend(SYNTHETIC), 0, range(8))
    before = replica.state()
    weight = np.zeros(40, np.float32)
    for parameters in ({"weight": weight}, {"weight": weight[1:], "bias": weight[:1]}):
        with pytest.raises(SchemaMismatch, match="restored state"):
            replica.load_state(parameters, None, 1)
    assert replica.state() == before
