"""What the registry of figures knows of one."""

from collections.abc import Callable
from dataclasses import dataclass

from deepnet.figures.plots import Sheet


@dataclass(frozen=True)
class Entry:
    """A figure: what draws it, the runs it shows, its caption of one line, what it shows for a reader who does not see
    it, how it is read where that is not plain, and what stands beside the runs where there is a record of it.
    """

    function: Callable[..., Sheet]
    runs: tuple[str, ...]  # names, or "search_*" for all trials; a figure is drawn if any has a record
    caption: str
    alt: str = ""
    reading: str = ""
    also: tuple[str, ...] = ()  # names or OPENINGS; no figure by themselves
    paired: bool = False  # of the runs that are there, only the seeds that all of them have
