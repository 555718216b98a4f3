"""Makes `tests.*` importable from any way of starting pytest; one thread, as the models here are tiny."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
torch.set_num_threads(1)
