"""What the Hub answered, in a person's words."""

from __future__ import annotations

from filters.errors import UserError

_LOGIN = "`hf auth login`, or the environment variable HF_TOKEN"


def explain(error: Exception, repo: str) -> UserError:
    """A sentence for an error of the Hub's client: what went wrong with `repo`, and what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = getattr(error, "server_message", None)
    return UserError(_sentence(status, repo, error) + (f" The Hub said: {said}" if said else ""))


def _sentence(status: int | None, repo: str, error: Exception) -> str:
    match status:
        case 401:
            return f"the Hub does not let us reach {repo}: the token is missing or not valid. Log in with {_LOGIN}."
        case 403:
            return f"the token may not do this with {repo}: it needs write access to that account or organisation."
        case 404:
            return (
                f"there is no data set {repo} on the Hub, not at that revision, or the token may not see it."
            )
        case 409 | 412:
            return (
                f"somebody else changed {repo} in the meantime, and nothing was uploaded over it. Push again."
            )
        case 413:
            return f"a file is too large for {repo}. Push with smaller shards."
        case 429:
            return f"the Hub asks us to slow down with {repo}. Wait a few minutes and try again."
        case int():
            return f"the Hub failed on {repo} with status {status}. Try again later."
        case None:
            reason = str(error) or type(error).__name__
            return f"cannot reach the Hub for {repo}: {reason}. Is there a network, and is HF_ENDPOINT right?"
