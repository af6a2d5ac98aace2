"""From a task's name to the task: shipped names and a user's `module:function` alike."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from dmlf.config import RunConfig
from dmlf.errors import ConfigError, DmlfError
from dmlf.tasks.task import NumpyTask, TorchTask

SHIPPED: dict[str, str] = {
    "digits": "dmlf.tasks.digits:digits",
    "mnist": "dmlf.tasks.images:mnist",
    "fashion_mnist": "dmlf.tasks.images:fashion_mnist",
    "kmnist": "dmlf.tasks.images:kmnist",
    "synthetic": "dmlf.tasks.synthetic:synthetic",
}


def resolve_task(config: RunConfig) -> TorchTask | NumpyTask:
    """Return the task that `config.task` names; loads no data and builds no model.

    A name with a colon is `module:function`, looked for in the current directory first, then
    where Python finds modules. Raises ConfigError, caused by whatever the user's code raised;
    dmlf's own errors pass through unchanged.
    """
    function = _import_function(config.task, SHIPPED.get(config.task, config.task))
    try:
        task = function(config)
    except DmlfError:
        raise
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        allowed = f"a function that takes a RunConfig and returns a task; it raised {reason}"
        raise ConfigError("task", config.task, allowed) from error
    if not isinstance(task, TorchTask | NumpyTask):
        returned = type(task).__name__
        raise ConfigError(
            "task",
            config.task,
            f"a function that returns a TorchTask or a NumpyTask; it returned {returned}",
        )
    return task


def _import_function(name: str, target: str) -> Callable[[RunConfig], Any]:
    module_name, colon, function_name = target.partition(":")
    parts = [*module_name.split("."), function_name]
    if not colon or not all(part.isidentifier() for part in parts):
        raise ConfigError(
            "task",
            name,
            f"one of {', '.join(SHIPPED)}, or module:function for a task of your own",
        )
    # A console script, unlike `python -m`, does not put the current directory on the path.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except DmlfError:
        raise
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            "task", name, f"a module that can be imported from {os.getcwd()} ({reason})"
        ) from error
    function: Callable[[RunConfig], Any] | None = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(
            "task", name, f"a function of module {module_name}, which has no {function_name!r}"
        )
    return function
