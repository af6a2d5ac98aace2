"""Training without torch: tasks that give their own gradients, and the two optimizers in numpy."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlf.config import RunConfig
from dmlf.numerics.exact import Float32
from dmlf.tasks.task import NumpyTask
from dmlf.training.backend import OnComplete
from dmlf.training.sampler import SampleIds

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # torch.optim.AdamW's defaults


class NumpyBackend:
    """A model in plain numpy; see `dmlf.training.backend.Backend`."""

    def __init__(self, config: RunConfig, task: NumpyTask) -> None:
        data = task.load()
        self._inputs, self._targets = data.train_inputs, data.train_targets
        self._test_inputs, self._test_targets = data.test_inputs, data.test_targets
        self._loss_and_gradients = task.loss_and_gradients
        self.num_samples = len(data.train_inputs)
        self.num_threads: int | None = None
        self._parameters = task.initial_parameters()
        self._config = config
        self._state = self._initial_state()
        self._steps = 0

    def _initial_state(self) -> dict[str, Float32]:
        keys = ("momentum",) if self._config.optimizer == "sgd" else ("exp_avg", "exp_avg_sq")
        return {
            f"{name}.{key}": np.zeros_like(value)
            for name, value in self._parameters.items()
            for key in keys
        }

    def keep(self, names: Collection[str]) -> None:
        """Forget all other parameters and their moments; before the first step only."""
        self._parameters = {n: value for n, value in self._parameters.items() if n in names}
        self._state = self._initial_state()

    def parameters(self) -> dict[str, Float32]:
        """The parameters themselves."""
        return self._parameters

    def forward_backward(
        self,
        sample_ids: SampleIds,
        seed: int,
        gradients: Mapping[str, Float32],
        on_complete: OnComplete | None = None,
    ) -> float:
        """Write the task's own gradients, all at once; nothing is drawn with `seed`."""
        loss, computed = self._loss_and_gradients(
            self._parameters, self._inputs[sample_ids], self._targets[sample_ids]
        )
        for name, view in gradients.items():
            view[...] = computed[name]
        return loss

    def step(self, gradients: Mapping[str, Float32]) -> None:
        """SGD with momentum, or AdamW (Loshchilov & Hutter, 2019), as torch defines them."""
        self._steps += 1
        update = self._sgd if self._config.optimizer == "sgd" else self._adamw
        for name, parameter in self._parameters.items():
            update(name, parameter, gradients[name])

    def _sgd(self, name: str, parameter: Float32, gradient: Float32) -> None:
        config = self._config
        buffer = self._state[f"{name}.momentum"]
        buffer *= np.float32(config.momentum)
        buffer += gradient
        buffer += np.float32(config.weight_decay) * parameter
        parameter -= np.float32(config.learning_rate) * buffer

    def _adamw(self, name: str, parameter: Float32, gradient: Float32) -> None:
        config = self._config
        first, second = self._state[f"{name}.exp_avg"], self._state[f"{name}.exp_avg_sq"]
        parameter *= np.float32(1.0 - config.learning_rate * config.weight_decay)
        first += np.float32(1.0 - _BETA1) * (gradient - first)
        second *= np.float32(_BETA2)
        second += np.float32(1.0 - _BETA2) * gradient * gradient
        step_size = config.learning_rate / (1.0 - _BETA1**self._steps)
        correction = np.float32(np.sqrt(1.0 - _BETA2**self._steps))
        denominator = np.sqrt(second) / correction + np.float32(_EPSILON)
        parameter -= np.float32(step_size) * first / denominator

    def optimizer_state(self) -> dict[str, npt.NDArray[Any]]:
        """Momentum, or the two moments and the step count."""
        return {**self._state, "steps": np.array(self._steps, dtype=np.int64)}

    def load_state(
        self, parameters: Mapping[str, Float32], optimizer: Mapping[str, npt.NDArray[Any]] | None
    ) -> None:
        """Copy parameters, moments and step count."""
        for name, parameter in self._parameters.items():
            parameter[...] = parameters[name]
        if optimizer is None:
            return
        for key, moment in self._state.items():
            moment[...] = optimizer[key]
        self._steps = int(optimizer["steps"])

    def evaluate(self) -> tuple[float, None]:
        """Mean test loss; there are no classes."""
        loss, _ = self._loss_and_gradients(self._parameters, self._test_inputs, self._test_targets)
        return loss / len(self._test_inputs), None
