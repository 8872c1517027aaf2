"""The report's claims and our questions, each judged by a rule fixed before any evidence.

A rule that turns out to be wrong is not edited: a new one is added under a new id beside it, with the reason, and
both verdicts are shown. Everything here is a function of records; nothing trains. The rules stand in
report/rules_depth.py and report/rules_tuning.py, what they read in report/measures.py, and how numbers become a
verdict in report/intervals.py. Where the rules leave a choice, the code that makes it says so.
"""

import os
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from experimentTable import PROFILES, choose
from report import rules_depth, rules_tuning
from report.evidence import Evidence, Rule, Source
from report.intervals import Part, combine, few_seeds, ranges

__all__ = ["RULES", "Rule", "Verdict", "check", "ledger", "ledger_markdown"]

RULES: dict[str, Rule] = dict(sorted((rules_depth.RULES | rules_tuning.RULES).items()))  # by chapter, then the questions


@dataclass(frozen=True)
class Verdict:
    """What the evidence of one profile says about a claim; prints itself."""

    id: str
    sentence: str  # what it judges
    verdict: str  # "holds", "fails", "undecided", "no evidence" or "not judged"
    parts: tuple[Part, ...] = ()
    note: str = ""  # "one seed", "two seeds", or why there is no verdict
    rule: str = ""
    report: str = ""  # the report's number
    profile: str = ""

    @property
    def text(self) -> str:
        """The verdict with its note."""
        return f"{self.verdict} ({self.note})" if self.note else self.verdict

    def __str__(self) -> str:
        """On one screen: verdict, sentence, rule, then a line a part."""
        wrap = partial(textwrap.fill, width=110, subsequent_indent="      ")
        head = [f"{self.id} {self.text}, profile {self.profile}", f"says: {self.sentence}", f"rule: {self.rule}"]
        return "\n".join([*map(wrap, head), *(f"  {part}" for part in self.parts)])

    def _repr_markdown_(self) -> str:
        """The same for a notebook."""
        head = f"**{self.id} {self.text}**, profile `{self.profile}`: {self.sentence}\n\n*Rule:* {self.rule}"
        rows = [(p.text, p.ours, p.span, ranges(p.seeds), p.verdict) for p in self.parts]
        return f"{head}\n\n{_table(('part', 'ours', 'interval', 'seeds', 'verdict'), rows)}" if rows else head


def check(
    claim: str,
    profile: str | None = None,
    records: Source | None = None,
    openings: Sequence[dict] | None = None,
) -> Verdict:
    """Judge `claim` ("2a" .. "5k", "q1" .. "q6") by its rule on the evidence of one profile.

    profile: None is the environment's PROFILE, else "sample". records: name -> finished records of all seeds;
    None reads those of the profile, and its openings with them. Raises UsageError for an unknown claim or profile.
    """
    rule = RULES[choose("claim", claim, RULES)]
    profile = choose("profile", profile or os.environ.get("PROFILE", "sample"), PROFILES)
    verdict = partial(Verdict, rule.id, rule.sentence, rule=rule.text, report=rule.report, profile=profile)
    if profile == "sample":
        return verdict("not judged", note="the sample judges nothing")
    if records is None:
        from recordFunction import find_openings, find_records

        records = partial(find_records, profile=profile)
        openings = find_openings(profile) if openings is None else openings
    evidence = Evidence(profile, records, openings or ())
    parts = tuple(rule.parts(evidence))
    outcome, note = combine(parts), few_seeds(parts)
    if outcome == "no evidence":
        note = f"no record of {', '.join(evidence.missing)}" if evidence.missing else "its runs have no seed in common"
    elif outcome == "not judged":
        note = f"{profile} cannot show it"
    return verdict(outcome, parts, note)


def ledger(
    profile: str | None = None,
    records: Source | None = None,
    openings: Sequence[dict] | None = None,
) -> list[Verdict]:
    """The verdicts on all claims, then on our questions; the arguments are those of `check`."""
    return [check(claim, profile, records, openings) for claim in RULES]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table, with a dash where there is nothing."""
    head = tuple(head)
    lines = (head, ("---",) * len(head), *rows)
    return "\n".join(f"| {' | '.join(cell or '–' for cell in line)} |" for line in lines)


def ledger_markdown(verdicts: Iterable[Verdict]) -> str:
    """The verdicts as one table, with their number, since nothing is corrected for it.

    A claim's parts have a line each; what is only printed beside stands in the verdict itself.
    """
    verdicts, rows = list(verdicts), []
    for v in verdicts:
        parts = [part for part in v.parts if part.seeds and part.verdict != "not judged"]
        ours = [f"{part.text}: {part.ours} ({part.verdict})" for part in parts]
        columns = (ours, [part.span or "–" for part in parts], [ranges(part.seeds) for part in parts])
        rows.append((v.id, v.sentence, v.report, *map("<br>".join, columns), v.text))
    questions = sum(v.id.startswith("q") for v in verdicts)
    head = f"{len(verdicts) - questions} claims and {questions} questions, with no correction for their number."
    table = _table(("id", "sentence", "the report's number", "ours", "interval", "seeds", "verdict"), rows)
    return f"{head}\n\n{table}\n"
