"""The final test: the only place that opens chapter 5's test set."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import nn

from deepnet.analyses.baseline import linear
from deepnet.analyses.kinds import as_trained
from deepnet.data.sets import data_identity, load_test_set
from deepnet.machine import device
from deepnet.records.files import append_line, lock, rounded
from deepnet.records.reading import WEIGHTS, Record, find_openings, find_record, roots, runs_dir
from deepnet.training.features import extract_features
from deepnet.training.metrics import accuracy, macro_accuracy
from deepnet.training.precision import resolve_precision
from deepnet.training.steps import evaluate
from experimentTable import EXPERIMENTS, ROWS, USUAL_CHAPTER, Experiment, UsageError


def final_test(record: Record, build: Callable[[Experiment], nn.Module], why_again: str = "") -> dict[str, dict]:
    """See `coreFunction.final_test`; `build` gives the model of an experiment."""
    if not _row(record).final_test:
        tested = " and ".join(row.name for row in ROWS if row.final_test)
        raise UsageError(
            f"{record.name} has no final test, only {tested} have one; to add one, train it with final_test=True"
        )
    if not record.finished:
        raise UsageError(f"{record.name} (seed {record.seed}) has not finished; the final test needs its final weights")
    busy = f"another process is at the test set of {record.profile}; ask again when it has ended"
    with lock(runs_dir() / record.profile / ".openings.lock", busy):
        opened = {
            o["classifier"]: o
            for o in find_openings(record.profile, True)
            if (o["run"], o["seed"]) == (record.name, record.seed)
        }
        tested = record.result["sha256"][WEIGHTS]
        if opened and not why_again:
            if any(opening["weights"] != tested for opening in opened.values()):
                raise UsageError(
                    f"the test set was opened for other weights of {record.name} (seed {record.seed}); use another seed, or say why_again"
                )
            return opened
        if missing := _unfinished(record.profile, record.seed):
            raise UsageError(
                f"the test set opens once, at the end: {', '.join(missing)} (seed {record.seed}) must finish first"
            )
        predictions = _predictions(record, build)
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "run": record.name,
            "profile": record.profile,
        }
        line |= {"seed": record.seed, "weights": tested} | ({"why_again": why_again} if why_again else {})
        lines = {
            name: rounded(
                line | {"classifier": name, "accuracy": accuracy(given), "macro_accuracy": macro_accuracy(given)}
            )
            for name, given in predictions.items()
        }
        # nobody has seen a number before it is logged
        append_line(runs_dir() / record.profile / "openings.jsonl", *lines.values())
        return lines


def _row(record: Record) -> Experiment:
    """What the record is of: the table's row of that name, else what its settings say, at its profile and seed."""
    row = EXPERIMENTS.get(record.name) or Experiment(**record.settings["experiment"])
    return replace(row, profile=record.profile, seed=record.seed)


def _unfinished(profile: str, seed: int) -> list[str]:
    """The table's chapter 5 runs that have no result, and what else of chapter 5 has begun (variants, search trials)
    and has none.
    """
    begun = (Record(path.parent) for root in roots() for path in (root / profile).glob(f"*/seed-{seed}/settings.json"))
    names = [row.name for row in ROWS if row.chapter == 5]
    said = {record.name: record.settings["experiment"] for record in begun}
    names += sorted(
        name
        for name, its in said.items()
        if (its["chapter"] or USUAL_CHAPTER[its["dataset"]]) == 5 and name not in names
    )
    return [name for name in names if not ((found := find_record(name, profile, seed)) and found.result)]


def _predictions(record: Record, build: Callable[[Experiment], nn.Module]) -> dict[str, np.ndarray]:
    """Opens the vault: for each classifier of the record (2, N), the test images' labels and the classes given."""
    weights = record.weights()
    exp = _row(record)
    test = load_test_set(record.profile, data_identity(exp)["image_size"]).to(device())
    precision = resolve_precision(exp.precision)
    if exp.kind == "training":
        model = build(replace(exp, start_from=None)).to(device())  # its weights are all its own by now
        model.load_state_dict(weights)
        return {exp.model: evaluate(model, test, precision, **as_trained())[1]}
    features, labels = (
        extract_features(build(exp).to(device()), test, precision, **as_trained()).cpu().numpy(),
        test.labels.cpu().numpy(),
    )
    states: dict[str, dict] = {}
    for key, tensor in weights.items():
        name, _, part = key.partition(".")
        states.setdefault(name, {})[part] = tensor
    return {name: np.stack([labels, linear(state)(features)]) for name, state in states.items()}
