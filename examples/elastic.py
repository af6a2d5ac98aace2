"""Trains on as many ranks as there are: ranks may be killed, leave and join, and no bit changes.

dmlf run --nproc 4 --min-workers 2 --max-workers 5 elastic.py out.pt

While it runs: kill -9 a rank, kill -TERM a rank (it leaves), kill -USR1 the launcher (one joins).
"""

import hashlib
import sys

import torch
from torch.nn.functional import cross_entropy

import dmlf

EPOCHS, SHARDS, SHARD_SIZE = 4, 60, 8

torch.manual_seed(0)
inputs = torch.randn(SHARDS, SHARD_SIZE, 20)
targets = inputs[:, :, :3].argmax(dim=2)
model = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
# What is dealt are shards of 8 samples, a backward pass each: then no world size changes a pass.
sampler = dmlf.ElasticSampler(SHARDS, global_batch_size=6, seed=0)
ddp = dmlf.DistributedDataParallel(model, reduction="exact", gradient_op="sum")
state = dmlf.ElasticState(model=model, optimizer=optimizer, sampler=sampler, epoch=0, sizes=[])


@dmlf.elastic
def train(state: dmlf.ElasticState) -> None:
    for epoch in range(state.epoch, EPOCHS):
        state.epoch = epoch
        sampler.set_epoch(epoch)
        for shards in sampler:
            optimizer.zero_grad()
            for shard in shards[:-1]:
                with ddp.no_sync():
                    loss_of(shard).backward()
            loss_of(shards[-1]).backward()
            optimizer.step()
            sampler.advance()
            state.sizes = [*state.sizes, dmlf.world_size()]
            state.commit()


def loss_of(shard: int) -> torch.Tensor:
    total = cross_entropy(ddp(inputs[shard]), targets[shard], reduction="sum")
    return total / (sampler.global_batch_size * SHARD_SIZE)


train(state)
if dmlf.rank() == 0:
    torch.save(model.state_dict(), sys.argv[1])
    parameters = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    print(f"{len(state.sizes)} steps, world sizes {sorted(set(state.sizes))}")
    print(f"parameters {hashlib.sha256(parameters).hexdigest()[:16]}")
