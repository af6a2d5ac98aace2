"""One failing run costs neither the others nor the report on them."""

from __future__ import annotations

from pathlib import Path

from tests.workflow.checkout import make_checkout, run_path, training


def test_a_failing_run(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path)
    (tmp_path / "fail").write_text("--algorithm ddp")

    outcome = checkout.snakemake()
    assert outcome.code != 0
    assert "dmlf: the reason of the failure" in outcome.text, "the log reaches the user"
    assert "snakemake partial_report" in outcome.text
    assert not (tmp_path / run_path("ddp-gloo")).exists()
    assert (tmp_path / run_path("ring-queue", rep=1)).exists()
    assert not (tmp_path / "report" / "report.md").exists()

    assert training(checkout.run("partial_report")) == {}
    assert (tmp_path / "report" / "partial" / "report.md").exists()
    assert checkout.plan("partial_report") == {}

    failure = (tmp_path / run_path("ddp-gloo")).with_name("failure.json")
    failure.parent.mkdir(parents=True, exist_ok=True)
    failure.write_text("{}")
    assert checkout.plan("partial_report")["gather_partial"] == 1

    (tmp_path / "fail").unlink()
    assert training(checkout.run()) == {"train_ddp": 1}
    assert checkout.plan("partial_report")["gather_partial"] == 1
    assert checkout.plan() == {}
