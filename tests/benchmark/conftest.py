"""One matrix of constructed runs for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmlf.benchmark.gather import gather
from dmlf.benchmark.table import Table, read_table
from tests.benchmark.matrix import fixed_environment, matrix_configs, write_matrix


@pytest.fixture(scope="session")
def matrix_table_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs.csv of serial, both protocols and ddp at 1, 2, 4 workers, 5 repeats, exact besides."""
    root = tmp_path_factory.mktemp("matrix")
    with fixed_environment():
        plan = write_matrix(root, matrix_configs())
    path = root / "results" / "runs.csv"
    gather(plan, path)
    return path


@pytest.fixture(scope="session")
def matrix_table(matrix_table_path: Path) -> Table:
    return read_table(matrix_table_path)
