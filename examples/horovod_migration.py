"""A script of Horovod's shape under dmlf; docs/library-torch.md shows the lines that changed.

dmlf run --nproc 2 horovod_migration.py migrated.pt
"""

import sys

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import dmlf as hvd

hvd.init()
torch.manual_seed(0)
inputs = torch.randn(1000, 20)
dataset = TensorDataset(inputs, inputs[:, :3].argmax(dim=1))
model = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
hvd.broadcast_parameters(model.state_dict(), root_rank=0)
hvd.broadcast_optimizer_state(optimizer, root_rank=0)
optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
sampler = DistributedSampler(dataset, num_replicas=hvd.world_size(), rank=hvd.rank())
for epoch in range(3):
    sampler.set_epoch(epoch)
    for batch, targets in DataLoader(dataset, batch_size=32, sampler=sampler):
        optimizer.zero_grad()
        loss = cross_entropy(model(batch), targets)
        loss.backward()
        optimizer.step()
if hvd.rank() == 0:
    print(f"loss {loss.item():.4f}")
    torch.save(model.state_dict(), sys.argv[1])
