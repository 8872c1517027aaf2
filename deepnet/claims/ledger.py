"""The report's claims and our questions, each judged by a rule fixed before any evidence.

Everything here is a function of records; nothing trains. What the rules say stands in rules.md, how they are applied in
rules.py, what they read in measures.py, and how numbers become a verdict in intervals.py.
"""

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from html import escape

from deepnet.claims import amended, rules  # noqa: F401 (which enters its rules)
from deepnet.claims.evidence import REGISTERED, TEXTS, Evidence, Rule, Setting, Source
from deepnet.claims.intervals import Part, combine, few_seeds
from deepnet.records.reading import find_openings, find_records
from deepnet.text import Table, counted, listed
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
    setting: Setting = REGISTERED

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
        where = f"profile {self.profile}" + (f" ({self.setting.text})" if self.setting.text else "")
        head = [f"{self.id} {self.text}, {where}", f"says: {self.sentence}", f"rule: {self.rule}"]
        return "\n".join([*map(wrap, head), *(f"  {part}" for part in self.parts)])

    def table(self) -> Table:
        """The parts, those that are shown only included; a dash stands where there is nothing."""
        cells = [(part.text, part.ours, part.span, part.which, part.verdict) for part in self.parts]
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
        questions, amended_ones = sum(v.id.startswith("q") for v in self), sum(v.id.endswith("′") for v in self)
        counts = Counter(v.verdict for v in self)
        each = ", ".join(f"{verdict} {counts[verdict]}" for verdict in VERDICTS if counts[verdict])
        where = ", ".join(dict.fromkeys(v.profile for v in self))
        claims = f"{counted(len(self) - questions - amended_ones, 'claim')}, {counted(amended_ones, 'amended rule')}"
        claims += f" and {counted(questions, 'question')}"
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


def evidence_of(profile: str) -> tuple[Source, Sequence[dict]]:
    """The records of a profile, each of which is read once however often it is asked for, and its openings."""
    return cache(partial(find_records, profile=profile)), find_openings(profile)


def check(
    claim: str,
    profile: str | None = None,
    records: Source | None = None,
    openings: Sequence[dict] | None = None,
    setting: Setting = REGISTERED,
) -> Verdict:
    """Judge `claim` ("2a" .. "5k", "q1" .. "q12") by its rule on the evidence of one profile.

    The rule that was added beside that of 3a is "3a′", or "3a'" for short.
    profile: None is the environment's PROFILE, else "sample". records: name -> finished records of all seeds;
    None reads those of the profile, and its openings with them. setting: of the analysis; only the registered one,
    which is the default, decides. Raises UsageError for an unknown claim, profile or setting.
    """
    rule = RULES[choose("claim", str(claim).replace("'", "′"), RULES)]
    profile = current_profile(profile)
    verdict = partial(
        Verdict, rule.id, rule.sentence, rule=rule.text, report=rule.report, profile=profile, setting=setting
    )
    if not PROFILES[profile].judged:
        return verdict("not judged", note="the sample judges nothing")
    if records is None:
        records, read = evidence_of(profile)
        openings = read if openings is None else openings
    evidence = Evidence(profile, records, openings or (), setting)
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
    profile = current_profile(profile)
    if records is None and PROFILES[profile].judged:
        records, read = evidence_of(profile)
        openings = read if openings is None else openings
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
