"""The sentences of README and notebook with numbers in them say what the records, the benchmarks' results and the table
say.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
from helpers import ROOT

from deepnet.claims.ledger import check, ledger
from deepnet.data.sets import FINGERPRINTS, VALIDATION
from deepnet.figures.registry import found
from deepnet.records.reading import find_records
from deepnet.text import duration
from experimentTable import BOTH_PRECISIONS, BUDGETS, ROWS, Experiment, estimated_seconds, experiment, is_supported
from myModel import MODELS, count_modules, model_table

NOTEBOOK, README = ROOT / "main.ipynb", ROOT / "README.md"
SESSION = "131b5b2"  # the commit that most records of `paper` were made at, side by side on one GPU
# a row of a reader's own is in no sentence
TABLE = [row for row in ROWS if row.name in re.findall(r"\w+", README.read_text())]


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
        if part.text.startswith(f"test accuracy, {model}_bf16 less")
    }
    shown = [model for model, verdict in equal.items() if verdict == "holds"]
    assert len(shown) == 1 and set(equal.values()) == {"holds", "undecided"}
    return (
        f"In {len(points)} pairs of trainings from the same weights (question q7) test accuracy in bf16 differed from fp32's by "
        f"{min(points):+.1f} to {max(points):+.1f} points, by {np.mean(points):.2f} on average; that the difference is within a point "
        f"is shown for {shown[0]} alone, for the others neither shown nor excluded."
    )


def rows_sentences() -> Iterator[str]:
    """What the table holds."""
    ours = [row for row in TABLE if row.family.startswith("control")]
    trainings = [row for row in TABLE if row.kind == "training" and row not in ours]
    yield f"The report's {len(trainings)} trainings, its classical baseline and its analyses are there"
    yield f"and {len(ours)} controls of our own."
    yield f"The profile `sample` runs everything but the {len(ours)} controls"
    yield f"MLP_res_55 has {count_modules(MODELS['MLP_res_55']())} modules, not 55."


def cost_sentences() -> Iterator[str]:
    """What the estimates of the single runs add up to."""

    def hours(profile: str, chosen: Callable[[Experiment], bool] = lambda row: True) -> float:
        rows = [exp for row in TABLE if chosen(row) and is_supported(exp := experiment(row.name, profile))]
        return sum(map(estimated_seconds, rows)) / 3600

    two, three, four, five = (
        hours("cpu", lambda row, chapter=chapter: row.chapter == chapter) for chapter in (2, 3, 4, 5)
    )
    controls = hours("cpu", lambda row: row.chapter == 4 and row.family.startswith("control"))
    yield f"stop it and go on when you like | {hours('cpu'):.0f} h on two cores |"
    yield (
        f"about {hours('cpu'):.0f} h on the same two cores: chapter 2 {60 * two:.0f} min, 3 {three:.0f} h, 4 {four:.0f} h "
        f"({controls:.0f} h of it controls), 5 {five:.0f} h;"
    )
    yield f"MLP_res_96 alone takes {duration(estimated_seconds(experiment('MLP_res_96', 'cpu')))}"
    assert round(hours("paper")) == 1  # "about an hour"
    made = [record for profile in ("paper", "cpu") for runs in found("*", profile).values() for record in runs]
    there = [record.profile for record in made if record.settings["provenance"]["commit"].startswith(SESSION)]
    yield f"{there.count('paper')} records of `paper` and {there.count('cpu')} of `cpu` come from one session of 18 minutes"


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
        f"Were all but the products free, MLP_4 could be another {most['MLP_4']} times as fast, MLP_33 {most['MLP_33']}, CNN_10 "
        f"{most['CNN_10']}, the three rows behind a frozen prefix {joined(most[name] for name in frozen)}."
    )
    ratio = {name: f"{row['ratio']:.2g}" if row["ratio"] > 10 else f"{row['ratio']:.1f}" for name, row in zen.items()}
    yield (
        f"{joined(ratio[name] for name in mlps)} times the plain recipe in the MLPs, {span(zen[name]['ratio'] for name in cnns)} in the "
        f"CNNs, {ratio['resnet18']} in ResNet-18, {joined(ratio[name] for name in frozen)} behind the frozen prefixes."
    )
    ratio = {name: f"{row['ratio']:.2g}" if row["ratio"] > 10 else f"{row['ratio']:.1f}" for name, row in small.items()}
    bf16 = [small[name]["ratio"] for name in cnns if small[name]["precision"] == "bf16"]
    yield f"had {span(bf16)} in the CNNs that train in bf16, and {joined(ratio[name] for name in frozen)} behind the frozen prefixes"


def no_evidence_sentence() -> str:
    """Which claims and questions `paper` has no record for: that they have one in `cpu`."""
    lacking = [verdict.id for verdict in ledger("paper") if verdict.verdict == "no evidence"]
    assert all(check(claim, "cpu").verdict != "no evidence" for claim in lacking)
    first, *controls, last = lacking
    return f"the CNNs' step times ({first}) and controls ({', '.join(controls)}) and bf16 ({last}) are judged in `cpu`"


def wider_sentence() -> str:
    """Parameters of the widest residual MLPs beside the others', in millions."""
    millions = {row["name"]: row["parameters"] / 1e6 for row in model_table(MODELS)}
    others, wide = ([millions[f"MLP_res_{depth}"] for depth in depths] for depths in ((5, 15, 35), (55, 96)))
    return (
        f"MLP_res_55 and 96 are wider too: {wide[0]:.0f} and {wide[1]:.0f} million parameters against {span(others)}."
    )


def split_sentence(form: str) -> list[str]:
    """How CIFAR-100's train set is split."""
    whole, held_out = FINGERPRINTS["cifar100", "complete"]["train"][0], VALIDATION["complete"]
    return [form.format(whole - held_out, held_out)]


# with numbers that records, benchmarks or the table give
SENTENCES: dict[str, tuple[Path, Callable[[], Iterable[str]]]] = {
    "the table": (README, rows_sentences),
    "the cost": (README, cost_sentences),
    "bf16": (README, lambda: [bf16_sentence()]),
    "speed": (README, speed_sentences),
    "no evidence": (README, lambda: [no_evidence_sentence()]),
    "the split": (README, lambda: split_sentence("CIFAR-100's train set is split into {:,} and {:,} images")),
    "the split, again": (NOTEBOOK, lambda: split_sentence("The train set is split {:,} / {:,}")),
    "wider": (NOTEBOOK, lambda: [wider_sentence()]),
    "the sample's steps": (NOTEBOOK, lambda: [f"In the sample's {BUDGETS['mlp'][0]} steps MLP_23 need not learn"]),
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
