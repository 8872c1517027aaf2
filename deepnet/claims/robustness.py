"""Whether a verdict hangs on a detail of its rule: other epochs, margins and levels, and one seed less.

The registered setting alone decides. The others are shown beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from deepnet.claims.evidence import Setting, Source
from deepnet.claims.intervals import FEW_SEEDS, ROUND
from deepnet.claims.ledger import check, evidence_of
from deepnet.claims.measures import EPOCHS
from deepnet.claims.verdicts import JUDGED, Verdict, said
from deepnet.text import Table
from experimentTable import current_profile

__all__ = ["LEVELS", "MARGINS", "Robustness", "Setting", "robustness", "settings_of"]

MARGINS = (0.5, 1.0, 2.0)
LEVELS = (0.90, 0.95, 0.99)


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
        return f"{stands}, {seeds}" if seeds else stands

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
    for part in (part for part in verdict.parts if part.verdict in JUDGED):
        numbers = (number for value, interval in part.estimates for number in (value, *(interval or ())))
        shown.append((part.text, part.count, *(round(number, ROUND) for number in numbers)))
    return shown


def settings_of(
    claim: str,
    profile: str | None = None,
    records: Source | None = None,
    openings: Sequence[dict] | None = None,
) -> list[Setting]:
    """The settings that apply to a claim, the registered one first: the product of epochs, margins and levels.

    An axis applies where it changes a number, an interval or a threshold that is judged: a rule without a margin has no
    margin axis, and epochs that give the registered numbers are not listed twice. After these stands, where every part
    would keep three seeds, the registered setting without each seed. Empty for a claim that is not judged. The other
    arguments are those of `check`.
    """
    profile = current_profile(profile)
    records, openings = evidence_of(profile, records, openings)

    def shown(setting: Setting) -> list[tuple]:
        return _shown(check(claim, profile, records, openings, setting))

    registered = check(claim, profile, records, openings)
    if registered.verdict not in JUDGED:
        return []
    axes: list[list[Setting]] = [
        [Setting(epochs=epochs) for epochs in EPOCHS],
        [Setting(margin=margin) for margin in sorted(MARGINS, key=lambda margin: margin != 1)],
        [Setting(level=level) for level in sorted(LEVELS, key=lambda level: level != 0.95)],
    ]
    differing = [[s for i, s in enumerate(axis) if shown(s) not in map(shown, axis[:i])] for axis in axes]
    rule = [Setting(e.epochs, margin.margin, level.level) for e, margin, level in product(*differing)]
    judged = [part.seeds for part in registered.parts if part.verdict in JUDGED]
    enough = all(len(seeds) > FEW_SEEDS + 1 for seeds in judged)
    seeds = sorted({seed for part in judged for seed in part if isinstance(seed, int)}) if enough else []
    return [*rule, *(Setting(without=seed) for seed in seeds)]


def robustness(
    claim: str,
    profile: str | None = None,
    records: Source | None = None,
    openings: Sequence[dict] | None = None,
) -> Robustness | None:
    """The verdict on a claim in every setting of `settings_of`; None where there is none but the registered one.

    >>> robustness("3a", "paper").text
    """
    profile = current_profile(profile)
    records, openings = evidence_of(profile, records, openings)
    settings = settings_of(claim, profile, records, openings)
    outcomes = tuple((setting, check(claim, profile, records, openings, setting).verdict) for setting in settings)
    name = check(claim, profile, records, openings).id
    return Robustness(name, profile, outcomes) if len(outcomes) > 1 else None
