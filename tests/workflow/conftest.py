"""Working copies of the repository, in which Snakemake can run without touching this one."""

from __future__ import annotations

import pytest

from tests.workflow.checkout import Checkout, make_checkout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy in which nothing has run, shared by a module's tests that only plan."""
    return make_checkout(tmp_path_factory.mktemp("checkout"))
