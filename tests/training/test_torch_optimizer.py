"""The optimizer's functions do what torch's optimizer classes do, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from dmlf.config import RunConfig
from dmlf.training.torch_optimizer import TorchOptimizer

torch = pytest.importorskip("torch", reason="torch is not installed")

CASES = [
    ({"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.0}, torch.optim.SGD, ("momentum",)),
    (
        {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01},
        torch.optim.SGD,
        ("momentum", "weight_decay"),
    ),
    (
        {"optimizer": "adamw", "learning_rate": 0.002, "weight_decay": 0.01},
        torch.optim.AdamW,
        ("weight_decay",),
    ),
]
SHAPES = {"first.weight": (5, 3), "first.bias": (5,), "second.weight": (257,)}


def parameters() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {n: torch.randn(shape, generator=generator) for n, shape in SHAPES.items()}


def set_gradients(step: int, *models: dict[str, Any]) -> None:
    """Give every parameter the gradient of `step`; the last has none in every other step."""
    generator = torch.Generator().manual_seed(100 + step)
    for name, shape in SHAPES.items():
        gradient = torch.randn(shape, generator=generator)
        for model in models:
            without = name == "second.weight" and step % 2 == 0
            model[name].grad = None if without else gradient.clone()


@pytest.mark.parametrize(("settings", "reference", "names"), CASES)
def test_steps_are_those_of_torchs_classes_bit_for_bit(settings, reference, names) -> None:
    config = RunConfig(**settings)
    ours, theirs = parameters(), parameters()
    optimizer = TorchOptimizer(torch, config, ours)
    expected = reference(
        theirs.values(), lr=config.learning_rate, **{name: settings[name] for name in names}
    )
    for step in range(7):
        if step == 4:  # What was saved and loaded goes on in the same way.
            kept = {key: value.copy() for key, value in optimizer.state(SHAPES).items()}
            optimizer = TorchOptimizer(torch, config, ours)
            optimizer.load_state(kept)
        set_gradients(step, ours, theirs)
        optimizer.step()
        expected.step()
        for name in SHAPES:
            assert torch.equal(ours[name], theirs[name]), (step, name)
        state = {
            f"{name}.{key}": value
            for name in SHAPES
            for key, value in expected.state.get(theirs[name], {}).items()
            if isinstance(value, torch.Tensor)
        }
        held = optimizer.state(SHAPES)
        assert sorted(held) == sorted(state)
        for key, value in state.items():
            assert np.array_equal(held[key], value.numpy()), (step, key)
            assert held[key].shape == tuple(value.shape)


def test_training_does_not_import_the_compiler_nor_scikit_learn() -> None:
    program = """
import sys
import numpy as np
from dmlf.config import RunConfig
from dmlf.tasks import resolve_task
from dmlf.training.torch_backend import TorchBackend

for optimizer in ("sgd", "adamw"):
    config = RunConfig(task="digits", hidden_sizes=(8,), optimizer=optimizer)
    backend = TorchBackend(config, resolve_task(config))
    gradients = {n: np.zeros_like(p) for n, p in backend.parameters().items()}
    backend.forward_backward(np.arange(4), 0, gradients)
    backend.step(gradients)
    backend.evaluate()
print(sorted({"torch._dynamo", "sklearn", "scipy"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "[]\n"
