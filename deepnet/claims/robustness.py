"""Whether a verdict hangs on a detail of its rule: other epochs, margins and levels, and one seed less.

The registered setting alone decides. The others are shown beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product

from deepnet.claims.evidence import REGISTERED, Setting, Source
from deepnet.claims.intervals import FEW_SEEDS, ROUND
from deepnet.claims.ledger import check, evidence_of
from deepnet.claims.measures import EPOCHS
from deepnet.claims.verdicts import OUTCOMES, Verdict, said
from deepnet.text import Table
from experimentTable import current_profile

__all__ = ["LEVELS", "MARGINS", "Robustness", "Setting", "robustness", "settings_of"]

MARGINS = (1.0, 0.5, 2.0)  # the registered one first, as in EPOCHS
LEVELS = (0.95, 0.90, 0.99)


@dataclass(frozen=True)
class Robustness:
    """One claim's verdict in every setting that applies to it, the registered one first; prints itself."""

    id: str
    profile: str
    outcomes: tuple[tuple[Setting, str], ...]  # each with the claim's verdict, a word as in `Verdict.verdict`

    @property
    def verdict(self) -> str:
        """In the registered setting."""
        return self.outcomes[0][1]

    @property
    def of_rule(self) -> list[str]:
        """The verdicts in the settings that leave out no seed."""
        return [verdict for setting, verdict in self.outcomes if setting.without is None]

    @property
    def share(self) -> float:
        """The share of the settings that leave out no seed in which the registered verdict stands."""
        return self.of_rule.count(self.verdict) / len(self.of_rule)

    @property
    def needed_seeds(self) -> list[int]:
        """The seeds without which the verdict would be another."""
        return [s.without for s, verdict in self.outcomes if s.without is not None and verdict != self.verdict]

    @property
    def text(self) -> str:
        """As "in 20 of 27 settings, not without seed 2"."""
        seeds = ""
        if self.needed_seeds:
            *most, last = map(str, self.needed_seeds)
            seeds = f"not without seed {', '.join(most)}{' or ' * bool(most)}{last}"
        if len(self.of_rule) == 1:
            return seeds or "without any one seed"
        stands = f"in {self.of_rule.count(self.verdict)} of {len(self.of_rule)} settings"
        return ", ".join(filter(None, [stands, seeds]))

    def table(self) -> Table:
        """One line per setting."""
        rows = [(setting.text or "registered", said(self.id, verdict)) for setting, verdict in self.outcomes]
        return Table(("setting", "verdict"), rows, f"{self.id}, profile {self.profile}: stands {self.text}.")

    def __str__(self) -> str:
        return str(self.table())

    _repr_markdown_ = __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def _shown(verdict: Verdict) -> list[tuple]:
    """What the judged parts of a verdict say, by which two settings are told apart."""
    shown = []
    for part in (part for part in verdict.parts if part.verdict in OUTCOMES):
        numbers = (number for value, interval in part.estimates for number in (value, *(interval or ())))
        shown.append((part.text, part.count, *(round(number, ROUND) for number in numbers)))
    return shown


def in_settings(
    claim: str, profile: str | None = None, records: Source | None = None, openings: Sequence[dict] | None = None
) -> list[Verdict]:
    """The verdict on a claim in each setting that applies to it (see `settings_of`), the registered one first.

    Of a claim that is not judged, that one alone. The arguments are those of `check`.
    """
    profile = current_profile(profile)
    records, openings = evidence_of(profile, records, openings)
    judged = cache(partial(check, claim, profile, records, openings))
    registered = judged(REGISTERED)
    if registered.verdict not in OUTCOMES:
        return [registered]
    choices = {"epochs": EPOCHS, "margin": MARGINS, "level": LEVELS}  # the registered one first
    axes = [[Setting(**{field: value}) for value in values] for field, values in choices.items()]  # type: ignore[arg-type]
    differing = []
    for axis in axes:
        shown = [_shown(judged(setting)) for setting in axis]
        differing.append([setting for i, setting in enumerate(axis) if shown[i] not in shown[:i]])
    settings = [Setting(e.epochs, margin.margin, level.level) for e, margin, level in product(*differing)]
    seeds = [part.seeds for part in registered.judged]
    if all(len(some) > FEW_SEEDS + 1 for some in seeds):
        settings += [Setting(without=s) for s in sorted({s for some in seeds for s in some if isinstance(s, int)})]
    return list(map(judged, settings))


def settings_of(
    claim: str, profile: str | None = None, records: Source | None = None, openings: Sequence[dict] | None = None
) -> list[Setting]:
    """The settings that apply to a claim, the registered one first: the product of epochs, margins and levels.

    An axis applies where it changes a number, an interval or a threshold that is judged: a rule without a margin has no
    margin axis, and epochs that give the registered numbers are not listed twice. After these stands, where every part
    would keep three seeds, the registered setting without each seed. Empty for a claim that is not judged. The other
    arguments are those of `check`.
    """
    found = in_settings(claim, profile, records, openings)
    return [verdict.setting for verdict in found] if found[0].verdict in OUTCOMES else []


def robustness(
    claim: str, profile: str | None = None, records: Source | None = None, openings: Sequence[dict] | None = None
) -> Robustness | None:
    """The verdict on a claim in every setting of `settings_of`; None where there is none but the registered one.

    >>> robustness("3a", "paper").text
    """
    return robustness_of(in_settings(claim, profile, records, openings))


def robustness_of(found: Sequence[Verdict]) -> Robustness | None:
    """The same of the verdicts of `in_settings`."""
    outcomes = tuple((verdict.setting, verdict.verdict) for verdict in found)
    return Robustness(found[0].id, found[0].profile, outcomes) if len(found) > 1 else None
