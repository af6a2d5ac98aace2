"""Functions that ranks run, imported by name in their processes."""

from __future__ import annotations
