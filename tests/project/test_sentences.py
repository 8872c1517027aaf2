"""The sentences of README, guides and notebook with numbers in them say what the records, the benchmarks' results and
the table say.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import compress
from pathlib import Path

import nbformat
import numpy as np
import pytest
from helpers import ROOT

from deepnet.claims.ledger import check, ledger
from deepnet.claims.verdicts import OUTCOMES, Verdict, counts
from deepnet.data.sets import FINGERPRINTS, VALIDATION
from deepnet.figures.registry import found
from deepnet.grid import CELLS, RATE_ROWS
from deepnet.records.reading import find_openings, find_records
from deepnet.text import duration
from experimentTable import BOTH_PRECISIONS, ROWS, Experiment, estimated_seconds, experiment, is_supported
from myModel import MODELS, count_modules

NOTEBOOK, README, FINDINGS = (ROOT / name for name in ("main.ipynb", "README.md", "report/findings.md"))
RESULTS, PROFILES, SPEED, MACHINES, DIFFERENCES = (
    ROOT / "docs" / f"{page}.md" for page in ("results", "profiles", "speed", "many-machines", "differences")
)
IN_WORDS = [
    "no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen",
]  # fmt: skip
SESSION = "131b5b2"  # the commit that most records of `paper` were made at, side by side on one GPU
# a row of a reader's own is in no sentence
TABLE = [row for row in ROWS if row.name in re.findall(r"\w+", PROFILES.read_text())]


def measured(machine: str) -> dict[str, dict]:
    """The rows of a benchmark's results by their names."""
    return {
        row["name"]: row
        for row in json.loads((ROOT / "benchmarks" / "results" / f"{machine}.json").read_text())["rows"]
    }


def span(values: Iterable[float], digits: str = ".1f") -> str:
    return f"{min(values := list(values)):{digits}} to {max(values):{digits}}"


def joined(values: Iterable[str]) -> str:
    *most, last = values
    return f"{', '.join(most)} and {last}"


def bf16_sentence() -> str:
    """q7's pairs: how far the test accuracy in bf16 lies from fp32's, in points, and where that is shown to be less
    than one.
    """
    points = []
    for model in BOTH_PRECISIONS:
        fp32, bf16 = (
            {r.seed: r.result["accuracy"] for r in find_records(f"{model}_{side}", "cpu")} for side in ("fp32", "bf16")
        )
        points += [100 * (bf16[seed] - fp32[seed]) for seed in fp32.keys() & bf16.keys()]
    equal = {
        model: part.verdict
        for part in check("q7", "cpu").parts
        for model in BOTH_PRECISIONS
        if part.text.startswith(f"test accuracy, {model}_bf16 −")
    }
    shown = [model for model, verdict in equal.items() if verdict == "holds"]
    assert len(shown) == 1 and set(equal.values()) == {"holds", "undecided"}
    return (
        f"In {len(points)} pairs of trainings from the same weights (question q7), test accuracy in bf16 differed "
        "from fp32's by "
        f"{min(points):+.1f} to {max(points):+.1f} points, by {np.mean(points):.2f} on average. That the difference "
        "is within a point "
        f"is shown for {shown[0]} alone; for the others it is neither shown nor excluded."
    )


ABLATIONS = [row for row in TABLE if row.family.startswith("ablation")]


def rows_sentences() -> Iterator[str]:
    """What the table holds."""
    trainings = [row for row in TABLE if row.kind == "training" and row not in ABLATIONS]
    yield f"The report's {len(trainings)} trainings, its classical baseline and its analyses are there"
    yield f"and {len(ABLATIONS)} ablations of our own."


def hours(profile: str, chosen: Callable[[Experiment], bool] = lambda row: True) -> float:
    """What the estimates of the chosen runs add up to."""
    rows = [exp for row in TABLE if chosen(row) and is_supported(exp := experiment(row.name, profile))]
    return sum(map(estimated_seconds, rows)) / 3600


def profiles_sentences() -> Iterator[str]:
    """What a profile runs, and at what cost."""
    two, three, four, five = (
        hours("cpu", lambda row, chapter=chapter: row.chapter == chapter) for chapter in (2, 3, 4, 5)
    )
    ablations = hours("cpu", lambda row: row.chapter == 4 and row in ABLATIONS)
    yield f"The profile `sample` runs everything except the {len(ABLATIONS)} ablations"
    yield f"about {hours('cpu'):.0f} h on two Zen 1 cores |"
    yield (
        f"The {hours('cpu'):.0f} hours of `cpu` are {60 * two:.0f} min for chapter 2, {three:.0f} h for chapter 3, "
        f"{four:.0f} h for chapter 4 ({ablations:.0f} h of it for the ablations) and {five:.0f} h for chapter 5."
    )
    assert round(hours("paper")) == 1  # "about an hour"
    yield from split_sentence("CIFAR-100's training set is split into {:,} and {:,} images")


def machines_sentences() -> Iterator[str]:
    """What the table's runs take on several machines."""
    yield f"which you can stop and resume | {hours('cpu'):.0f} h on two cores |"
    yield f"MLP_res_96 alone takes {duration(estimated_seconds(experiment('MLP_res_96', 'cpu')))}"
    made = [record for profile in ("paper", "cpu") for runs in found("*", profile).values() for record in runs]
    there = [record.profile for record in made if record.settings["provenance"]["commit"].startswith(SESSION)]
    yield (
        f"{there.count('paper')} records of `paper` and {there.count('cpu')} of `cpu` come from one session of 18 "
        "minutes"
    )


def accuracies(name: str, *profiles: str) -> list[float]:
    """The final accuracies of a run's seeds, those of one profile after those of the other."""
    return [record.result["accuracy"] for profile in profiles for record in find_records(name, profile)]


def count_of_verdicts() -> str:
    """How many claims have which verdict, those seen once or twice apart."""
    verdicts = [verdict for verdict in ledger("paper") if verdict.id[0] != "q" and verdict.id[-1] != "′"]
    several, few = ([v for v in verdicts if v.verdict in OUTCOMES and bool(v.seen) == seen] for seen in (False, True))

    def said(some: list[Verdict]) -> str:  # none of them is a question
        return ", ".join(counts(some)).replace(" or yes", "").replace(" or no", "")

    return (
        f"The report's {len(verdicts)} claims are judged by rules that were committed before the first record that "
        f"they read. Judged over at least three seeds: {said(several)}; seen once or twice: "
        f"{said(few)}; no evidence in this profile: {len(verdicts) - len(several) - len(few)}."
    )


def depth_sentences() -> Iterator[str]:
    """The README's first finding, plain depth, and its second, residual connections."""
    (nothing,) = {f"{accuracy:.2f}" for accuracy in accuracies("MLP_33", "paper")}
    yield f"it learns nothing (test accuracy {nothing} in all {IN_WORDS[len(accuracies('MLP_33', 'paper'))]} seeds)"
    eps, he = (accuracies(name, "cpu") for name in ("MLP_33_eps", "MLP_33_he"))
    yield f"(in `cpu`, {span(eps, '.3f')} over {IN_WORDS[len(eps)]} seeds)"
    yield f"({span(he, '.3f')} over {IN_WORDS[len(he)]})"
    four = np.mean(accuracies("MLP_4", "paper"))
    best_rates, said = {23: 1e-4, 13: 1e-3}, str(check("q9", "cpu"))
    assert all(f"({lr:g}) of MLP_{depth}" in said for depth, lr in best_rates.items())
    best = [accuracies(RATE_ROWS[cell], "cpu") for cell in best_rates.items()]
    assert len(best[0]) == 5 and not any(a > b for a, b in zip(*best, strict=True))
    above = {
        p: [a > b for a, b in zip(accuracies("MLP_23", p), accuracies("MLP_13", p), strict=True)]
        for p in ("paper", "cpu")
    }
    paper, cpu = (f"{IN_WORDS[sum(which)]} of {IN_WORDS[len(which)]}" for which in above.values())
    yield (
        f"MLP_4 is best (mean {four:.3f}), but MLP_23 ends above MLP_13 in {paper} seeds, in `cpu` in {cpu}, and "
        "there, at each depth's best learning rate, in none."
    )
    residual = {depth: accuracies(f"MLP_res_{depth}", "paper") for depth in (5, 15, 35, 55, 96)}
    assert [len(seeds) for seeds in residual.values()] == [5, 5, 5, 1, 1]  # "five seeds up to 35 layers, one beyond"
    low, high = (f(accuracy for seeds in residual.values() for accuracy in seeds) for f in (min, max))
    yield f"Residual MLPs with 5 to 96 layers end between {low:.3f} and {high:.3f}"
    yield (
        f"their steps take {span((part.effect for part in check('3f', 'paper').parts), '.2f')} times as long as "
        "the plain ones"
    )
    for profile, sentence in (("paper", "alike at 128 pixels ("), ("cpu", "but not at 32 (`cpu`: ")):
        convolutional = [accuracies(f"CNN_res_{depth}", profile) for depth in (16, 35, 56)]
        yield f"{sentence}{joined(f'{accuracy:.3f}' for (accuracy,) in convolutional)}, one seed)"


def tuning_sentences() -> Iterator[str]:
    """The README's third finding, fine-tuning."""
    of = {row.name: accuracies(row.name, "paper")[0] for row in TABLE if row.chapter == 5}
    yield f"(validation accuracy {of['fine_tune_1']:.3f} and {of['baseline']:.3f}, one seed)"
    best = max(accuracy for name, accuracy in of.items() if name != "train_resnet")
    tested = next(opening["accuracy"] for opening in find_openings("paper") if opening["run"] == "dropout")
    yield f"raises it to {best:.3f} at best, and to {of['dropout']:.3f} with dropout (test accuracy {tested:.3f})"
    lower = [100 * (of[name] - of[f"{name}_2"]) for name in ("adam", "adamw", "rmsprop")]
    yield f"Adam, AdamW and RMSprop end {span(lower)} points lower at 1e-5 than at 5e-4"


def speed_sentences() -> Iterator[str]:
    """What the benchmarks' results say."""
    intel = measured("intel-r-xeon-r-processor-family-6-model-207-2-cores")
    small, zen = (
        measured(f"{name}-2-cores-cpu")
        for name in ("intel-r-xeon-r-processor-family-6-model-207", "amd-epyc-family-23-model-1")
    )
    most = {name: f"{1 / row['time_shares']['products']:.1f}" for name, row in intel.items()}
    frozen, mlps, cnns = list(intel)[-3:], list(intel)[:3], list(intel)[3:7]
    yield (
        f"If everything but the products were free, MLP_4 could be another {most['MLP_4']} times as fast, MLP_33 "
        f"{most['MLP_33']}, CNN_10 "
        f"{most['CNN_10']}, the three rows behind a frozen prefix {joined(most[name] for name in frozen)}."
    )
    ratio = {name: f"{row['ratio']:.2g}" if row["ratio"] > 10 else f"{row['ratio']:.1f}" for name, row in zen.items()}
    yield (
        f"{joined(ratio[name] for name in mlps)} times as fast as the plain recipe in the MLPs, "
        f"{span(zen[name]['ratio'] for name in cnns)} in the CNNs, {ratio['resnet18']} in ResNet-18, "
        f"{joined(ratio[name] for name in frozen)} behind the frozen prefixes."
    )
    ratio = {name: f"{row['ratio']:.2g}" if row["ratio"] > 10 else f"{row['ratio']:.1f}" for name, row in small.items()}
    bf16 = [small[name]["ratio"] for name in cnns if small[name]["precision"] == "bf16"]
    yield (
        f"had {span(bf16)} in the CNNs that train in bf16, and {joined(ratio[name] for name in frozen)} behind "
        "the frozen prefixes"
    )


def factorial_sentences() -> Iterator[str]:
    """What the atlas's factorial shows of 33 layers, and of 4, as means over five seeds."""
    seeds = {cell: accuracies(row, "cpu") for cell, row in CELLS.items() if cell[0][0] in (4, 33)}
    assert {len(values) for values in seeds.values()} == {5}
    mean = {
        (depth, "".join(compress("srb", (shortcuts, he, norm))), lr): float(np.mean(values))
        for ((depth, shortcuts, norm), he, lr), values in seeds.items()
    }  # s: shortcuts, r: He's initialization, b: batch normalization
    deep = {which: f"{mean[33, which, 1e-4]:.3f}" for which in ("", "s", "r", "b", "sr", "sb", "rb", "srb")}
    yield (
        f"At a rate of 1e-4 any one of them lets 33 layers learn, where without them they end at {deep['']}: shortcuts "
        f"at {deep['s']}, He's initialization at {deep['r']}, batch normalization at {deep['b']}."
    )
    assert all(mean[33, pair, 1e-4] < max(mean[33, one, 1e-4] for one in pair) for pair in ("sr", "sb", "rb"))
    yield (
        f"Two of them are worse than the better one alone: shortcuts and He's initialization end at {deep['sr']}, "
        f"shortcuts and batch normalization at {deep['sb']}, He's initialization and batch normalization at "
        f"{deep['rb']}; all three at {deep['srb']}."
    )
    others = [value for (depth, which, lr), value in mean.items() if depth == 33 and lr == 1e-3 and which]
    yield (
        f"At 1e-3 33 layers without any of them end at {mean[33, '', 1e-3]:.3f}, and the seven other combinations "
        f"between {min(others):.3f} and {max(others):.3f}."
    )
    shallow = [value for (depth, *_), value in mean.items() if depth == 4]
    yield f"With 4 layers all sixteen end between {min(shallow):.3f} and {max(shallow):.3f}."


def no_evidence_sentence() -> str:
    """Which claims and questions `paper` has no record for, where `cpu` has one."""
    lacking = [verdict.id for verdict in ledger("paper") if verdict.verdict == "no evidence"]
    nowhere = [claim for claim in lacking if check(claim, "cpu").verdict == "no evidence"]
    here = [claim for claim in lacking if claim not in nowhere]
    return (
        f"`paper` has no record, or too few, for {joined(here)}; they are judged in `cpu`, at smaller sizes. "
        f"{joined(nowhere)} wait for runs in both"
    )


def split_sentence(form: str) -> list[str]:
    """How CIFAR-100's train set is split."""
    whole, held_out = FINGERPRINTS["cifar100", "complete"]["train"][0], VALIDATION["complete"]
    return [form.format(whole - held_out, held_out)]


# with numbers that records, benchmarks or the table give
SENTENCES: dict[str, tuple[Path, Callable[[], Iterable[str]]]] = {
    "the table": (README, rows_sentences),
    "the verdicts": (README, lambda: [count_of_verdicts()]),
    "depth": (README, depth_sentences),
    "fine-tuning": (README, tuning_sentences),
    "the profiles": (PROFILES, profiles_sentences),
    "many machines": (MACHINES, machines_sentences),
    "bf16": (SPEED, lambda: [bf16_sentence()]),
    "speed": (SPEED, speed_sentences),
    "the factorial": (FINDINGS, factorial_sentences),
    "no evidence": (RESULTS, lambda: [no_evidence_sentence()]),
    "modules": (DIFFERENCES, lambda: [f"MLP_res_55 has {count_modules(MODELS['MLP_res_55']())} modules, not 55."]),
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_sentence_has_the_numbers_of_the_records(sentence):
    file, made = SENTENCES[sentence]
    text = file.read_text()
    if file == NOTEBOOK:
        text = "\n".join(
            cell.source for cell in nbformat.reads(text, as_version=4).cells if cell.cell_type == "markdown"
        )
    for expected in made():
        assert expected in " ".join(text.split()), f"{file.name} says otherwise"
