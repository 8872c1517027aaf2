"""What was seen, in a sentence, with every number taken from the records."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from coreFunction import current_profile
from experimentTable import experiment
from recordFunction import Record, find_openings, find_records

if TYPE_CHECKING:
    from IPython.display import Markdown

SETS = {"mnist": "MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


def _mean(values: Sequence[float]) -> str:
    """The seeds' mean and, of several, their range: `0.912 (0.905 to 0.921)`."""
    spread = f" ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else ""
    return f"{np.mean(values):.3g}{spread}"


def _training(name: str, records: list[Record]) -> str:
    split = records[0].result["split"]
    finals = [next(row for row in record.rows if row["epoch"] == record.result["epoch"]) for record in records]
    loss, score = _mean([row["train_loss"] for row in finals]), _mean([record.result["accuracy"] for record in records])
    text = f"{name} train loss {loss}, {split} accuracy {score}"
    early = [record.result["last_epoch"] for record in records if record.result["stopped_early"]]
    return text + (f", stopped after row {early[0]}" if early else "")


def _distribution(name: str, records: list[Record]) -> str:
    parts = []
    for data, counts in records[0].result["counts"].items():
        equal = min(counts) == max(counts)
        parts.append(
            f"{SETS[data]} has " + (f"{counts[0]} images in every class" if equal else f"{min(counts)} to {max(counts)} images a class")
        )
    return ", ".join(parts)


def _tsne(name: str, records: list[Record]) -> str:
    skill = _mean([record.result["knn_skill"] for record in records])
    data = SETS[experiment(name).dataset]
    return f"in the plane, the 5 nearest neighbours tell {data}'s classes apart with skill {skill} (0 chance, 1 always)"


def _timing(name: str, records: list[Record]) -> str:
    rows = records[0].rows
    pairs = {row["pair"]: [r["residual_seconds"] / r["plain_seconds"] for r in rows if r["pair"] == row["pair"]] for row in rows}
    return "a residual step takes " + ", ".join(f"{np.mean(ratios):.2f} times the plain one ({pair})" for pair, ratios in pairs.items())


def _baseline(name: str, records: list[Record]) -> str:
    result = records[0].result
    parts = [f"{key.replace('_', ' ')} {scores['validation_accuracy']:.3g}" for key, scores in result["classifiers"].items()]
    return f"validation accuracy of the {' and of the '.join(parts)}; held-out train images chose the {result['chosen'].replace('_', ' ')}"


_SENTENCES = {"training": _training, "distribution": _distribution, "tsne": _tsne, "timing": _timing, "baseline": _baseline}


def seen(*names: str, profile: str | None = None) -> str:
    """One sentence on these experiments in one profile: final train loss and accuracy of trainings, the finding of the others."""
    profile = current_profile(profile)
    parts, missing = [], []
    for name in names:
        records = find_records(name, profile)
        if records:
            parts.append(_SENTENCES[experiment(name).kind](name, records))
        else:
            missing.append(name)
    text = "; ".join(parts)
    if missing:
        text += ("; " if text else "") + f"no record of {', '.join(missing)} in {profile}"
    return f"Seen in {profile}: {text}."


def openings(profile: str | None = None) -> str:
    """How often chapter 5's test set was opened in this profile, and what was found."""
    lines = find_openings(current_profile(profile))
    found = ", ".join(
        f"{line['run']} ({line['classifier'].replace('_', ' ')}, seed {line['seed']}) {line['accuracy']:.4g}" for line in lines
    )
    return (
        f"The test set has been opened for {len({(o['run'], o['seed']) for o in lines})} runs: test accuracy {found or 'not measured yet'}."
    )


def table(rows: Sequence[dict]) -> "Markdown":
    """Dicts with the same keys as a table for a notebook; whole numbers grouped by thousands."""
    from IPython.display import Markdown

    def cell(value: object) -> str:
        return f"{value:,}" if isinstance(value, int) else str(value)

    keys = list(rows[0])
    lines = [[key.replace("_", " ") for key in keys], ["---" if isinstance(rows[0][key], str) else "---:" for key in keys]]
    lines += [[cell(row[key]) for key in keys] for row in rows]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))
