"""Is this sample good? Text in, verdict and signals out.

Importing this package opens no file and no socket and loads neither JAX, Tunix, DuckDB nor reasoning-gym:
it can be installed and used for the grader alone.
"""

from filters.errors import UserError
from filters.signals import SIGNAL_VERSION, Signals, signals
from filters.tags import TAG_STYLES, Parsed, TagStyle
from filters.verdict import Fault, Outcome, Reason, Verdict
from filters.verifiers import verify, verify_answer

__all__ = [
    "SIGNAL_VERSION",
    "TAG_STYLES",
    "Fault",
    "Outcome",
    "Parsed",
    "Reason",
    "Signals",
    "TagStyle",
    "UserError",
    "Verdict",
    "signals",
    "verify",
    "verify_answer",
]
