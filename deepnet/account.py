"""Whether runs are written to W&B, and how: online, offline, or not at all."""

import functools
import os
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deepnet.records.files import first_line
from experimentTable import UsageError

MODES = {  # W&B's, including its old names
    "online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled",
}  # fmt: skip


def wandb_wanted(choice: bool | None) -> bool:
    """Whether a run is to be written to W&B, found out without importing wandb.

    choice: None means yes if `WANDB_MODE` is set or a W&B key is found, in `WANDB_API_KEY` or in the netrc file that
        `wandb login` writes. True means yes, offline if there is no account. `WANDB_MODE=disabled` turns either off.

    Raises UsageError for another `choice`, for an unknown `WANDB_MODE`, and for True if wandb is not installed.

    >>> wandb_wanted(False)
    False
    """
    if choice is not None and not isinstance(choice, bool):
        raise UsageError(f"wandb must be True, False or None (W&B if an account is logged in), got {choice!r}")
    if choice is False or (mode := _asked_mode()) == "disabled":
        return False
    installed = find_spec("wandb") is not None
    if choice and not installed:
        raise UsageError(
            "wandb=True needs the package wandb, which is not installed; `pip install wandb`, or leave wandb out"
        )
    return installed and (choice or bool(mode) or _has_key())


def _asked_mode() -> str:
    """WANDB_MODE in W&B's own spelling, "" if it is not set. Raises UsageError for an unknown mode."""
    value = os.environ.get("WANDB_MODE", "")
    if not value:
        return ""
    if (mode := MODES.get(value.strip().lower())) is None:
        raise UsageError(f"WANDB_MODE={value} is not a mode of W&B; set it to online, offline or disabled")
    os.environ["WANDB_MODE"] = mode  # W&B reads it too, and accepts no other spelling
    return mode


def _has_key() -> bool:
    """Whether W&B would find an API key in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    standard = [path for name in (".netrc", "_netrc") if (path := Path.home() / name).exists()]
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    try:
        path = Path(os.environ["NETRC"]).expanduser() if os.environ.get("NETRC") else standard[0]
        return bool((netrc(path).authenticators(host) or ("", "", ""))[2])
    except (IndexError, OSError, ValueError, NetrcParseError):
        return False


@functools.cache
def import_problem() -> str:
    """Why wandb cannot be used; "" if it can."""
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        import wandb  # noqa: F401
    except Exception as error:  # of any kind: an incompatible protobuf or NumPy raises TypeError, RuntimeError, ...
        if isinstance(error, ModuleNotFoundError) and error.name == "wandb":
            return "the package wandb is missing (pip install wandb)"
        print_once(f"wandb cannot be imported ({complaint(error)}); the records are complete.")
        return f"wandb cannot be imported ({complaint(error)})"
    return ""


@functools.cache
def login_problem() -> str:
    """Why runs cannot be uploaded; "" if they can. Asks W&B's server if a key is found."""
    import wandb

    try:
        return "" if wandb.login(timeout=15, prompt=False) else "no account"
    except Exception as error:
        return complaint(error)


def wandb_state() -> tuple[str, str]:
    """The mode ("online", "offline" or "disabled"), and the problem because of which runs are not uploaded, or ""."""
    if (mode := _asked_mode()) == "disabled":  # then wandb, which may be broken, is not even imported
        return mode, "WANDB_MODE=disabled"
    if problem := import_problem():
        return "disabled", problem
    problem = "" if mode == "offline" else login_problem()
    return mode or ("offline" if problem else "online"), problem


def wandb_mode() -> Any:
    """The mode, as in `wandb_state`; prints once why runs are kept offline. Raises UsageError for an unknown mode."""
    mode, problem = wandb_state()
    if mode == "offline" and problem:
        print_once(f"{problem}; runs are kept offline; `wandb login`, then `wandb sync`, would upload them.")
    return mode


def complaint(error: Exception) -> str:
    """The first line of a W&B error, without its full stop."""
    return first_line(error).rstrip(".")


@functools.cache
def print_once(line: str) -> None:
    """Print a line about W&B, once per process."""
    print(f"W&B: {line}")
