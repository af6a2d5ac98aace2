"""The random generators that belong to nobody: python's, numpy's and torch's own."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from dmlf.env import require_torch


def capture() -> dict[str, Any]:
    """Their states: torch's only where it is loaded, CUDA's only where it is in use."""
    state: dict[str, Any] = {"python": random.getstate(), "numpy": np.random.get_state()}
    torch = sys.modules.get("torch")
    if torch is not None:
        state["torch"] = torch.get_rng_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore(state: Mapping[str, Any]) -> None:
    """Put back what `capture` gave. Raises ValueError where the devices are others."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    if "torch" in state:
        torch = require_torch()
        torch.set_rng_state(state["torch"])
        if "cuda" in state:
            there = torch.cuda.device_count() if torch.cuda.is_available() else 0
            if there != len(state["cuda"]):
                raise ValueError(
                    f"random state of {len(state['cuda'])} CUDA devices, of which {there} are "
                    "here; load with random_state=False, and seed anew"
                )
            torch.cuda.set_rng_state_all(state["cuda"])
