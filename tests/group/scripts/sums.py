"""A user's training script, as short as can be: the same under every launcher, and alone."""

import os
import sys

import numpy as np

import dmlf

if "--torch-first" in sys.argv:
    import torch.distributed as dist

    dist.init_process_group("gloo")

group = dmlf.init(timeout_s=60)
total = dmlf.all_reduce(np.arange(4.0) + dmlf.rank())
print(f"rank {dmlf.rank()} of {dmlf.world_size()} {total.tolist()}")
if "--dies-once" in sys.argv and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    if dmlf.rank() == 1:
        os._exit(3)
    dmlf.barrier()
dmlf.shutdown()
if "--again" in sys.argv:
    dmlf.init(timeout_s=60)
    dmlf.broadcast(total, root=dmlf.world_size() - 1)
    print(f"again {dmlf.rank()} {total.tolist()}")
if "--torch-after" in sys.argv:
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    ones = torch.ones(2)
    dist.all_reduce(ones)
    print(f"torch {dist.get_rank()} {ones.tolist()}")
    dist.destroy_process_group()
