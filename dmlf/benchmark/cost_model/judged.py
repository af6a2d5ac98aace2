"""How well the cost model describes each transport: fitted on half the sizes, tried on the rest."""

from __future__ import annotations

from dataclasses import dataclass

from dmlf.benchmark.collective.load import Collectives
from dmlf.benchmark.cost_model.collectives import samples_of
from dmlf.benchmark.cost_model.fit import Calibration, choose_knee, fit
from dmlf.benchmark.cost_model.held_out import Errors, errors
from dmlf.benchmark.cost_model.samples import CollectiveSample
from dmlf.config import split_strategy
from dmlf.errors import ConfigError


@dataclass(frozen=True, slots=True)
class JudgedModel:
    """A transport's calibration from the samples in `seen`, and its errors on `held_out`."""

    transport: str
    calibration: Calibration
    seen: tuple[CollectiveSample, ...]
    held_out: tuple[CollectiveSample, ...]
    errors: Errors


def judge_models(record: Collectives) -> list[JudgedModel]:
    """Fit every transport to every other size of the record, and predict the sizes between them.

    A transport with too few sizes for that, where ranks fit the cores, is left out.
    """
    transports = dict.fromkeys(split_strategy(name)[1] for name in record.config.strategies)
    judged = []
    for transport in transports:
        samples = samples_of(record, transport)
        sizes = sorted({sample.num_bytes for sample in samples})
        seen = tuple(sample for sample in samples if sample.num_bytes in sizes[::2])
        held_out = tuple(sample for sample in samples if sample.num_bytes in sizes[1::2])
        if not held_out:
            continue
        try:
            calibration = fit(seen, choose_knee(seen))
        except ConfigError:  # fewer points than parameters
            continue
        found = errors(calibration, held_out)
        judged.append(JudgedModel(transport, calibration, seen, held_out, found))
    return judged
