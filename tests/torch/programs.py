"""Functions that ranks run, imported by name in their processes."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch

import dmlf
