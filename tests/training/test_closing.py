"""A rank whose report is made does not lose it while it closes its links."""

from __future__ import annotations

import pytest

from dmlf.config import RunConfig
from dmlf.errors import DeadlineExceeded
from dmlf.runtime import NoTransport
from dmlf.training.worker import RankJob, run_rank


def test_links_that_cannot_be_closed_cost_no_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def close(_: NoTransport) -> None:
        raise DeadlineExceeded(0, 1, 30.0)

    monkeypatch.setattr(NoTransport, "close", close)
    config = RunConfig(
        task="synthetic", task_options={"num_samples": 256}, max_steps=2, warmup_steps=0, epochs=1
    )
    report = run_rank(0, RankJob(config, None))
    assert report.completed
    assert "dmlf: rank 0 is done, but at the end rank 0 waited 30 s" in capsys.readouterr().err
