"""The one exception that is meant for a person."""


class UserError(Exception):
    """Something a person can put right: what was wrong, where, and what to do.

    The command lines print its message as one sentence and leave with `exit_code`; `--debug` shows the
    traceback as well. Raise it for bad input and for the state of the machine (a full disk, a lock held
    elsewhere), never for a fault of our own code.
    """

    def __init__(self, message: str, *, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class DiskFull(UserError):
    """A disk took no more. Threads of libraries that were writing may still be at it."""
