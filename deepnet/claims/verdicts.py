"""What a verdict is and how it is written: in words, tables and HTML, and corrected for the number of claims.

Data keeps the words of `VERDICTS`; what is printed is `said`.
"""

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape

from deepnet.claims.evidence import REGISTERED, TEXTS, Setting
from deepnet.claims.intervals import FEW_SEEDS, Part
from deepnet.text import Table, counted

VERDICTS = ("holds", "fails", "undecided", "no evidence", "not judged")
JUDGED = VERDICTS[:3]
CLAIMS, QUESTIONS = {"holds": "as claimed", "fails": "contradicted"}, {"holds": "yes", "fails": "no"}


def said(claim: str, verdict: str) -> str:
    """A verdict as it is printed: of a claim "as claimed" or "contradicted", of a question "yes" or "no"."""
    return (QUESTIONS if claim.startswith("q") else CLAIMS).get(verdict, verdict)


def times_seen(parts: Iterable[Part]) -> str:
    """The words that stand before a verdict from one or two seeds, as "seen once"; empty from three on."""
    counts = {len(part.seeds) for part in parts if part.verdict in JUDGED}
    words = [word for count, word in ((1, "once"), (2, "twice")) if count in counts]
    return f"seen {' or '.join(words)}{' in some parts' * (max(counts) > FEW_SEEDS)}" if words else ""


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

    @property
    def seen(self) -> str:
        """ "seen once" or "seen twice" where one or two seeds are all there is in some part; else empty."""
        return times_seen(self.parts) if self.verdict in JUDGED else ""

    @property
    def outcome(self) -> str:
        """The verdict in words, as "as claimed" or "seen once: contradicted"."""
        return ": ".join(filter(None, [self.seen, said(self.id, self.verdict)]))

    @property
    def text(self) -> str:
        """The outcome with its note."""
        return f"{self.outcome} ({self.note})" if self.note else self.outcome

    @property
    def deciding(self) -> Part | None:
        """The first part with the claim's own verdict: of a claim that fails, what it fails by."""
        judged = self.verdict in JUDGED
        return next((part for part in self.parts if judged and part.verdict == self.verdict), None)

    def __str__(self) -> str:
        """On one screen: verdict, sentence, rule, then a line a part."""
        wrap = partial(textwrap.fill, width=110, subsequent_indent="      ")
        where = f"profile {self.profile}" + (f" ({self.setting.text})" if self.setting.text else "")
        head = [f"{self.id} {self.text}, {where}", f"says: {self.sentence}", f"rule: {self.rule}"]
        return "\n".join([*map(wrap, head), *(f"  {said(self.id, part.verdict):<13}{part}" for part in self.parts)])

    def table(self) -> Table:
        """The parts, those that are shown only included; a dash stands where there is nothing."""
        cells = [(part.text, part.ours, part.span, part.which, said(self.id, part.verdict)) for part in self.parts]
        head = ("part", "ours", "interval", "seeds", "verdict")
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
        several, few = ([v for v in self if v.verdict in JUDGED and bool(v.seen) == seen] for seen in (False, True))
        lacking = ", ".join(counts([v for v in self if v.verdict not in JUDGED]))
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
