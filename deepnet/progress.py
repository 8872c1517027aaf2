"""Progress bars and estimated times, on a terminal and in a notebook."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

from deepnet.text import duration
from experimentTable import PROFILES


class _Silent:
    """Replaces a bar if tqdm is not installed."""

    def __getattr__(self, _: str) -> Any:
        return lambda *args, **kwargs: None


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code."""
    return "ipykernel" in sys.modules and "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None


def bar(total: float, description: str = "", **options: Any) -> Any:
    """A tqdm bar; in a notebook, a line of text that is redrawn in place and remains in the saved page.

    (tqdm's own notebook bar is a widget, which a saved page does not show.) Elsewhere, a bar is drawn only on a
    terminal, and not within the first half second.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        return _Silent()
    options = {"total": total, "desc": description, "file": sys.stdout, "mininterval": 0.5, "delay": 0.5} | options
    if not in_notebook():
        return tqdm(disable=not sys.stdout.isatty(), **options)
    from IPython.display import Pretty, display

    class Line(tqdm):
        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            text = Pretty(msg or str(self))
            if not hasattr(self, "handle"):
                self.handle = display(text, display_id=True)
            self.handle.update(text)

    return Line(ncols=110, **options | {"file": StringIO()})  # shown by the display and not printed


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Suppress tqdm's warning about the missing notebook widget, for libraries that draw bars of their own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def format_estimate(seconds: float, profile: str) -> str:
    """An estimated time for a reader, with the hardware that it holds for; 0 seconds means that it is not known.

    >>> format_estimate(75, "cpu")
    'about 1 min 15 s'
    """
    where = f" on {PROFILES[profile].timed_on}" if PROFILES[profile].timed_on else ""
    return f"about {duration(seconds)}{where}" if seconds else "time not known"
