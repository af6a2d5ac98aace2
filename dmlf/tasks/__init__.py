"""Tasks: a model with its data and loss, chosen by name or as a user's `module:function`.

A task is a function that takes a `RunConfig` and returns a `TorchTask` or a `NumpyTask`. Shipped
names and a user's own functions go through the same code in `resolve_task`. Importing this
package loads neither torch nor scikit-learn; loading data or building a model may.
"""

from __future__ import annotations

from dmlf.tasks.description import describe_dataset
from dmlf.tasks.registry import TASKS, register_task, resolve_task, task_origin
from dmlf.tasks.task import Dataset, NumpyTask, TorchTask, refuse_unknown_options

__all__ = [
    "TASKS",
    "Dataset",
    "NumpyTask",
    "TorchTask",
    "describe_dataset",
    "refuse_unknown_options",
    "register_task",
    "resolve_task",
    "task_origin",
]
