"""The report's claims and our questions, each judged by a rule fixed before any evidence.

Everything here is a function of records; nothing trains. What the rules say stands in rules.md, how they are applied in
rules.py and amended.py, what they read in measures.py, how numbers become a verdict in intervals.py, and how one is
written in verdicts.py.
"""

from collections.abc import Sequence
from functools import cache, partial

from deepnet.claims import amended, atlas, rules  # noqa: F401  (which enter their rules)
from deepnet.claims.evidence import REGISTERED, TEXTS, Evidence, Rule, Setting, Source
from deepnet.claims.intervals import combine
from deepnet.claims.verdicts import Ledger, Verdict, after_holm
from deepnet.records.reading import find_openings, find_records
from deepnet.text import listed
from experimentTable import PROFILES, UsageError, choose, current_profile

__all__ = ["RULES", "Ledger", "Rule", "Verdict", "check", "ledger"]

RULES: dict[str, Rule] = {claim: rules.RULES[claim] for claim in TEXTS}  # by chapter, then the questions


def evidence_of(
    profile: str, records: Source | None = None, openings: Sequence[dict] | None = None
) -> tuple[Source, Sequence[dict]]:
    """These records and openings; where there are none, those of the profile, each record read only once."""
    if records is not None:
        return records, openings or ()
    return cache(partial(find_records, profile=profile)), find_openings(profile) if openings is None else openings


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
    if not isinstance(setting, Setting):
        raise UsageError(f"setting must be a Setting, as Setting(level=0.99), got {setting!r:.60}")
    verdict = partial(
        Verdict, rule.id, rule.sentence, rule=rule.text, report=rule.report, profile=profile, setting=setting
    )
    if not PROFILES[profile].judged:
        return verdict("not judged", note="the sample judges nothing")
    evidence = Evidence(profile, *evidence_of(profile, records, openings), setting)
    parts = tuple(rule.parts(evidence))
    outcome, note = str(combine([part.verdict for part in parts] or ["not judged"])), ""
    if outcome == "no evidence":
        note = f"no record of {listed(evidence.missing)}" if evidence.missing else "its runs have no seed in common"
    elif outcome == "not judged":
        note = f"{profile} cannot show it"
    return verdict(outcome, parts, note)


def ledger(profile: str | None = None, records: Source | None = None, openings: Sequence[dict] | None = None) -> Ledger:
    """The verdicts on all claims and on our questions, with Holm's correction; the arguments are those of `check`."""
    profile = current_profile(profile)
    records, openings = evidence_of(profile, records, openings)
    return Ledger(after_holm([check(claim, profile, records, openings) for claim in RULES]))
