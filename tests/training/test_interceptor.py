"""Gradients are caught by hooks, parameter by parameter, and moved to where they are summed."""

from __future__ import annotations

import numpy as np
import pytest

from dmlf import GradientInterceptor

torch = pytest.importorskip("torch", reason="hooks on torch parameters")


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))


def backward(network: torch.nn.Module, scale: float = 1.0) -> None:
    torch.manual_seed(1)
    (network(torch.randn(5, 4)).square().sum() * scale).backward()


def test_snapshots_say_what_autograd_computed() -> None:
    expected = model()
    backward(expected)
    network = model()
    interceptor = GradientInterceptor(network.named_parameters(), keep_values=True)
    interceptor.redirect(12, {})
    backward(network)
    by_name = {snapshot.name: snapshot for snapshot in interceptor.snapshots}
    assert set(by_name) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    for name, parameter in expected.named_parameters():
        snapshot = by_name[name]
        assert snapshot.step == 12
        assert snapshot.shape == tuple(parameter.shape)
        assert snapshot.dtype == "float32"
        assert snapshot.norm == pytest.approx(float(parameter.grad.norm()))
        np.testing.assert_array_equal(snapshot.values, parameter.grad.numpy())


def test_values_are_kept_only_on_demand() -> None:
    network = model()
    interceptor = GradientInterceptor(network.named_parameters(), record=True)
    backward(network)
    assert len(interceptor.snapshots) == 4
    assert all(snapshot.values is None for snapshot in interceptor.snapshots)


def test_gradients_fill_their_destination_and_leave_the_parameter() -> None:
    network, expected = model(), model()
    backward(expected)
    interceptor = GradientInterceptor(network.named_parameters())
    destination = {
        name: np.full(tuple(parameter.shape), 9.0, np.float32)
        for name, parameter in network.named_parameters()
    }
    interceptor.redirect(0, destination)
    backward(network)
    for name, parameter in expected.named_parameters():
        np.testing.assert_array_equal(destination[name], parameter.grad.numpy())
    assert all(parameter.grad is None for parameter in network.parameters())

    backward(network)  # a second pass in the same step accumulates
    for name, parameter in expected.named_parameters():
        np.testing.assert_array_equal(destination[name], 2.0 * parameter.grad.numpy())


def test_a_parameter_without_a_gradient_counts_as_zero() -> None:
    network = model()
    interceptor = GradientInterceptor(network.named_parameters())
    destination = {
        name: np.full(tuple(parameter.shape), 9.0, np.float32)
        for name, parameter in network.named_parameters()
    }
    interceptor.redirect(0, destination)
    network[2](torch.ones(1, 3)).sum().backward()  # the first layer takes no part
    interceptor.zero_unseen()
    assert not destination["0.weight"].any()
    assert destination["2.weight"].all()


def test_frozen_parameters_are_left_alone_and_close_removes_the_hooks() -> None:
    network = model()
    network[0].weight.requires_grad_(False)
    interceptor = GradientInterceptor(network.named_parameters(), record=True)
    backward(network)
    assert {snapshot.name for snapshot in interceptor.snapshots} == {"0.bias", "2.weight", "2.bias"}
    interceptor.close()
    backward(network)
    assert len(interceptor.snapshots) == 3


def test_each_gradient_is_announced_once_it_is_written() -> None:
    network = model()
    interceptor = GradientInterceptor(network.named_parameters())
    destination = {
        name: np.full(tuple(parameter.shape), 9.0, np.float32)
        for name, parameter in network.named_parameters()
    }
    announced: dict[str, np.ndarray] = {}
    interceptor.redirect(
        0, destination, lambda name: announced.update({name: destination[name].copy()})
    )
    backward(network)
    assert set(announced) == set(destination)
    assert set(list(announced)[:2]) == {"2.weight", "2.bias"}  # backward begins with the last
    for name, values in announced.items():
        np.testing.assert_array_equal(values, destination[name])


def test_a_gradient_in_parts_is_refused_once_it_was_announced() -> None:
    network = model()
    interceptor = GradientInterceptor(network.named_parameters())
    destination = {n: p.detach().numpy().copy() for n, p in network.named_parameters()}
    interceptor.redirect(0, destination, lambda name: None)
    backward(network)
    with pytest.raises(RuntimeError, match="turn overlap off"):
        backward(network)
