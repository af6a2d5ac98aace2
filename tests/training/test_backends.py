"""Both backends compute, step and describe their state alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dmlf.config import RunConfig
from dmlf.errors import ConfigError
from dmlf.tasks import Dataset, TorchTask
from dmlf.training.backend import state_sha256
from dmlf.training.numpy_backend import NumpyBackend
from dmlf.training.replica import Replica, make_backend

SYNTHETIC = RunConfig(task="synthetic", learning_rate=0.05)


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
