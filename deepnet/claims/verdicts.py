"""What a verdict is and how it is written: in words, tables and HTML, and corrected for the number of claims.

Data keeps the words of `VERDICTS`; what is printed is `said`.
"""

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from html import escape

import numpy as np

from deepnet.claims.evidence import REGISTERED, TEXTS, Setting
from deepnet.claims.formulas import holm
from deepnet.claims.intervals import FEW_SEEDS, Part
from deepnet.text import Table, counted

VERDICTS = ("holds", "fails", "undecided", "no evidence", "not judged")
OUTCOMES = VERDICTS[:3]  # what a claim with evidence can come to
CLAIMS, QUESTIONS = {"holds": "as claimed", "fails": "contradicted"}, {"holds": "yes", "fails": "no"}


def said(claim: str, verdict: str) -> str:
    """A verdict as it is printed: of a claim "as claimed" or "contradicted", of a question "yes" or "no"."""
    return (QUESTIONS if claim.startswith("q") else CLAIMS).get(verdict, verdict)


@dataclass(frozen=True)
class Verdict:
    """What the evidence of one profile says about a claim; prints itself."""

    id: str
    sentence: str  # what it judges
    verdict: str  # one of VERDICTS
    parts: tuple[Part, ...] = ()
    note: str = ""  # why there is no verdict
    rule: str = ""
    report: str = ""  # the report's number
    profile: str = ""
    setting: Setting = REGISTERED
    # one of VERDICTS: what is left after Holm's correction over the claims of a ledger that have a p-value
    adjusted: str = ""

    @property
    def judged(self) -> list[Part]:
        """The parts that count."""
        return [part for part in self.parts if part.verdict in OUTCOMES] if self.verdict in OUTCOMES else []

    @property
    def p(self) -> float | None:
        """`p_of` the claim; None unless every judged part has a p-value, from three seeds on."""
        if not self.judged or not all(part.p for part in self.judged):
            return None
        holds, fails = np.transpose([part.p for part in self.judged])
        return float(p_of(np.array(self.verdict), holds, fails))

    @property
    def seeds_needed(self) -> int | None:
        """How many seeds would make the intervals of the parts with the claim's own verdict decisive.

        The largest of `Part.needed`, which is of the spread seen; None where one of them has none.
        """
        needed = [part.needed for part in self.judged if part.verdict == self.verdict]
        return max(n for n in needed if n) if needed and all(needed) else None

    @property
    def outlook(self) -> str:
        """Of an undecided claim, how many seeds would probably decide it; else empty."""
        if self.verdict != "undecided" or self.seeds_needed is None:
            return ""
        enough = self.seeds_needed <= max(len(part.seeds) for part in self.judged)
        return "the effect lies at the threshold" if enough else f"about {self.seeds_needed:,} seeds would decide"

    @property
    def seen(self) -> str:
        """ "seen once" or "seen twice" where one or two seeds are all there is in some part; else empty."""
        counts = {len(part.seeds) for part in self.judged}
        words = [word for count, word in ((1, "once"), (2, "twice")) if count in counts]
        return f"seen {' or '.join(words)}{' in some parts' * (max(counts) > FEW_SEEDS)}" if words else ""

    @property
    def outcome(self) -> str:
        """The verdict in words, as "as claimed" or "seen once: contradicted"."""
        return ": ".join(filter(None, [self.seen, said(self.id, self.verdict)]))

    @property
    def text(self) -> str:
        """The outcome, with its note, what Holm's correction leaves of it, and what would decide it."""
        decided = self.adjusted and self.verdict != "undecided"
        adjusted = f"after Holm: {said(self.id, self.adjusted)}" if decided else ""
        notes = "; ".join(filter(None, [self.note, adjusted, self.outlook]))
        return f"{self.outcome} ({notes})" if notes else self.outcome

    @property
    def deciding(self) -> Part | None:
        """The first part with the claim's own verdict: of a claim that fails, what it fails by."""
        return next((part for part in self.judged if part.verdict == self.verdict), None)

    def __str__(self) -> str:
        """On one screen: verdict, sentence, rule, then a line a part."""
        wrap = partial(textwrap.fill, width=110, subsequent_indent="      ")
        where = f"profile {self.profile}" + (f" ({self.setting.text})" if self.setting.text else "")
        head = [f"{self.id} {self.text}, {where}", f"says: {self.sentence}", f"rule: {self.rule}"]
        return "\n".join([*map(wrap, head), *(f"  {said(self.id, part.verdict):<13}{part}" for part in self.parts)])

    def table(self) -> Table:
        """The parts, those that are shown only included; a dash stands where there is nothing."""
        head, cells = ["part", "ours", "interval", "seeds", "verdict"], []
        tested = any(part.p for part in self.parts)
        for part in self.parts:
            cells.append([part.text, part.ours, part.span, part.which, said(self.id, part.verdict)])
            if tested:
                cells[-1] += ["" if part.p_value is None else f"{part.p_value:.2g}", f"{part.needed or ''}"]
        head += ["p", "seeds that would decide"] if tested else []
        return Table(head, [tuple(cell or "–" for cell in row) for row in cells])

    def _repr_html_(self) -> str:
        """For a notebook: one line, which unfolds into the rule and the parts."""
        line = f"<b>{self.id}</b> {escape(self.sentence)}: <b>{escape(self.text)}</b> <code>{self.profile}</code>"
        parts = self.table()._repr_html_() if self.parts else ""
        return f"<details><summary>{line}</summary><p><i>Rule:</i> {escape(self.rule)}</p>{parts}</details>"


class Ledger(list[Verdict]):
    """Verdicts, one line each. In a notebook each line unfolds into its rule and its parts."""

    @property
    def summary(self) -> str:
        """How many claims there are and how many have which verdict, those from one or two seeds apart.

        Empty for some of them.
        """
        if len(self) < len(TEXTS):
            return ""
        of = Counter("question" if v.id[0] == "q" else "amended rule" if v.id[-1] == "′" else "claim" for v in self)
        several, few = ([v for v in self if v.verdict in OUTCOMES and bool(v.seen) == seen] for seen in (False, True))
        lacking = ", ".join(counts([v for v in self if v.verdict not in OUTCOMES]))
        where = ", ".join(dict.fromkeys(v.profile for v in self))
        return (
            f"Profile {where}: {counted(of['claim'], 'claim')}, {counted(of['amended rule'], 'amended rule')} and "
            f"{counted(of['question'], 'question')}. Judged over at least three seeds: {', '.join(counts(several))}. "
            f"Seen once or twice: {', '.join(counts(few))}. Without a verdict: {lacking or 0}."
        )

    def short(self) -> Table:
        """One line per claim: what it says, its verdict, and the number that decides it."""
        rows = [(v.id, v.sentence, v.text, v.deciding.number if v.deciding else "–") for v in self]
        return Table(("id", "sentence", "verdict", "the number that decides"), rows, self.summary)

    def __str__(self) -> str:
        return str(self.short())

    _repr_markdown_ = __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<p>{self.summary}</p>" + "".join(verdict._repr_html_() for verdict in self)


def counts(verdicts: Sequence[Verdict]) -> list[str]:
    """How many have which verdict, as ["as claimed or yes 2", "undecided 1"]; ["0"] for none."""
    words = {"holds": "as claimed or yes", "fails": "contradicted or no"}
    of = Counter(v.verdict for v in verdicts)
    return [f"{words.get(verdict, verdict)} {of[verdict]}" for verdict in VERDICTS if of[verdict]] or ["0"]


def p_of(verdict: np.ndarray, holds: np.ndarray, fails: np.ndarray) -> np.ndarray:
    """The p-value of a claim's verdict from those of its parts, along the first axis.

    That a claim holds needs all its parts, so its p-value is the largest of theirs (intersection-union test). That it
    fails needs one, so it is the smallest, times their number (Bonferroni). Of an undecided claim it is the smaller of
    the two.
    """
    all_hold, any_fails = np.max(holds, axis=0), np.minimum(1, len(fails) * np.min(fails, axis=0))
    return np.select([verdict == "holds", verdict == "fails"], [all_hold, any_fails], np.minimum(all_hold, any_fails))


def after_holm(verdicts: Sequence[Verdict], level: float = 0.05) -> list[Verdict]:
    """The verdicts, those with a p-value with what Holm's correction over all of these leaves of them."""
    tested = [i for i, verdict in enumerate(verdicts) if verdict.p is not None]
    corrected = list(verdicts)
    for i, p in zip(tested, holm([verdicts[i].p or 0.0 for i in tested]), strict=True):
        corrected[i] = replace(verdicts[i], adjusted=verdicts[i].verdict if p <= level else "undecided")
    return corrected
