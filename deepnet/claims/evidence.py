"""A rule, the evidence that it is applied to, and the forms that the parts of a claim take."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from deepnet.claims.intervals import BESIDE, Aim, Number, Part, at_least, judge, judge_property, left_out, less
from deepnet.claims.measures import (
    Measure,
    Record,
    Runs,
    final_loss,
    first_to_last,
    learns_nothing,
    macro_accuracy,
    numbers,
    opened_accuracies,
    step_ratio,
    vanishes,
)

Source = Callable[[str], Sequence[Any]]  # a run's name -> its finished records of all seeds


class Evidence:
    """The records and openings of one profile, and the names of what was looked for in vain."""

    def __init__(self, profile: str, records: Source, openings: Sequence[dict]) -> None:
        self.paper = profile == "paper"
        self.missing: list[str] = []
        self._records, self._openings = records, openings

    def find(self, name: str) -> Runs:
        """The finished records of run `name`, seed -> record, if there are any."""
        return {record.seed: record for record in self._records(name)}

    def runs(self, name: str) -> Runs:
        """As `find`, for a run that the rule needs: its absence is noted."""
        return self.find(name) or self._note(name)

    def together(self, *names: str) -> dict[int, tuple[Record, ...]]:
        """The records of several runs in the seeds that all of them have."""
        runs = [self.runs(name) for name in names]
        return {seed: tuple(run[seed] for run in runs) for seed in sorted(set.intersection(*map(set, runs)))}

    def test_accuracy(self, runs: Runs) -> dict[int, Number]:
        """`opened_accuracies`. An opening leaves no predictions, so a number from it has no interval of its own."""
        found = {seed: Number(accuracy) for seed, accuracy in opened_accuracies(runs, self._openings).items()}
        return found or self._note(*(f"the final test of {name}" for name in {r.name for r in runs.values()}))

    def _note(self, *names: str) -> dict:
        self.missing += [name for name in names if name not in self.missing]
        return {}


# ---------------------------------------------------------------- the forms that parts take


def one(ev: Evidence, text: str, measure: Measure, name: str, aim: Aim) -> Part:
    """A number of one run."""
    return judge(f"{text} of {name}", numbers(ev.runs(name), measure), aim)


def compare(ev: Evidence, text: str, measure: Measure, a: str, b: str, aim: Aim) -> Part:
    """A number of run `a` less that of run `b`."""
    return judge(f"{text}, {a} less {b}", less(numbers(ev.runs(a), measure), numbers(ev.runs(b), measure)), aim)


def has(ev: Evidence, text: str, test: Callable[..., bool], *names: str) -> Part:
    """A yes/no property of the runs `names` in one seed."""
    return judge_property(text, {seed: test(*records) for seed, records in ev.together(*names).items()})


def nothing_learned(ev: Evidence, name: str) -> Iterator[Part]:
    """ "Learns nothing", with the numbers it hangs on beside it."""
    yield has(ev, f"{name} learns nothing", learns_nothing, name)
    yield one(ev, "final train loss", final_loss, name, BESIDE)
    yield one(ev, "macro accuracy", macro_accuracy, name, BESIDE)


def vanished(ev: Evidence, name: str) -> Iterator[Part]:
    """ "Vanishing", with the number it hangs on beside it."""
    yield has(ev, f"{name}'s gradient vanishes", vanishes, name)
    yield one(ev, "first layer's log10 RMS gradient less the last's", first_to_last, name, BESIDE)


def timing(ev: Evidence, name: str, *pairs: tuple[str, str]) -> Iterator[Part]:
    """That each residual model takes at least .97 of its plain one's time, in one run: its first seed's."""
    runs = dict(list(ev.runs(name).items())[:1])
    for plain, residual in pairs:
        measure = partial(step_ratio, plain=plain, residual=residual)
        yield judge(f"seconds a step, {residual} to {plain}", numbers(runs, measure), at_least(0.97))


def in_paper(ev: Evidence, text: str, found: Mapping[int, Number], aim: Aim) -> Part:
    """A part that hangs on 128-pixel input († in the rules): left out everywhere but in `paper`."""
    return judge(text, found, aim) if ev.paper else left_out(f"{text}, {aim.text}")


# ---------------------------------------------------------------- a rule


Parts = Callable[[Evidence], Iterable[Part]]


@dataclass(frozen=True)
class Rule:
    """A claim, the rule it is judged by, and the function that applies the rule."""

    id: str
    sentence: str  # what the report says (or the question)
    measured: str  # on what
    holds_if: str
    report: str  # the report's number, where it gives one
    parts: Parts

    @property
    def text(self) -> str:
        """The rule in one line."""
        return f"{self.measured}: {self.holds_if}" if self.measured else self.holds_if


def enter(
    rules: dict[str, Rule], claim: str, sentence: str, measured: str, holds_if: str, report: str = ""
) -> Callable[[Parts], Parts]:
    """Enter the decorated function, evidence -> parts, in `rules`."""

    def entered(parts: Parts) -> Parts:
        rules[claim] = Rule(claim, sentence, measured, holds_if, report, parts)
        return parts

    return entered
