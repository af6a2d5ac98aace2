"""dmlf: data-parallel training on CPUs whose result can be checked, bit for bit.

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
    from dmlf.errors import NonFiniteGradient as NonFiniteGradient
    from dmlf.errors import NoValidCheckpoint as NoValidCheckpoint
    from dmlf.group import Group as Group
    from dmlf.group import all_gather as all_gather
    from dmlf.group import all_reduce as all_reduce
    from dmlf.group import barrier as barrier
    from dmlf.group import broadcast as broadcast
    from dmlf.group import init as init
    from dmlf.group import is_initialized as is_initialized
    from dmlf.group import launch as launch
    from dmlf.group import rank as rank
    from dmlf.group import shutdown as shutdown
    from dmlf.group import world_size as world_size
    from dmlf.numerics import exact_sum as exact_sum
    from dmlf.state import ElasticSampler as ElasticSampler
    from dmlf.state import ElasticState as ElasticState
    from dmlf.state import LoadedState as LoadedState
    from dmlf.state import elastic as elastic
    from dmlf.state import load as load
    from dmlf.state import save as save
    from dmlf.tasks import Dataset as Dataset
    from dmlf.tasks import NumpyTask as NumpyTask
    from dmlf.tasks import TorchTask as TorchTask
    from dmlf.tasks import register_task as register_task
    from dmlf.torch import CommHookState as CommHookState
    from dmlf.torch import DistributedDataParallel as DistributedDataParallel
    from dmlf.torch import DistributedOptimizer as DistributedOptimizer
    from dmlf.torch import ShardedBatchSampler as ShardedBatchSampler
    from dmlf.torch import broadcast_object as broadcast_object
    from dmlf.torch import broadcast_optimizer_state as broadcast_optimizer_state
    from dmlf.torch import broadcast_parameters as broadcast_parameters
    from dmlf.torch import comm_hook as comm_hook
    from dmlf.training.interceptor import GradientInterceptor as GradientInterceptor
    from dmlf.training.run import train as train
    from dmlf.transport import register_transport as register_transport

_HOMES = {
    "CommHookState": "dmlf.torch",
    "ConfigError": "dmlf.errors",
    "Dataset": "dmlf.tasks",
    "DistributedDataParallel": "dmlf.torch",
    "DistributedOptimizer": "dmlf.torch",
    "DmlfError": "dmlf.errors",
    "ElasticSampler": "dmlf.state",
    "ElasticState": "dmlf.state",
    "GradientInterceptor": "dmlf.training.interceptor",
    "Group": "dmlf.group",
    "LoadedState": "dmlf.state",
    "NoCheckpoint": "dmlf.errors",
    "NoValidCheckpoint": "dmlf.errors",
    "NonFiniteGradient": "dmlf.errors",
    "NumpyTask": "dmlf.tasks",
    "RunConfig": "dmlf.config",
    "ShardedBatchSampler": "dmlf.torch",
    "TorchTask": "dmlf.tasks",
    "all_gather": "dmlf.group",
    "all_reduce": "dmlf.group",
    "barrier": "dmlf.group",
    "broadcast": "dmlf.group",
    "broadcast_object": "dmlf.torch",
    "broadcast_optimizer_state": "dmlf.torch",
    "broadcast_parameters": "dmlf.torch",
    "comm_hook": "dmlf.torch",
    "elastic": "dmlf.state",
    "exact_sum": "dmlf.numerics",
    "init": "dmlf.group",
    "is_initialized": "dmlf.group",
    "launch": "dmlf.group",
    "load": "dmlf.state",
    "rank": "dmlf.group",
    "register_task": "dmlf.tasks",
    "register_transport": "dmlf.transport",
    "save": "dmlf.state",
    "shutdown": "dmlf.group",
    "train": "dmlf.training.run",
    "world_size": "dmlf.group",
}

__all__ = [
    "CommHookState",
    "ConfigError",
    "Dataset",
    "DistributedDataParallel",
    "DistributedOptimizer",
    "DmlfError",
    "ElasticSampler",
    "ElasticState",
    "GradientInterceptor",
    "Group",
    "LoadedState",
    "NoCheckpoint",
    "NoValidCheckpoint",
    "NonFiniteGradient",
    "NumpyTask",
    "RunConfig",
    "ShardedBatchSampler",
    "TorchTask",
    "all_gather",
    "all_reduce",
    "barrier",
    "broadcast",
    "broadcast_object",
    "broadcast_optimizer_state",
    "broadcast_parameters",
    "comm_hook",
    "elastic",
    "exact_sum",
    "init",
    "is_initialized",
    "launch",
    "load",
    "rank",
    "register_task",
    "register_transport",
    "save",
    "shutdown",
    "train",
    "world_size",
]


if not TYPE_CHECKING:  # a type checker shall know the names above, and no others

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'dmlf' has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
