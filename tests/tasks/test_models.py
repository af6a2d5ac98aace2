from __future__ import annotations

import pytest

from dmlf.config import RunConfig
from dmlf.errors import ConfigError
from dmlf.tasks import resolve_task
from dmlf.tasks.models import build_model, summed_cross_entropy

torch = pytest.importorskip("torch", reason="torch is not installed")

SHAPES = [(1, 8, 8), (1, 28, 28)]


def parameters(task: str, model: str, seed: int):
    torch.manual_seed(seed)
    return list(resolve_task(RunConfig(task=task, model=model)).build().state_dict().items())


@pytest.mark.parametrize("task", ["digits", "mnist"])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_seed_decides_every_bit_of_the_model(task, model):
    first, again, other = (parameters(task, model, seed) for seed in (3, 3, 4))
    assert [name for name, _ in first] == [name for name, _ in again]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for (_, a), (_, b) in zip(first, other, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize("hidden_sizes", [(), (7,), (7, 5)])
def test_outputs_have_one_logit_for_each_class(model, shape, hidden_sizes):
    built = build_model(model, hidden_sizes, shape, 10)
    assert built(torch.randn(3, *shape)).shape == (3, 10)
    dense = [layer for layer in built if isinstance(layer, torch.nn.Linear)]
    assert [layer.out_features for layer in dense] == [*hidden_sizes, 10]


@pytest.mark.parametrize("shape", SHAPES)
def test_cnn_sees_neighbouring_pixels(shape):
    kinds = [type(layer).__name__ for layer in build_model("cnn", (), shape, 10)]
    assert kinds.count("Conv2d") == 2


@pytest.mark.parametrize("shape", [(64,), (1, 3, 8), (8, 8)])
def test_cnn_refuses_what_is_no_image(shape):
    with pytest.raises(ConfigError) as caught:
        build_model("cnn", (4,), shape, 10)
    assert caught.value.key == "model"


def test_loss_is_summed_over_samples():
    outputs, targets = torch.randn(6, 4), torch.tensor([0, 3, 1, 2, 2, 0])
    each = [-outputs[i].log_softmax(0)[targets[i]] for i in range(6)]
    torch.testing.assert_close(summed_cross_entropy(outputs, targets), sum(each))
