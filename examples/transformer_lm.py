"""A small transformer learns to continue a text made here, under dmlf's DistributedDataParallel.

dmlf run --nproc 2 transformer_lm.py
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import dmlf

STEPS, BATCH, CONTEXT, WIDTH = 60, 8, 32, 64
TEXT = "".join(f"{a} plus {b} is {a + b}. " for a in range(30) for b in range(30))


class LanguageModel(nn.Module):
    """Predicts the next character at every place: [batch, time] -> [batch, time, characters]."""

    def __init__(self, num_characters: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_characters, WIDTH)
        self.place = nn.Parameter(torch.zeros(CONTEXT, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, nhead=4, dim_feedforward=4 * WIDTH, dropout=0.0, batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers=2)
        self.head = nn.Linear(WIDTH, num_characters, bias=False)
        self.head.weight = self.embed.weight  # one matrix, used at both ends
        mask = nn.Transformer.generate_square_subsequent_mask(CONTEXT)
        self.register_buffer("mask", mask)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(tokens) + self.place
        return self.head(self.layers(hidden, mask=self.mask, is_causal=True))


def main() -> None:
    torch.set_num_threads(1)
    group = dmlf.init()
    characters = sorted(set(TEXT))
    text = torch.tensor([characters.index(character) for character in TEXT])
    torch.manual_seed(0)
    model = dmlf.DistributedDataParallel(LanguageModel(len(characters)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    generator = torch.Generator().manual_seed(group.rank)  # every rank reads elsewhere
    for step in range(STEPS):
        starts = torch.randint(len(text) - CONTEXT - 1, (BATCH,), generator=generator)
        window = text[starts[:, None] + torch.arange(CONTEXT + 1)]
        scores = model(window[:, :-1])
        loss = cross_entropy(scores.flatten(0, 1), window[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        mean = dmlf.all_reduce(loss.detach().clone(), "mean")
        if group.rank == 0 and step % 10 == 9:
            print(f"step {step + 1} loss {mean.item():.3f}")


if __name__ == "__main__":
    main()
