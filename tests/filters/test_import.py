"""`import filters` is light: it can be installed for the grader alone."""

import subprocess
import sys

HEAVY = [
    "jax",
    "tunix",
    "datasets",
    "duckdb",
    "reasoning_gym",
    "sympy",
    "math_verify",
    "numpy",
    "pyarrow",
    "torch",
]


def test_import_loads_nothing_heavy() -> None:
    code = f"""
import sys, filters
import filters.verifiers, filters.signals, filters.workers, filters.stats, filters.groups, filters.dedup
filters.verify("math", "", "7", "7"); filters.signals("hello there")
print([name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
