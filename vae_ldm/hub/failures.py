"""What the Hub's client raises, as one line that names the cause and the cure."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from vae_ldm.errors import HubError, RunError, VaeLdmError

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
LOG_IN = "run `hf auth login`, or set HF_TOKEN"


@contextmanager
def in_plain_words(repository: str, *, token: str | None, revision: str | None = None) -> Iterator[None]:
    """Raise what the Hub's client raises in the block as HubError (the user can mend it) or RunError (it failed)."""
    try:
        yield
    except (VaeLdmError, RunError):
        raise
    except (HTTPError, OSError, RuntimeError, ValueError, EntryNotFoundError) as error:
        raise _explained(_root(error), repository, token or get_token(), revision) from error


def _root(error: BaseException) -> BaseException:
    """The error itself, or what it only wraps: an upload's errors come out of a pool of threads as RuntimeError."""
    while type(error) in (RuntimeError, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _explained(error: BaseException, repository: str, token: str | None, revision: str | None) -> Exception:
    hub = constants.ENDPOINT
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError):
        return HubError(f"{repository}: is gated; accept its terms at {hub}/{repository} and log in with that account")
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"{repository}: has no revision {revision}; give a branch, a tag or a commit of it")
    if isinstance(error, RepositoryNotFoundError) or (status == 401 and token is None):
        if token is None:
            return HubError(
                f"{repository}: there is no such repository, or it is private and there is no token; {LOG_IN}"
            )
        return HubError(f"{repository}: there is no such repository, or the token's account may not see it")
    if status == 401:
        return HubError(f"{repository}: the Hub does not know the token; make a new one at {hub}/settings/tokens")
    if status == 403:
        return HubError(f"{repository}: the token's account may not do that ({_said(error)})")
    if status == 412:
        return RunError(f"{repository}: somebody else has pushed meanwhile, so nothing was changed; push again")
    if status is not None:
        return RunError(f"{repository}: the Hub answered {status} ({_said(error)}); try again later")
    if isinstance(error, OSError) and error.errno in _FULL_DISK:
        return RunError(f"{repository}: no space left on device; make room, or put the cache elsewhere with HF_HOME")
    if isinstance(error, OfflineModeIsEnabled):
        return RunError(f"{repository}: HF_HUB_OFFLINE is set, and this needs the Hub; unset it")
    if isinstance(error, LocalEntryNotFoundError):
        return HubError(f"{repository}: is not, or not wholly, in the cache; download it once with a connection")
    if isinstance(error, HTTPError | ConnectionError | TimeoutError):
        return RunError(f"{repository}: {hub} cannot be reached ({_said(error)}); check the connection and try again")
    refused_card = "Invalid metadata in README.md."
    if isinstance(error, ValueError) and str(error).startswith(refused_card):
        reasons = " ".join(str(error).removeprefix(refused_card).split()).removeprefix("- ")
        return HubError(f"{repository}: the Hub refuses the card: {reasons}")
    return RunError(f"{repository}: {_said(error)}")


def _said(error: BaseException) -> str:
    """The server's own words, else the error's, on one line."""
    text = getattr(error, "server_message", None) or str(error)
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__).rstrip(".")
