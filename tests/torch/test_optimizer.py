"""The optimizer shaped like Horovod's, and what brings state to all ranks."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import dmlf  # noqa: E402
from dmlf.errors import ConfigError  # noqa: E402
from tests.torch import optimizer_programs as programs  # noqa: E402
from tests.torch import training  # noqa: E402


@pytest.fixture
def alone():
    """A group of this process alone."""
    yield dmlf.init()
    dmlf.shutdown()


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_exact_training_gives_the_bits_of_serial(world_size: int) -> None:
    expected = training.serial_training(4)
    for state in dmlf.launch(programs.with_optimizer, world_size, ("exact", 4)):
        assert training.digest(state) == training.digest(expected)


def test_float32_training_is_near_serial_and_equal_on_all_ranks() -> None:
    expected = training.serial_training(4)
    states = dmlf.launch(programs.with_optimizer, 3, ("float32", 4))
    assert len({training.digest(state) for state in states}) == 1
    for name, value in states[0].items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-6)


def test_errors_are_typed_and_the_same_on_all_ranks() -> None:
    results = dmlf.launch(programs.optimizer_errors, 2)
    for settings, values, passes, finite in results:
        assert settings.startswith("SchemaMismatch: rank 1 expected lr of group 0 0.1 ")
        assert values.startswith("SchemaMismatch")
        assert "dmlf.broadcast_parameters" in values
        assert passes.startswith("ConfigError: backward_passes_per_step: 1")
        assert finite.startswith("NonFiniteGradient")


@pytest.mark.parametrize("case", ["adam", "sgd", "rmsprop"])
def test_the_state_of_one_optimizer_comes_to_all(case: str) -> None:
    results = dmlf.launch(programs.optimizer_state, 3, (case,))
    expected = results[1][0]
    assert expected["param_groups"][0]["lr"] == 0.05
    for _, after in results:
        assert after["param_groups"] == expected["param_groups"]
        assert after["state"].keys() == expected["state"].keys()
        for index, state in expected["state"].items():
            torch.testing.assert_close(after["state"][index], state, rtol=0, atol=0)


def test_plain_values_come_to_all_and_nothing_else_does() -> None:
    for value, refusal in dmlf.launch(programs.plain_values, 2):
        assert value == {"epoch": 7, "best": [0.5, None]}
        assert refusal.startswith("value: 'set' is not allowed")


def test_ranks_that_are_through_end_with_the_state_of_the_others() -> None:
    results = dmlf.launch(programs.joining_optimizer, 3)
    assert len({training.digest(parameters) for parameters, _ in results}) == 1
    assert len({training.digest(momenta) for _, momenta in results}) == 1
    assert len(results[0][1]) == 6


def test_names_must_be_those_of_the_parameters(alone) -> None:
    model = training.mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match="no name for parameter 2 of group 0"):
        dmlf.DistributedOptimizer(optimizer, list(model.named_parameters())[:2])
    twice = [(name.replace("2", "0"), parameter) for name, parameter in model.named_parameters()]
    with pytest.raises(ConfigError, match=r"0\.weight.*every name once"):
        dmlf.DistributedOptimizer(optimizer, twice)


def test_the_wrapper_is_an_optimizer(alone) -> None:
    model = training.mlp()
    plain = torch.optim.Adam(model.parameters(), lr=0.1)
    optimizer = dmlf.DistributedOptimizer(plain)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups is plain.param_groups
    inputs, targets = training.samples(8)

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss

    calls = alone.calls
    first, second = optimizer.step(closure), optimizer.step(closure)
    assert second < first
    assert alone.calls == calls + 3  # a check of the parameters, and two sums
    saved = optimizer.state_dict()
    optimizer.load_state_dict(saved)
    assert plain.state_dict()["state"][0]["step"] == 2
    with pytest.raises(ConfigError, match="before the optimizer is wrapped"):
        optimizer.add_param_group({"params": []})


def test_copies_are_those_of_its_state(alone) -> None:
    plain = torch.optim.SGD(programs.mlp().parameters(), lr=0.1, momentum=0.9)
    optimizer = dmlf.DistributedOptimizer(plain)
    with pytest.raises(ConfigError, match="state_dict"):
        copy.deepcopy(optimizer)
    copy.deepcopy(optimizer.state_dict())


def test_after_a_pass_that_failed_the_next_one_counts(alone) -> None:
    model = programs.mlp()
    optimizer = dmlf.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1))
    inputs, _ = programs.samples(4)
    hook = model[0].weight.register_hook(_fail)
    with pytest.raises(ZeroDivisionError):
        model(inputs).sum().backward()
    hook.remove()
    optimizer.zero_grad()
    model(inputs).sum().backward()
    with pytest.raises(ConfigError, match="backward_passes_per_step"):
        model(inputs).sum().backward()


def _fail(_gradient: object) -> None:
    raise ZeroDivisionError


def test_zero_grad_drops_what_was_not_stepped(alone) -> None:
    model = training.mlp()
    inputs, targets = training.samples(8)
    gradients = []
    optimizer = dmlf.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1), reduction="exact"
    )
    for drops in (False, True):
        for _ in range(1 + drops):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.synchronize()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        optimizer.zero_grad()
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
