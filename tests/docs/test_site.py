"""The site builds without a warning and without network, and asks nobody else for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import REPOSITORY

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    for module in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(module, reason=f"{module} is not installed: make docs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "NO_MKDOCS_2_WARNING": "1",
            "https_proxy": "http://127.0.0.1:9",
            "http_proxy": "http://127.0.0.1:9",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout, done.stdout
    return folder


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    loading = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(\S+)")
    for page in pages:
        targets = loading.findall(page.read_text())
        elsewhere = [target for target in targets if re.match(r"(https?:)?//", target)]
        assert elsewhere == [], page


def test_the_reference_names_everything_public(site: Path) -> None:
    import dmlf

    page = (site / "reference" / "dmlf.html").read_text()
    assert [name for name in dmlf.__all__ if f'id="dmlf.{name}"' not in page] == []


def test_sources_that_pages_link_to_are_shown(site: Path) -> None:
    shown = site / "source" / "dmlf" / "protocol" / "algorithms" / "ring.py.html"
    assert "Patarasuk" in shown.read_text()
