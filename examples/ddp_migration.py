"""Trains under dmlf; ddp_stock.py is the same under torch, and differs in one line.

torchrun --nproc-per-node 2 ddp_migration.py migrated.pt
"""

import sys

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from dmlf import DistributedDataParallel

dist.init_process_group("gloo")
torch.manual_seed(0)
inputs = torch.randn(1000, 20)
dataset = TensorDataset(inputs, inputs[:, :3].argmax(dim=1))
network = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
model = DistributedDataParallel(network)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
sampler = DistributedSampler(dataset)
for epoch in range(3):
    sampler.set_epoch(epoch)
    for batch, targets in DataLoader(dataset, batch_size=32, sampler=sampler):
        optimizer.zero_grad()
        loss = cross_entropy(model(batch), targets)
        loss.backward()
        optimizer.step()
if dist.get_rank() == 0:
    print(f"loss {loss.item():.4f}")
    torch.save(model.module.state_dict(), sys.argv[1])
dist.destroy_process_group()
