"""Every claim's verdict in every setting of its analysis, computed beforehand, so that the page looks verdicts up."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from deepnet.claims.evidence import Source
from deepnet.claims.intervals import Part
from deepnet.claims.ledger import RULES
from deepnet.claims.robustness import in_settings, robustness_of
from deepnet.claims.verdicts import OUTCOMES, VERDICTS, said
from deepnet.records.files import read_lines
from deepnet.records.reading import EVIDENCE, Record
from experimentTable import JUDGED

DIGITS = 5  # significant ones of an effect and its interval


def verdicts(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One entry per claim and profile, judged on the committed `records` alone; see `entry`."""
    found = []
    for profile in JUDGED:
        named: defaultdict[str, list[Record]] = defaultdict(list)
        for record in records:
            if record.profile == profile and record.finished:
                named[record.name].append(record)
        openings = read_lines(EVIDENCE / profile / "openings.jsonl")
        found += [entry(claim, profile, named.__getitem__, openings) for claim in RULES]
    return found


def entry(claim: str, profile: str, records: Source, openings: Sequence[dict]) -> dict[str, Any]:
    """A claim's verdict in one profile: `settings`, `verdicts` and `parts` run over the settings, the registered first.

    `stands` says in how many of them the registered verdict is the same; it is empty where there is no other setting.
    """
    found = in_settings(claim, profile, records, openings)
    registered, robustness = found[0], robustness_of(found)
    columns = zip(*(verdict.parts for verdict in found), strict=True)  # a part in all settings
    return {
        "claim": registered.id,
        "profile": profile,
        "sentence": registered.sentence,
        "rule": registered.rule,
        "report": registered.report,
        "said": registered.text,
        "words": {verdict: said(registered.id, verdict) for verdict in VERDICTS[:4]},  # as verdicts are printed
        "stands": robustness.text if robustness else "",
        "settings": [asdict(verdict.setting) for verdict in found],
        "verdicts": [verdict.verdict for verdict in found],
        "parts": [[_cells(part) for part in parts] for parts in columns if parts[0].verdict in OUTCOMES],
    }


def _cells(part: Part) -> list[Any]:
    """Text, verdict, effect, and both ends of the interval, None where there is none."""
    numbers = (part.effect, *(part.interval or (None, None)))
    return [part.text, part.verdict, *(None if n is None else float(f"{n:.{DIGITS}g}") for n in numbers)]
