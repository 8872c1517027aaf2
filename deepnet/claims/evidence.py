"""A rule, the evidence that it is applied to, and the forms that the parts of a claim take."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from deepnet import valid
from deepnet.claims import measures as m
from deepnet.claims.intervals import SHOWN_ONLY, Aim, Number, Part, at_least, difference, judge_numbers, judge_property
from deepnet.claims.measures import Measure, Record, Runs, numbers
from experimentTable import choose

Source = Callable[[str], Sequence[Any]]  # a run's name -> its finished records of all seeds


@dataclass(frozen=True)
class Setting:
    """A setting of the analysis. The registered one, which is the default, alone decides.

    >>> Setting(epochs="last five", level=0.99)
    """

    epochs: str = "registered"  # which epochs an accuracy, a loss or a gap is read at: one of EPOCHS
    margin: float = 1.0  # how many times the registered margin
    level: float = 0.95  # of intervals; those of equivalence tests are twice as far from 1
    without: int | None = None  # a seed that is left out

    def __post_init__(self) -> None:
        choose("epochs", self.epochs, m.EPOCHS)
        if not valid.number("margin", self.margin):
            raise valid.UsageError("margin must be above 0, got 0")
        if valid.number("level", self.level, below=1) < 0.5:
            raise valid.UsageError(f"level must be at least 0.5, got {self.level!r}")
        valid.optional(partial(valid.whole, least=0))("without", self.without)

    @property
    def text(self) -> str:
        """As "last five epochs, margin × 2, level 0.9"; empty for the registered one."""
        said = (
            (self.epochs != "registered", f"{self.epochs} epoch{'s' * (self.epochs == 'last five')}"),
            (self.margin != 1, f"margin × {self.margin:g}"),
            (self.level != 0.95, f"level {self.level:g}"),
            (self.without is not None, f"without seed {self.without}"),
        )
        return ", ".join(words for differs, words in said if differs)


REGISTERED = Setting()


class Evidence:
    """The records and openings of one profile, how they are read, and the names of what was looked for in vain."""

    def __init__(self, profile: str, records: Source, openings: Sequence[dict], setting: Setting = REGISTERED) -> None:
        self.paper, self.setting = profile == "paper", setting
        self.missing: list[str] = []
        self._records, self._openings = records, openings

    def find(self, name: str) -> Runs:
        """The finished records of run `name`, seed -> record, if there are any."""
        return {record.seed: record for record in self._records(name) if record.seed != self.setting.without}

    def runs(self, name: str) -> Runs:
        """As `find`, for a run that the rule needs: its absence is noted."""
        return self.find(name) or self.lacks(name)

    def together(self, *names: str) -> dict[int, tuple[Record, ...]]:
        """The records of several runs in the seeds that all of them have."""
        runs = [self.runs(name) for name in names]
        return {seed: tuple(run[seed] for run in runs) for seed in sorted(set.intersection(*map(set, runs)))}

    def numbers(self, runs: Runs, measure: Measure) -> dict[int, Number]:
        """`measure` of each seed's record, at the epochs of the setting."""
        return numbers(runs, m.at_epochs(self.setting.epochs, measure))

    def judge_numbers(self, text: str, found: Mapping[Any, Number], aim: Aim, unit: str = "seed") -> Part:
        """`intervals.judge_numbers` with the margin and the level of the setting."""
        return judge_numbers(text, found, aim.varied(self.setting.margin, self.setting.level), unit)

    def test_accuracy(self, name: str, runs: Runs) -> dict[int, Number]:
        """`opened_accuracies`. An opening leaves no predictions, so a number from it has no interval of its own."""
        found = {seed: Number(accuracy) for seed, accuracy in m.opened_accuracies(runs, self._openings).items()}
        return found or (self.lacks(f"the final test of {name}") if runs else {})

    def lacks(self, what: str) -> dict:
        """Note that there is no record of `what`, which the rule needs; nothing, as what was found."""
        self.missing += [] if what in self.missing else [what]
        return {}

    def enough(self, seeds: int, *names: str) -> Iterator[Part]:
        """A part without evidence, unless the runs `names` have at least so many seeds in common."""
        found = len(self.together(*names))
        if found < seeds:
            if all(map(self.find, names)):
                self.lacks(f"{seeds} seeds of {' and '.join(names)} (there {'is' if found == 1 else 'are'} {found})")
            yield Part(f"at least {seeds} seeds of {' and '.join(names)}", "no evidence")


# ---------------------------------------------------------------- the forms that parts take

TIMED = {  # the pairs of a plain and a residual model whose steps are compared
    "timing_3": (("MLP_4", "MLP_res_5"), ("MLP_13", "MLP_res_15"), ("MLP_33", "MLP_res_35")),
    "timing_4": (("CNN_13", "CNN_res_16"), ("CNN_30", "CNN_res_35")),
}


def single(ev: Evidence, text: str, measure: Measure, name: str, aim: Aim) -> Part:
    """A number of one run."""
    return ev.judge_numbers(f"{text} of {name}", ev.numbers(ev.runs(name), measure), aim)


def compare(ev: Evidence, text: str, measure: Measure, a: str, b: str, aim: Aim) -> Part:
    """A number of run `a` minus that of run `b`."""
    found = difference(ev.numbers(ev.runs(a), measure), ev.numbers(ev.runs(b), measure))
    return ev.judge_numbers(f"{text}, {a} − {b}", found, aim)


def property_of(ev: Evidence, text: str, test: Callable[..., bool], *names: str) -> Part:
    """A yes/no property of the runs `names` in one seed."""
    return judge_property(text, {seed: test(*records) for seed, records in ev.together(*names).items()})


def nothing_learned(ev: Evidence, name: str) -> Iterator[Part]:
    """ "Learns nothing", and the numbers that it depends on."""
    yield property_of(ev, f"{name} learns nothing", m.learns_nothing, name)
    yield single(ev, "final training loss", m.final_loss, name, SHOWN_ONLY)
    yield single(ev, "macro accuracy", m.macro_accuracy, name, SHOWN_ONLY)


def vanished(ev: Evidence, name: str) -> Iterator[Part]:
    """ "Vanishing", and the number that it depends on."""
    yield property_of(ev, f"{name}'s gradient vanishes", m.vanishes, name)
    yield single(ev, "log10 of the RMS gradient, first layer − last layer,", m.first_to_last, name, SHOWN_ONLY)


def timing(ev: Evidence, name: str, records: int | None = 1) -> Iterator[Part]:
    """That each residual model takes at least .97 of its plain one's time, in the first `records` runs (None: all)."""
    runs = dict(list(ev.runs(name).items())[:records])
    for plain, residual in TIMED[name]:
        measure = partial(m.step_ratio, plain=plain, residual=residual)
        text = f"seconds per step, {residual} / {plain}"
        yield ev.judge_numbers(text, ev.numbers(runs, measure), at_least(0.97, to=1))


def paper_only(ev: Evidence, text: str, found: Mapping[int, Number], aim: Aim) -> Part:
    """A part that depends on 128-pixel input († in the rules): left out everywhere but in `paper`."""
    text = f"{text} at 128 pixels"
    return ev.judge_numbers(text, found, aim) if ev.paper else Part(f"{text}, {aim.text}", "not judged")


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


_lines = Path(__file__).with_name("rules.md").read_text("utf-8").splitlines()
_table = [[cell.strip() for cell in line.strip("|").split("|")] for line in _lines if line.startswith("|")]
TEXTS: dict[str, list[str]] = {cells[0]: cells for cells in _table[2:]}  # id -> the cells of its line in rules.md
RULES: dict[str, Rule] = {}


def rule(claim: str) -> Callable[[Parts], Parts]:
    """Enter the decorated function, evidence -> parts, in `RULES`, with the text that rules.md has for it."""

    def entered(parts: Parts) -> Parts:
        _, sentence, measured, holds_if, report = TEXTS[claim]
        RULES[claim] = Rule(claim, sentence, measured, holds_if, report, parts)
        return parts

    return entered
