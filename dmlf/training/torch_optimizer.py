"""SGD and AdamW as torch computes them, by the functions that its optimizer classes call.

The classes import torch's compiler when the first of them is made: over a second in every process,
for nothing that training here needs. The functions do the same arithmetic, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlf.config import RunConfig

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # torch.optim.AdamW's defaults


class TorchOptimizer:
    """The optimizer of `config` over named parameters; its state's names are those of torch's.

    named: parameters by name, float32 on the CPU. A parameter's state is made with its first
    gradient; one whose `grad` is None is passed over.
    """

    def __init__(self, torch: Any, config: RunConfig, named: Mapping[str, Any]) -> None:
        self._torch = torch
        # By their modules' names: torch.optim hides the modules behind the classes.
        self._sgd_function = import_module("torch.optim.sgd").sgd
        self._adamw_function = import_module("torch.optim.adamw").adamw
        self._config = config
        self._named = dict(named)
        self._state: dict[str, dict[str, Any]] = {}

    def step(self) -> None:
        """Apply every parameter's `grad`."""
        with_gradient = {n: p for n, p in self._named.items() if p.grad is not None}
        with self._torch.no_grad():
            if self._config.optimizer == "sgd":
                self._sgd(with_gradient)
            else:
                self._adamw(with_gradient)

    def clear_gradients(self) -> None:
        """Set every parameter's `grad` to None."""
        for parameter in self._named.values():
            parameter.grad = None

    def state(self, names: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
        """Every tensor of these parameters' state, by `parameter.key`, not copied."""
        return {
            f"{name}.{key}": value.numpy()
            for name in names
            for key, value in self._state.get(name, {}).items()
        }

    def load_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Replace the state by copies; what has none here has none afterwards."""
        self._state = {}
        for key, value in state.items():
            name, _, slot = key.rpartition(".")
            # A copy in torch's own memory, with its alignment; also of what has no dimensions.
            tensor = self._torch.from_numpy(np.ascontiguousarray(value)).clone()
            self._state.setdefault(name, {})[slot] = tensor.reshape(value.shape)

    def _sgd(self, named: Mapping[str, Any]) -> None:
        config = self._config
        buffers = [self._state.get(name, {}).get("momentum_buffer") for name in named]
        self._sgd_function(
            list(named.values()),
            [parameter.grad for parameter in named.values()],
            buffers,
            foreach=False,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            lr=config.learning_rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        if config.momentum != 0.0:
            for name, buffer in zip(named, buffers, strict=True):
                self._state[name] = {"momentum_buffer": buffer}

    def _adamw(self, named: Mapping[str, Any]) -> None:
        torch, config = self._torch, self._config
        for name, parameter in named.items():
            if name not in self._state:
                self._state[name] = {
                    "step": torch.tensor(0.0, dtype=torch.float32),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self._state[name] for name in named]
        self._adamw_function(
            list(named.values()),
            [parameter.grad for parameter in named.values()],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=False,
            amsgrad=False,
            beta1=_BETA1,
            beta2=_BETA2,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            eps=_EPSILON,
            maximize=False,
        )
