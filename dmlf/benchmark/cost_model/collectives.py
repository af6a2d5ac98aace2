"""The samples that a record of the collective benchmark holds."""

from __future__ import annotations

from dmlf.benchmark.collective.load import Collectives
from dmlf.benchmark.cost_model.samples import MODELLED, CollectiveSample
from dmlf.config import split_strategy


def samples_of(record: Collectives, transport: str) -> list[CollectiveSample]:
    """What was measured over one transport with an algorithm that has a closed form.

    With one server, if it has servers. Only where every process had a core of its own: elsewhere
    ranks wait for cores, which no link model describes.
    """
    found = []
    for cell in record.cells:
        algorithm, carried_by = split_strategy(cell.contestant)
        if carried_by != transport or algorithm not in MODELLED or cell.processes > record.cores:
            continue
        found.append(
            CollectiveSample(
                algorithm=algorithm,
                transport=transport,
                world_size=cell.world_size,
                num_bytes=cell.size_bytes,
                seconds=cell.call_s,
                bucket_bytes=record.config.bucket_bytes,
            )
        )
    return found
