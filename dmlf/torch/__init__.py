"""For users of PyTorch: the forms of DistributedDataParallel and Horovod, and a torch backend.

Importing this registers the backend `dmlf` of torch.distributed.
"""

from dmlf.torch.backend import BackendOptions, DmlfProcessGroup, register_backend
from dmlf.torch.broadcast import (
    broadcast_object,
    broadcast_optimizer_state,
    broadcast_parameters,
)
from dmlf.torch.ddp import DistributedDataParallel
from dmlf.torch.hook import CommHookState, comm_hook
from dmlf.torch.optimizer import DistributedOptimizer
from dmlf.torch.sampler import ShardedBatchSampler

register_backend()

__all__ = [
    "BackendOptions",
    "CommHookState",
    "DistributedDataParallel",
    "DistributedOptimizer",
    "DmlfProcessGroup",
    "ShardedBatchSampler",
    "broadcast_object",
    "broadcast_optimizer_state",
    "broadcast_parameters",
    "comm_hook",
    "register_backend",
]
