"""From a task's name to the task: shipped, registered, installed, or `module:function`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from dmlf.config import RunConfig
from dmlf.errors import ConfigError, DmlfError
from dmlf.plugins import Origin, Registry, module_of
from dmlf.tasks.task import NumpyTask, TorchTask

TaskFunction = Callable[[RunConfig], TorchTask | NumpyTask]
F = TypeVar("F", bound=TaskFunction)

TASKS: Registry[TaskFunction] = Registry(
    "task",
    decorator="@register_task",
    shipped={
        "digits": "dmlf.tasks.digits",
        "mnist": "dmlf.tasks.images",
        "fashion_mnist": "dmlf.tasks.images",
        "kmnist": "dmlf.tasks.images",
        "synthetic": "dmlf.tasks.synthetic",
    },
)
"""All tasks that have a name of one word; any other function is a task as `module:function`."""


def register_task(name: str) -> Callable[[F], F]:
    """Register the decorated function as the task `name`.

    Raises PluginError where the name is taken.
    """

    def decorate(function: F) -> F:
        TASKS.register(name, function, module_of(function))
        return function

    return decorate


def task_origin(name: str) -> Origin:
    """Where the task comes from, registered or `module:function`. Raises KeyError."""
    module, colon, _ = name.partition(":")
    return Origin(module) if colon else TASKS.origin(name)


def resolve_task(config: RunConfig) -> TorchTask | NumpyTask:
    """Return the task that `config.task` names; loads no data and builds no model.

    A name with a colon is `module:function`, looked for in the current directory first, then
    where Python finds modules. Raises ConfigError, caused by whatever the user's code raised;
    dmlf's own errors pass through unchanged.
    """
    named = TASKS.get(config.task)
    function = _import_function(config.task) if named is None else named
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


def _import_function(name: str) -> Callable[[RunConfig], Any]:
    module_name, colon, function_name = name.partition(":")
    parts = [*module_name.split("."), function_name]
    if not colon or not all(part.isidentifier() for part in parts):
        raise ConfigError(
            "task",
            name,
            f"one of {', '.join(TASKS)}, or module:function for a task of your own",
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
