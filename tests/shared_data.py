"""Real data that tests measure on where they are at hand, and never ship."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("R1_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def shared_data(name: str) -> Path:
    """A file or folder of them; the test is skipped where it is not there."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there: set R1_SHARED_DATA")
    return path
