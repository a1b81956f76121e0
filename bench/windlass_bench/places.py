"""Where things are."""

from __future__ import annotations

from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]
ROOT = BENCH.parent
WORK = ROOT / ".bench"
"""Environments, models and logs: made on demand, not kept in git."""
MODELS = WORK / "models"
"""`<backend>/<model>/1/` as Windlass serves them, and `keras/<model>.keras`."""
RESULTS = ROOT / "docs" / "benchmarks.json"
PAGE = ROOT / "docs" / "benchmarks.md"
