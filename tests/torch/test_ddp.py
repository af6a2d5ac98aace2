"""The wrapper shaped like torch's DistributedDataParallel."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import dmlf  # noqa: E402
from dmlf.errors import ConfigError  # noqa: E402
from tests.torch import ddp_programs as programs  # noqa: E402
from tests.torch import training  # noqa: E402


@pytest.fixture
def alone():
    """A group of this process alone."""
    yield dmlf.init()
    dmlf.shutdown()


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_exact_training_gives_the_bits_of_serial(world_size: int) -> None:
    expected = training.serial_training(4)
    for state in dmlf.launch(programs.exact_training, world_size, (4,)):
        assert list(state) == list(expected)
        assert training.digest(state) == training.digest(expected)


def test_exact_bits_depend_on_neither_buckets_nor_transport() -> None:
    expected = training.digest(training.serial_training(2))
    states = dmlf.launch(programs.exact_training, 2, (2, 0.0002), transport="tcp")
    assert {training.digest(state) for state in states} == {expected}


@pytest.mark.parametrize("case", programs.CASES)
def test_float32_training_agrees_with_stock_ddp(case: str) -> None:
    results = dmlf.launch(programs.beside_stock_ddp, 2, (case,))
    trained = [name for name in results[0][1] if "running" not in name and "batches" not in name]
    assert len({training.digest(ours) for _, ours in results}) == 1
    for theirs, ours in results:
        for name in trained:
            atol = 4e-3 if case == "mixed" and name.startswith("narrow") else 1e-6
            np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=atol)
    theirs, ours = results[0]  # stock DDP brings its buffers together a step later
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=4e-3)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_that_are_through_accompany_the_others(world_size: int) -> None:
    results = dmlf.launch(programs.joining, world_size)
    assert [made for _, made in results] == [2 + rank for rank in range(world_size)]
    expected = programs.joining_serially(world_size)
    assert len({training.digest(state) for state, _ in results}) == 1
    for name, value in results[0][0].items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("shape", ["2.weight float32[9, 16]", "2.weight float32[10, 16]"]),
        ("dtype", ["2.weight float32[9, 16]", "2.weight float64[9, 16]"]),
        ("frozen", ["2.weight float32[9, 16], trained", "2.weight float32[9, 16] "]),
        ("fewer", ["3.weight float32[3, 9]", "nothing there"]),
        ("name", ["3.weight float32[3, 9]", "extra.weight float32[3, 9]"]),
        ("options", ["25.0 MiB", "1.0 MiB"]),
    ],
)
def test_modules_that_differ_are_named_on_all_ranks(kind: str, named: list[str]) -> None:
    messages = dmlf.launch(programs.different_modules, 2, (kind,))
    assert messages[0] == messages[1]
    assert messages[0].startswith("SchemaMismatch: rank 1 expected ")
    assert all(part in messages[0] for part in named)


def test_values_that_differ_become_those_of_rank_0() -> None:
    results = dmlf.launch(programs.different_values, 3)
    expected = training.digest(results[0][0])
    assert len({training.digest(before) for before, _ in results}) == 3
    assert {training.digest(after) for _, after in results} == {expected}


@pytest.mark.parametrize("reduction", ["float32", "exact"])
def test_a_gradient_that_is_not_finite_is_refused_by_all(reduction: str) -> None:
    results = dmlf.launch(programs.not_finite, 2, (reduction,))
    for seen, state in results:
        assert seen == ["applied", "NonFiniteGradient", "applied", "applied"]
        assert all(np.isfinite(value).all() for value in state.values())
    assert training.digest(results[0][1]) == training.digest(results[1][1])


def test_backward_passes_in_another_order_are_refused_by_all() -> None:
    for errors in dmlf.launch(programs.other_models_in_turn, 2):
        assert len(errors) == 2
        assert "DistributedDataParallel step (6 gradients, float32, mean)" in errors[0]
        assert "DistributedDataParallel step (2 gradients, float32, mean)" in errors[0]
        assert all(error.startswith("CollectiveMismatch") for error in errors)


def test_a_closed_group_is_named() -> None:
    assert dmlf.launch(programs.closed_group, 2) == ["GroupClosed"] * 2


def test_state_has_the_names_of_the_plain_module(alone) -> None:
    plain = training.normalised()
    model = dmlf.DistributedDataParallel(training.normalised())
    assert list(model.state_dict()) == list(plain.state_dict())
    other = {key: value + 1 for key, value in plain.state_dict().items()}
    model.load_state_dict(other)
    torch.testing.assert_close(dict(model.module.state_dict()), other, rtol=0, atol=0)
    model.load_state_dict({f"module.{key}": value + 1 for key, value in other.items()})
    torch.testing.assert_close(model.state_dict()["0.bias"], other["0.bias"] + 1)
    plain.load_state_dict(model.state_dict())

    outer = torch.nn.Sequential(model)
    assert list(outer.state_dict()) == [f"0.{key}" for key in plain.state_dict()]
    outer.load_state_dict({f"0.{key}": value for key, value in other.items()})
    torch.testing.assert_close(model.state_dict()["0.bias"], other["0.bias"])
    with pytest.raises(RuntimeError, match=r"Missing key.*0\.weight"):
        model.load_state_dict({"0.bias": other["0.bias"]})


def test_unfreezing_after_wrapping_is_refused(alone) -> None:
    model = dmlf.DistributedDataParallel(programs.Branches())
    model.module.frozen.requires_grad_(True)
    inputs, _ = training.samples(4)
    with pytest.raises(ConfigError, match=r"frozen\.weight.*wrap it after unfreezing"):
        model(inputs, branch="left")["outputs"][0].sum().backward()


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"reduction": "float64"}, "reduction"),
        ({"gradient_op": "max"}, "gradient_op"),
        ({"bucket_cap_mb": 0}, "bucket_cap_mb"),
        ({"algorithm": "parameter_server"}, "algorithm"),
        ({"algorithm": "star"}, "algorithm"),
    ],
)
def test_bad_options_are_named(alone, options, key) -> None:
    with pytest.raises(ConfigError) as caught:
        dmlf.DistributedDataParallel(training.mlp(), **options)
    assert caught.value.key == key


def test_modules_that_cannot_be_trained_are_named(alone) -> None:
    with pytest.raises(ConfigError, match="requires_grad"):
        dmlf.DistributedDataParallel(torch.nn.ReLU())
    with pytest.raises(ConfigError, match=r"torch\.nn\.Module"):
        dmlf.DistributedDataParallel([programs.mlp()])
    with pytest.raises(ConfigError, match="lazy"):
        dmlf.DistributedDataParallel(torch.nn.LazyLinear(3))
    with pytest.raises(ConfigError, match=r"wide\.weight"):
        dmlf.DistributedDataParallel(training.Mixed(), reduction="exact")


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copies_are_those_of_the_plain_module(alone, duplicate) -> None:
    model = dmlf.DistributedDataParallel(programs.mlp())
    with pytest.raises(ConfigError, match=r"\.module"):
        duplicate(model)
    with pytest.raises(ConfigError, match="group"):
        duplicate(alone)
    duplicate(model.module)


def test_the_passes_of_reentrant_checkpoints_are_one_term(alone) -> None:
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = training.mlp()

        def forward(self, inputs):
            hidden = checkpoint(self.inner, inputs, use_reentrant=True)
            return hidden + self.inner(inputs)

    inputs, _ = training.samples(4)
    inputs.requires_grad_(True)
    plain = Checkpointed()
    plain(inputs).sum().backward()
    model = dmlf.DistributedDataParallel(Checkpointed())
    calls = alone.calls
    model(inputs).sum().backward()
    assert alone.calls == calls + 1
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)


@pytest.mark.parametrize("reduction", ["float32", "exact"])
def test_a_sum_is_not_summed_again(alone, reduction) -> None:
    model = dmlf.DistributedDataParallel(
        programs.Branches(), reduction=reduction, gradient_op="sum"
    )
    inputs, _ = programs.samples(4)

    def backward(branch: str) -> None:
        model(inputs, branch=branch)["outputs"][0].sum().backward()

    backward("left")
    once = [parameter.grad.clone() for parameter in model.module.left.parameters()]
    for branch in ("left", "right"):  # touches the sum again, or leaves it where it is
        with pytest.raises(ConfigError, match="zero_grad"):
            backward(branch)
    for set_to_none in (False, True):
        model.zero_grad(set_to_none)
        backward("left")
        for parameter, expected in zip(model.module.left.parameters(), once, strict=True):
            torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=0)


def test_a_pass_that_failed_leaves_nothing_to_the_next(alone) -> None:
    model = dmlf.DistributedDataParallel(programs.mlp())
    calls = alone.calls
    inputs, _ = programs.samples(4)
    hook = model.module[0].weight.register_hook(_fail)
    with pytest.raises(ZeroDivisionError):
        model(inputs).sum().backward()
    hook.remove()
    with model.no_sync():
        model(inputs).sum().backward()
    assert alone.calls == calls


def _fail(_gradient: object) -> None:
    raise ZeroDivisionError


def test_sparse_gradients_are_named(alone) -> None:
    model = dmlf.DistributedDataParallel(torch.nn.Embedding(5, 3, sparse=True))
    with pytest.raises(ConfigError, match=r"gradient of weight.*sparse=False"):
        model(torch.tensor([1, 2])).sum().backward()


def test_buffers_may_all_be_empty(alone) -> None:
    model = torch.nn.Linear(2, 1)
    model.register_buffer("empty", torch.empty(0))
    dmlf.DistributedDataParallel(model)(torch.ones(3, 2)).sum().backward()
    assert model.weight.grad.tolist() == [[3.0, 3.0]]


@pytest.mark.parametrize("value", [{1: "a"}, [{"a": {None: 2}}]])
def test_keys_that_would_change_on_the_way_are_refused(alone, value: object) -> None:
    with pytest.raises(ConfigError, match="keys are texts"):
        dmlf.broadcast_object(value)


def test_an_object_too_deep_to_send_is_refused(alone) -> None:
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ConfigError):
        dmlf.broadcast_object(value)
