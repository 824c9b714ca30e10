"""Errors of huggingface_hub, in one line for the user."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Literal

from gllm.hub.name import HubName


class HubError(ValueError):
    """str(error) is one line for the user."""


@contextlib.contextmanager
def explained(name: HubName, *, kind: Literal["model", "dataset"] = "model") -> Iterator[None]:
    """Turn the errors of huggingface_hub into HubError."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name.repo}"
    http_error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
    """The base class of the HTTP library that this version of huggingface_hub uses."""
    token = "set HF_TOKEN to a token that may read it"
    try:
        yield
    except HubError:
        raise
    except errors.GatedRepoError:
        raise HubError(f"{name.repo} is gated: ask for access at {page}, then {token}") from None
    except errors.RepositoryNotFoundError:
        raise HubError(f"there is no {kind} {name.repo} at {constants.ENDPOINT}; if it is private, {token}") from None
    except errors.RevisionNotFoundError:
        raise HubError(f"{name.repo} has no revision {name.revision}: see {page}") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise HubError(f"{page} may not be read: {token}") from None
        raise HubError(f"{constants.ENDPOINT} answered {status} for {name}: {_line(error)}") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HubError(f"no space is left for {name}: make room, or choose another folder") from None
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise HubError(f"{error.filename or name} cannot be written: {error.strerror}") from None
        raise _unreachable(name, error) from None
    except (errors.XetDownloadError, RuntimeError, http_error) as error:  # hf_xet raises RuntimeError
        raise _unreachable(name, error) from None


def _unreachable(name: HubName, error: Exception) -> HubError:
    from huggingface_hub import constants

    # The message of huggingface_hub is general; the cause has the reason.
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    return HubError(f"{name} cannot be downloaded from {constants.ENDPOINT}: {_line(cause)}")


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
