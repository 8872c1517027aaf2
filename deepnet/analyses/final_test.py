"""The final test: the only place that opens chapter 5's test set."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import nn

from deepnet.analyses.baseline import linear, separated
from deepnet.analyses.kinds import as_trained, features_and_targets
from deepnet.data.sets import data_identity, load_test_set
from deepnet.machine import device
from deepnet.records.files import append_line, lock, rounded, utc_now
from deepnet.records.reading import WEIGHTS, Record, find_openings, find_record, roots, runs_dir
from deepnet.training.metrics import accuracy, macro_accuracy
from deepnet.training.precision import resolve_precision
from deepnet.training.steps import evaluate
from experimentTable import EXPERIMENTS, ROWS, USUAL_CHAPTER, Experiment, UsageError


def final_test(record: Record, build: Callable[[Experiment], nn.Module], why_again: str = "") -> dict[str, dict]:
    """See `coreFunction.final_test`; `build` returns the model of an experiment."""
    if not _row(record).final_test:
        tested = " and ".join(row.name for row in ROWS if row.final_test)
        raise UsageError(
            f"{record.name} has no final test, only {tested} have one; to add one, train it with final_test=True"
        )
    if not record.finished:
        raise UsageError(f"{record.name} (seed {record.seed}) has not finished; the final test needs its final weights")
    busy = f"another process is opening the test set of {record.profile}; try again when it has ended"
    with lock(runs_dir() / record.profile / ".openings.lock", busy):
        of_this = [
            o for o in find_openings(record.profile, True) if (o["run"], o["seed"]) == (record.name, record.seed)
        ]
        opened = {opening["classifier"]: opening for opening in of_this}
        tested = record.result["sha256"][WEIGHTS]
        if opened and not why_again:
            if any(opening["weights"] != tested for opening in opened.values()):
                raise UsageError(
                    f"the test set was opened for other weights of {record.name} (seed {record.seed}); "
                    "use another seed, or say why_again"
                )
            return opened
        if missing := _unfinished(record.profile, record.seed):
            raise UsageError(
                f"the test set opens once, at the end: {', '.join(missing)} (seed {record.seed}) must finish first"
            )
        opening = {
            "time": utc_now(), "run": record.name, "profile": record.profile, "seed": record.seed, "weights": tested,
            **({"why_again": why_again} if why_again else {}),
        }  # fmt: skip
        openings = {}
        for name, predictions in _predictions(record, build).items():
            scores = {"accuracy": accuracy(predictions), "macro_accuracy": macro_accuracy(predictions)}
            openings[name] = rounded(opening | {"classifier": name} | scores)
        # logged before any number is shown
        append_line(runs_dir() / record.profile / "openings.jsonl", *openings.values())
        return openings


def _row(record: Record) -> Experiment:
    """The record's experiment, with its profile and seed: the table's row, else the one in its settings."""
    row = EXPERIMENTS.get(record.name) or Experiment(**record.settings["experiment"])
    return replace(row, profile=record.profile, seed=record.seed)


def _unfinished(profile: str, seed: int) -> list[str]:
    """The runs of chapter 5 without a result: those of the table, and variants and search trials that have begun."""
    begun = (Record(path.parent) for root in roots() for path in (root / profile).glob(f"*/seed-{seed}/settings.json"))
    names = [row.name for row in ROWS if row.chapter == 5]
    experiments = {record.name: record.settings["experiment"] for record in begun}
    chapters = {name: exp["chapter"] or USUAL_CHAPTER[exp["dataset"]] for name, exp in experiments.items()}
    names += sorted(name for name, chapter in chapters.items() if chapter == 5 and name not in names)
    return [name for name in names if not ((found := find_record(name, profile, seed)) and found.result)]


def _predictions(record: Record, build: Callable[[Experiment], nn.Module]) -> dict[str, np.ndarray]:
    """Open the test set; returns for each classifier of the record the targets and its predictions, (2, N)."""
    weights, exp = record.weights(), _row(record)
    test = load_test_set(record.profile, data_identity(exp)["image_size"]).to(device())
    precision = resolve_precision(exp.precision)
    if exp.kind == "training":
        model = build(replace(exp, start_from=None)).to(device())  # all weights are replaced by its own
        model.load_state_dict(weights)
        return {exp.model: evaluate(model, test, precision, **as_trained())[1]}
    features, targets = features_and_targets(build(exp).to(device()), test, precision)
    return {name: np.stack([targets, linear(state)(features)]) for name, state in separated(weights).items()}
