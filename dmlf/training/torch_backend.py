"""Training with torch: the model, its data and its optimizer, made deterministic."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy.typing as npt

from dmlf.config import RunConfig
from dmlf.env import require_torch
from dmlf.errors import ConfigError
from dmlf.numerics.exact import Float32
from dmlf.tasks.task import TorchTask
from dmlf.training.backend import OnComplete
from dmlf.training.interceptor import GradientInterceptor
from dmlf.training.sampler import SampleIds
from dmlf.training.torch_optimizer import TorchOptimizer

_EVALUATION_BATCH = 1000


class TorchBackend:
    """A torch model on the CPU; see `dmlf.training.backend.Backend`.

    The same (config.seed, task) gives the same initial parameters in every process. Sets torch's
    thread counts and deterministic mode for the whole process.
    """

    def __init__(self, config: RunConfig, task: TorchTask) -> None:
        torch = require_torch()
        self._torch = torch
        torch.set_num_threads(config.threads_per_rank)
        # Not use_deterministic_algorithms, which imports the compiler: 3 s in every process.
        torch.set_deterministic_debug_mode("error")
        data = task.load()
        self._inputs = torch.from_numpy(data.train_inputs)
        self._targets = torch.from_numpy(data.train_targets)
        self._test_inputs = torch.from_numpy(data.test_inputs)
        self._test_targets = torch.from_numpy(data.test_targets)
        self._num_classes = data.num_classes
        self._loss = task.loss
        self.num_samples = len(data.train_inputs)
        self.num_threads: int | None = torch.get_num_threads()

        torch.manual_seed(config.seed)
        self.model = task.build()
        self._named = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        for name, parameter in self._named.items():
            if parameter.dtype != torch.float32:
                raise ConfigError(f"parameter {name}", str(parameter.dtype), "torch.float32")
        self._optimizer = TorchOptimizer(torch, config, self._named)
        self._interceptor = GradientInterceptor(self._named.items())
        self._step = 0

    def parameters(self) -> dict[str, Float32]:
        """The parameters as numpy views of torch's own storage."""
        return {name: parameter.detach().numpy() for name, parameter in self._named.items()}

    def forward_backward(
        self,
        sample_ids: SampleIds,
        seed: int,
        gradients: Mapping[str, Float32],
        on_complete: OnComplete | None = None,
    ) -> float:
        """One forward and one backward pass; hooks write the gradients to `gradients`."""
        self._interceptor.redirect(self._step, gradients, on_complete)
        loss = self.backward(self.model, sample_ids, seed)
        self._interceptor.zero_unseen()
        return loss

    def backward(self, model: Any, sample_ids: SampleIds, seed: int) -> float:
        """Run `model` (this model, or a wrapper of it) forward and backward; return the loss."""
        torch = self._torch
        torch.manual_seed(seed)
        index = torch.from_numpy(sample_ids)
        model.train()
        loss = self._loss(model(self._inputs[index]), self._targets[index])
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def keep(self, names: Collection[str]) -> None:
        """Free the storage of all other parameters; the optimizer passes them over.

        Its state is made with a parameter's first gradient, which they never get.
        """
        for name, parameter in self._named.items():
            if name not in names:
                parameter.data = parameter.data.new_empty(0)
        self._named = {name: self._named[name] for name in self._named if name in names}

    def step(self, gradients: Mapping[str, Float32]) -> None:
        """Let the torch optimizer apply `gradients`."""
        for name, parameter in self._named.items():
            parameter.grad = self._torch.from_numpy(gradients[name])
        self.step_own_gradients(1.0)

    def step_own_gradients(self, factor: float) -> None:
        """Let the optimizer apply `parameter.grad` times `factor`, and clear it."""
        if factor != 1.0:
            for parameter in self._named.values():
                assert parameter.grad is not None
                parameter.grad.mul_(factor)
        self._optimizer.step()
        self.clear_gradients()
        self._step += 1

    def clear_gradients(self) -> None:
        """Forget `parameter.grad` of all parameters."""
        self._optimizer.clear_gradients()

    def detach_interceptor(self) -> None:
        """Leave gradients where autograd puts them, for a wrapper that moves them itself."""
        self._interceptor.close()

    def optimizer_state(self) -> dict[str, npt.NDArray[Any]]:
        """Every tensor of the optimizer's state, named `parameter.key`."""
        return self._optimizer.state(self._named)

    def load_state(
        self, parameters: Mapping[str, Float32], optimizer: Mapping[str, npt.NDArray[Any]] | None
    ) -> None:
        """Copy the parameters, and the optimizer's tensors into a state made anew.

        torch makes a parameter's state with its first gradient, so what was not there stays away.
        """
        torch = self._torch
        for name, parameter in self._named.items():
            parameter.data.copy_(torch.from_numpy(parameters[name]))
        if optimizer is not None:
            self._optimizer.load_state(optimizer)

    def evaluate(self) -> tuple[float, float | None]:
        """Mean test loss, and accuracy where there are classes."""
        torch = self._torch
        total, correct = 0.0, 0
        self.model.eval()
        with torch.no_grad():
            for start in range(0, len(self._test_inputs), _EVALUATION_BATCH):
                part = slice(start, start + _EVALUATION_BATCH)
                outputs, targets = self.model(self._test_inputs[part]), self._test_targets[part]
                total += float(self._loss(outputs, targets))
                if self._num_classes is not None:
                    correct += int((outputs.argmax(dim=1) == targets).sum())
        count = len(self._test_inputs)
        return total / count, None if self._num_classes is None else correct / count
