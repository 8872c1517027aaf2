"""How often the rules judge falsely: ledgers of made-up numbers whose true effects are known.

`python -m deepnet.claims.simulation` writes its tables into docs/statistics.md. The numbers of a seed are drawn from a
normal distribution with the spread that the records show; intervals and verdicts are those of intervals.py.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite

import numpy as np

from deepnet.claims.formulas import discordant_interval, holm, t_interval, wilson_interval
from deepnet.claims.intervals import FEW_SEEDS, Aim, Part, combine, judge_count, judge_ends
from deepnet.claims.ledger import RULES, check, evidence_of
from deepnet.claims.verdicts import p_of
from deepnet.records.reading import ROOT
from deepnet.text import Table

COMMAND = "python -m deepnet.claims.simulation"
PAGE = ROOT / "docs" / "statistics.md"
LEDGERS, SEED = 10_000, 20261128
SEEDS = (1, 3, 5)
EFFECTS = {"none": 0.0, "half the margin": 0.5, "the margin": 1.0}  # the true effect, as a share of the margin
SHARE = 0.75  # of the seeds that have a property: neither all nor at most half


@dataclass(frozen=True)
class Form:
    """A part of a claim, and what the made-up number of one seed is drawn from."""

    text: str
    aim: Aim
    spread: float  # standard deviation between seeds
    images: int = 0  # that an accuracy is measured on; 0: the number of one seed has no interval
    discordant: float = 0.0  # share of the images that one of two runs has right; 0: a single accuracy

    @property
    def name(self) -> str:
        """As "above, accuracy"."""
        return f"{self.aim.word}, {kind(self.text)}"

    def effect(self, share: float) -> float:
        """The true value that lies `share` of the margin from none; where there is no margin, the threshold."""
        end = self.aim.most if isfinite(self.aim.most) else self.aim.least
        return end if self.aim.to is None else self.aim.to + share * (end - self.aim.to)

    def truth(self, share: float) -> str:
        """The verdict on the true value itself."""
        return str(self.aim.verdict(self.effect(share), self.effect(share)))

    def drawn(self, share: float, seeds: int, ledgers: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """The part's verdict in so many ledgers (ledgers,), and p-values of "holds" and "fails" (1 for few seeds)."""
        if seeds > FEW_SEEDS:
            values = rng.normal(self.effect(share), self.spread, (ledgers, seeds))
            low, high = t_interval(values, self.aim.level)
            return judge_ends(low[:, None], high[:, None], self.aim), *self.aim.p_values(values)
        chance = self.discordant or 0.25  # the variance of one image, at most
        between = max(0.0, self.spread**2 - chance / self.images) ** 0.5 if self.images else self.spread
        low = high = value = rng.normal(self.effect(share), between, (ledgers, seeds))
        if self.discordant:
            a, b = (np.clip((self.discordant + sign * value) / 2, 0, 0.5) for sign in (1, -1))
            only_a = rng.binomial(self.images, a)
            only_b = rng.binomial(self.images - only_a, b / (1 - a))
            low, high = discordant_interval(only_a, only_b, self.images, self.aim.level)
        elif self.images:
            right = rng.binomial(self.images, np.clip(value, 0, 1)) / self.images
            low, high = wilson_interval(right, self.images, self.aim.level)
        return judge_ends(low, high, self.aim), np.ones(ledgers), np.ones(ledgers)


def kind(text: str) -> str:
    """What a part measures."""
    return next((word for word in ("loss", "accuracy") if word in text), "other")


def forms() -> dict[str, list[Form]]:
    """Each claim's parts on numbers, with the spread over the seeds and the images of their records.

    A claim is taken from `paper`, or from `cpu` where only that judges it. A part of fewer than three seeds has the
    spread of the same part in the other profile, or the median of its kind. A claim with a number for which there is
    neither is left out. A yes/no property beside numbers is taken to be true.
    """
    found: dict[str, tuple[Part, ...]] = {}
    spreads: dict[str, float] = {}
    for profile in ("cpu", "paper"):  # the second counts where both have it
        records, openings = evidence_of(profile)
        for claim in RULES:
            verdict = check(claim, profile, records, openings)
            found |= {claim: tuple(part for part in verdict.judged if part.aim)} if verdict.judged else {}
            several = (part for part in verdict.judged if part.aim and len(part.values) > FEW_SEEDS)
            spreads |= {part.text: float(np.std(part.values, ddof=1)) for part in several}
    usual = {k: float(np.median([s for text, s in spreads.items() if kind(text) == k])) for k in ("loss", "accuracy")}
    made: dict[str, list[Form]] = {}
    for claim in (claim for claim in RULES if found.get(claim)):
        spread = [spreads.get(part.text, usual.get(kind(part.text))) for part in found[claim]]
        if all(s is not None for s in spread):
            made[claim] = [form_of(part, s or 0.0) for part, s in zip(found[claim], spread, strict=True)]
    return made


def form_of(part: Part, spread: float) -> Form:
    """The form of a part, with the images that its records were evaluated on."""
    assert part.aim
    values = np.stack([values() for values in part.per_image]) if part.per_image else np.zeros((0, 0))
    discordant = float((values != 0).mean()) if (values < 0).any() else 0.0
    return Form(part.text, part.aim, spread, values.shape[1], discordant)


@dataclass(frozen=True)
class Ledgers:
    """Made-up ledgers of one size and effect, and where they judge falsely."""

    forms: Mapping[str, Sequence[Form]]
    share: float
    seeds: int
    ledgers: int
    seed: int

    @cached_property
    def drawn(self) -> dict[str, list[tuple[np.ndarray, ...]]]:
        """Each claim's parts: verdict and two p-values in each ledger."""
        rng = np.random.default_rng([self.seed, self.seeds, round(100 * self.share)])
        return {
            claim: [form.drawn(self.share, self.seeds, self.ledgers, rng) for form in parts]
            for claim, parts in self.forms.items()
        }

    def false_parts(self) -> Iterator[tuple[str, float]]:
        """The form of each part, and how often its verdict is false."""
        for claim, parts in self.forms.items():
            for form, (verdict, *_) in zip(parts, self.drawn[claim], strict=True):
                yield form.name, float(is_false(verdict, form.truth(self.share)).mean())

    @cached_property
    def false_claims(self) -> dict[str, np.ndarray]:
        """Claim -> whether its verdict is false, in each ledger."""
        return {claim: is_false(self._verdict(claim), self._truth(claim)) for claim in self.forms}

    def false_after_holm(self) -> np.ndarray:
        """Whether some claim's verdict is false that Holm's correction has left, in each ledger."""
        p = []
        for claim, parts in self.drawn.items():
            _, holds, fails = (np.stack(arrays) for arrays in zip(*parts, strict=True))
            p.append(p_of(self._verdict(claim), holds, fails))
        stands = holm(np.stack(p, axis=-1)) <= 0.05
        return np.any(np.stack(list(self.false_claims.values()), axis=-1) & stands, axis=-1)

    def _verdict(self, claim: str) -> np.ndarray:
        return combine([verdict for verdict, *_ in self.drawn[claim]])

    def _truth(self, claim: str) -> str:
        return str(combine([form.truth(self.share) for form in self.forms[claim]]))


def is_false(verdict: np.ndarray, truth: str) -> np.ndarray:
    """Whether a verdict says "holds" or "fails" where that is not so."""
    return (verdict != "undecided") & (verdict != truth)


def false_properties(seeds: int, ledgers: int, seed: int) -> float:
    """How often a property that `SHARE` of the seeds have is judged to be all seeds' or at most half's."""
    count = np.random.default_rng([seed, seeds]).binomial(seeds, SHARE, ledgers)
    return float((judge_count(count, seeds) != "undecided").mean())


def percent(rate: float) -> str:
    """A share in percent."""
    return f"{100 * rate:.1f}"


def tables(ledgers: int = LEDGERS, seed: int = SEED) -> tuple[Table, Table, Table]:
    """The rates of false verdicts in percent: of each form of a part, of each claim, and of whole ledgers."""
    given = forms()
    made = {(e, n): Ledgers(given, share, n, ledgers, seed) for e, share in EFFECTS.items() for n in SEEDS}
    by_form: dict[str, dict[tuple[str, int], list[float]]] = {}
    for key, some in made.items():
        for name, rate in some.false_parts():
            by_form.setdefault(name, {}).setdefault(key, []).append(rate)
    head = [f"{effect}, n = {n}" for effect in EFFECTS for n in SEEDS]
    first = [
        (name, f"{len(next(iter(rates.values())))}", *(percent(float(np.mean(rates[key]))) for key in made))
        for name, rates in sorted(by_form.items())
    ]
    properties = [percent(false_properties(n, ledgers, seed)) for n in SEEDS]
    first.append((f"yes/no, of {SHARE:.0%} of the seeds", "–", *properties * len(EFFECTS)))
    second = [
        (claim, f"{len(parts)}", *(percent(max(made[e, n].false_claims[claim].mean() for e in EFFECTS)) for n in SEEDS))
        for claim, parts in given.items()
    ]
    third = []
    for (effect, n), some in made.items():
        false = np.stack(list(some.false_claims.values()))
        after = percent(some.false_after_holm().mean()) if n > FEW_SEEDS else "–"
        third.append((effect, f"{n}", percent(false.any(axis=0).mean()), f"{false.sum(axis=0).mean():.1f}", after))
    return (
        Table(("form of a part", "parts", *head), first),
        Table(("claim", "parts", *(f"n = {n}" for n in SEEDS)), second),
        Table(("true effect", "n", "some false verdict", "false verdicts per ledger", "some after Holm"), third),
    )


def report() -> str:
    """What stands between the marks in docs/statistics.md."""
    by_form, by_claim, whole = tables()
    return (
        f"`{COMMAND}`, {LEDGERS:,} ledgers per column, seed {SEED}. All rates are percentages.\n\n"
        f"By the form of a part:\n\n{by_form}\n\nBy claim, the worst of the three effects:\n\n{by_claim}\n\n"
        f"Of whole ledgers:\n\n{whole}"
    )


def main() -> None:
    """Write the tables into docs/statistics.md."""
    text, made = PAGE.read_text("utf-8"), f"<!-- simulation -->\n{report()}\n<!-- /simulation -->"
    PAGE.write_text(re.sub("<!-- simulation -->.*<!-- /simulation -->", lambda _: made, text, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    main()
