"""The report's claims and our questions, each judged by a rule fixed before any evidence.

Everything here is a function of records; nothing trains. What the rules say stands in rules.md, how they are applied in
rules.py, what they read in measures.py, and how numbers become a verdict in intervals.py.
"""

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from html import escape

from deepnet.claims import atlas, rules  # noqa: F401  (atlas enters its rules)
from deepnet.claims.evidence import TEXTS, Evidence, Rule, Source
from deepnet.claims.intervals import Part, combine, few_seeds
from deepnet.records.reading import find_openings, find_records
from deepnet.text import Table, counted, listed, ranges
from experimentTable import PROFILES, choose, current_profile

__all__ = ["RULES", "Ledger", "Rule", "Verdict", "check", "ledger", "side_by_side"]

RULES: dict[str, Rule] = {claim: rules.RULES[claim] for claim in TEXTS}  # by chapter, then the questions

VERDICTS = ("holds", "fails", "undecided", "no evidence", "not judged")


@dataclass(frozen=True)
class Verdict:
    """What the evidence of one profile says about a claim; prints itself."""

    id: str
    sentence: str  # what it judges
    verdict: str  # one of VERDICTS
    parts: tuple[Part, ...] = ()
    note: str = ""  # "one seed", "two seeds", or why there is no verdict
    rule: str = ""
    report: str = ""  # the report's number
    profile: str = ""

    @property
    def text(self) -> str:
        """The verdict with its note."""
        return f"{self.verdict} ({self.note})" if self.note else self.verdict

    @property
    def deciding(self) -> Part | None:
        """The first part with the claim's own verdict: of a claim that fails, what it fails by."""
        judged = self.verdict in VERDICTS[:3]
        return next((part for part in self.parts if judged and part.verdict == self.verdict), None)

    def __str__(self) -> str:
        """On one screen: verdict, sentence, rule, then a line a part."""
        wrap = partial(textwrap.fill, width=110, subsequent_indent="      ")
        head = [f"{self.id} {self.text}, profile {self.profile}", f"says: {self.sentence}", f"rule: {self.rule}"]
        return "\n".join([*map(wrap, head), *(f"  {part}" for part in self.parts)])

    def table(self) -> Table:
        """The parts, those that are shown only included; a dash stands where there is nothing."""
        cells = [(part.text, part.ours, part.span, ranges(part.seeds), part.verdict) for part in self.parts]
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
        """How many claims there are, since nothing is corrected for their number, and how many have which verdict.

        Empty for some of them.
        """
        if len(self) < len(RULES):
            return ""
        questions = sum(v.id.startswith("q") for v in self)
        counts = Counter(v.verdict for v in self)
        each = ", ".join(f"{verdict} {counts[verdict]}" for verdict in VERDICTS if counts[verdict])
        where = ", ".join(dict.fromkeys(v.profile for v in self))
        claims = f"{counted(len(self) - questions, 'claim')} and {counted(questions, 'question')}"
        return f"Profile {where}: {claims}, with no correction for their number ({each})."

    def short(self) -> Table:
        """One line per claim: what it says, its verdict, and the number that decides it."""
        rows = [(v.id, v.sentence, v.text, v.deciding.number if v.deciding else "–") for v in self]
        return Table(("id", "sentence", "verdict", "the number that decides"), rows, self.summary)

    def __str__(self) -> str:
        return str(self.short())

    _repr_markdown_ = __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<p>{self.summary}</p>" + "".join(verdict._repr_html_() for verdict in self)


def check(
    claim: str,
    profile: str | None = None,
    records: Source | None = None,
    openings: Sequence[dict] | None = None,
) -> Verdict:
    """Judge `claim` ("2a" .. "5k", "q1" .. "q12") by its rule on the evidence of one profile.

    profile: None is the environment's PROFILE, else "sample". records: name -> finished records of all seeds;
    None reads those of the profile, and its openings with them. Raises UsageError for an unknown claim or profile.
    """
    rule = RULES[choose("claim", claim, RULES)]
    profile = current_profile(profile)
    verdict = partial(Verdict, rule.id, rule.sentence, rule=rule.text, report=rule.report, profile=profile)
    if not PROFILES[profile].judged:
        return verdict("not judged", note="the sample judges nothing")
    if records is None:
        records = partial(find_records, profile=profile)
        openings = find_openings(profile) if openings is None else openings
    evidence = Evidence(profile, records, openings or ())
    parts = tuple(rule.parts(evidence))
    outcome, note = combine(parts), few_seeds(parts)
    if outcome == "no evidence":
        note = f"no record of {listed(evidence.missing)}" if evidence.missing else "its runs have no seed in common"
    elif outcome == "not judged":
        note = f"{profile} cannot show it"
    return verdict(outcome, parts, note)


def ledger(
    profile: str | None = None,
    records: Source | None = None,
    openings: Sequence[dict] | None = None,
) -> Ledger:
    """The verdicts on all claims, then on our questions; the arguments are those of `check`."""
    return Ledger(check(claim, profile, records, openings) for claim in RULES)


def side_by_side(claim: str, *profiles: str) -> Table:
    """The judged parts of one claim, a column per profile: verdict, effect, interval, and number n of seeds."""
    rows: dict[str, list[str]] = {}
    for i, profile in enumerate(profiles):
        for part in check(claim, profile).parts:
            if part.seeds and part.verdict != "not judged":
                found = f"{part.ours} {part.span}".rstrip()
                row = rows.setdefault(part.text, ["–"] * len(profiles))
                row[i] = f"{part.verdict}: {found}, n = {len(part.seeds)}"
    return Table((claim, *profiles), [(text, *cells) for text, cells in rows.items()])
