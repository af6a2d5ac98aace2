"""dmlf: distributed training with the same bits at any world size.

The public names load what they need when they are first used, so `import dmlf` needs neither
torch nor a workflow engine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmlf.config import RunConfig as RunConfig
    from dmlf.errors import ConfigError as ConfigError
    from dmlf.errors import DmlfError as DmlfError
    from dmlf.errors import NoCheckpoint as NoCheckpoint
    from dmlf.errors import NoValidCheckpoint as NoValidCheckpoint
    from dmlf.numerics import exact_sum as exact_sum
    from dmlf.state import ElasticSampler as ElasticSampler
    from dmlf.state import LoadedState as LoadedState
    from dmlf.state import load as load
    from dmlf.state import save as save
    from dmlf.tasks import Dataset as Dataset
    from dmlf.tasks import NumpyTask as NumpyTask
    from dmlf.tasks import TorchTask as TorchTask
    from dmlf.tasks import register_task as register_task
    from dmlf.training.interceptor import GradientInterceptor as GradientInterceptor
    from dmlf.training.run import train as train
    from dmlf.transport import register_transport as register_transport

_HOMES = {
    "ConfigError": "dmlf.errors",
    "Dataset": "dmlf.tasks",
    "DmlfError": "dmlf.errors",
    "ElasticSampler": "dmlf.state",
    "GradientInterceptor": "dmlf.training.interceptor",
    "LoadedState": "dmlf.state",
    "NoCheckpoint": "dmlf.errors",
    "NoValidCheckpoint": "dmlf.errors",
    "NumpyTask": "dmlf.tasks",
    "RunConfig": "dmlf.config",
    "TorchTask": "dmlf.tasks",
    "exact_sum": "dmlf.numerics",
    "load": "dmlf.state",
    "register_task": "dmlf.tasks",
    "register_transport": "dmlf.transport",
    "save": "dmlf.state",
    "train": "dmlf.training.run",
}

__all__ = [
    "ConfigError",
    "Dataset",
    "DmlfError",
    "ElasticSampler",
    "GradientInterceptor",
    "LoadedState",
    "NoCheckpoint",
    "NoValidCheckpoint",
    "NumpyTask",
    "RunConfig",
    "TorchTask",
    "exact_sum",
    "load",
    "register_task",
    "register_transport",
    "save",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dmlf' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
