"""What is shown beside a verdict and decides nothing: its robustness, its p-value, intervals over seeds and images."""

from collections.abc import Sequence

import numpy as np

from deepnet.claims.evidence import Source
from deepnet.claims.formulas import Interval, two_way_interval
from deepnet.claims.intervals import FEW_SEEDS, written
from deepnet.claims.ledger import check, evidence_of, ledger
from deepnet.claims.robustness import robustness
from deepnet.claims.verdicts import OUTCOMES, said
from deepnet.text import Table
from experimentTable import current_profile


def two_level(
    claim: str, profile: str | None = None, records: Source | None = None, openings: Sequence[dict] | None = None
) -> dict[str, Interval]:
    """A part's text -> its interval over seeds and images, of each part on final accuracies of at least three seeds.

    The registered interval holds for these images and other seeds; this one for other images too, drawn from where
    these come from. It has the level of the registered one, and decides nothing. The arguments are those of `check`.
    """
    intervals = {}
    for part in check(claim, profile, records, openings).parts:
        if part.level and len(part.per_image) > FEW_SEEDS:
            values = np.stack([values() for values in part.per_image])
            intervals[part.text] = two_way_interval(values, part.level)
    return intervals


def side_by_side(claim: str, *profiles: str) -> Table:
    """The judged parts of one claim, a column per profile: verdict, effect, interval, number n of seeds.

    Where there is one, an interval over seeds and images stands beside the registered one. Below them stands in how
    many settings of the analysis the claim's verdict stands.
    """
    rows: dict[str, list[str]] = {}
    last = ["–"] * len(profiles)
    for i, profile in enumerate(profiles):
        evidence = evidence_of(profile)
        other = two_level(claim, profile, *evidence)
        for part in (part for part in check(claim, profile, *evidence).parts if part.verdict in OUTCOMES):
            found = f"{said(claim, part.verdict)}: {part.ours} {part.span}".rstrip() + f", n = {len(part.seeds)}"
            if part.text in other:
                found += f", over seeds and images [{', '.join(map(written, other[part.text]))}]"
            rows.setdefault(part.text, ["–"] * len(profiles))[i] = found
        if robust := robustness(claim, profile, *evidence):
            last[i] = robust.text
    parts = [(text, *cells) for text, cells in rows.items()]
    return Table((claim, *profiles), [*parts, ("*the verdict stands*", *last)] if parts else [])


def statistics_table(profile: str | None = None) -> Table:
    """One line per claim with a verdict: its p-value, what Holm's correction leaves, in how many settings it stands."""
    profile = current_profile(profile)
    evidence = evidence_of(profile)
    rows = []
    for verdict in (verdict for verdict in ledger(profile, *evidence) if verdict.verdict in OUTCOMES):
        found = robustness(verdict.id, profile, *evidence)
        p = "–" if verdict.p is None else f"{verdict.p:.2g}"
        adjusted = said(verdict.id, verdict.adjusted) or "–"
        needed = f"{verdict.seeds_needed:,}" if verdict.seeds_needed else "–"
        rows.append((verdict.id, verdict.outcome, p, adjusted, found.text if found else "–", needed))
    return Table(("id", "verdict", "p", "after Holm", "stands", "seeds that would decide"), rows, f"Profile {profile}.")
