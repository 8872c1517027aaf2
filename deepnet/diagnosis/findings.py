"""What a diagnosis says of one cause, the list of rules, and the words that several of them share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deepnet.diagnosis.measure import Measurements

CAUSE = 0.5  # a finding of at least this confidence is a cause; any other is a remark


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: its code, the layer ("" for the whole model or the data), what it is, and what to do.

    `confidence` is between 0 and 1; from `CAUSE` on a finding is called a cause. `tries` names the cures that a
    diagnosis tries, the most likely first.
    """

    code: str
    layer: str
    words: str
    cure: str
    confidence: float
    tries: tuple[str, ...] = ()


Rule = Callable[[Measurements], Finding | None]
RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    """Add a rule to `RULES`; of findings with one confidence, that of the earlier rule comes first."""
    RULES.append(function)
    return function


def power(value: float) -> str:
    """A number for a sentence: 0.02 -> "0.02", 3.2e-11 -> "3e-11".

    >>> power(3.2e-11)
    '3e-11'
    """
    return f"{value:.2g}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.0e}"


def percent(share: float) -> str:
    """0.5 -> "50 %"; a share that is not none is no "0 %".

    >>> percent(0.001)
    'less than 1 %'
    """
    return "less than 1 %" if 0 < share < 0.005 else f"{round(100 * share):,} %"


def listed(names: Sequence[str]) -> str:
    """Names of layers or parameters for a sentence: the first, and how many more."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
