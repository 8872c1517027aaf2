"""Records as the rules read them, with the values that a test gives them."""

from dataclasses import dataclass, field

import numpy as np

from deepnet.claims import intervals as st

IMAGES = 1000
WEIGHTS = {"weights.pt": "of these weights"}


@dataclass
class FakeRecord:
    """What the rules read of a record."""

    name: str
    seed: int
    result: dict
    rows: list = field(default_factory=list)
    settings: dict = field(default_factory=dict)
    images: int = IMAGES

    def column(self, metric, trained_only=False):
        rows = self.rows[1:] if trained_only else self.rows
        return np.array([row.get(metric, np.nan) for row in rows], dtype=float)

    def predictions(self):
        """The first images are right, so of two runs all discordant pairs are on one side."""
        labels = np.arange(self.images) % 10
        right = np.arange(self.images) < round(self.result["accuracy"] * self.images)
        return np.stack([labels, np.where(right, labels, (labels + 1) % 10)])


def curve(value, epochs):
    """`value`, one an epoch; a list is taken as it is."""
    return list(value) if isinstance(value, (list, tuple)) else [value] * epochs


def train(name, seed=0, loss=1.0, accuracy=0.5, train=0.5, macro=None, epochs=20, stop=None, **more):
    """A finished training: `accuracy` and `loss` a number or one an epoch; `stop`: early stopping, after so many."""
    ran = stop or epochs
    losses, accuracies, norm, rms = curve(loss, ran), curve(accuracy, ran), more.get("norm", 1.0), more.get("rms")
    rows = [{"epoch": 0, "validation_accuracy": 0.9, "test_accuracy": 0.9}]  # as no rule may count it
    for epoch, (epoch_loss, epoch_accuracy) in enumerate(zip(losses, accuracies, strict=True), start=1):
        row = {"epoch": epoch, "steps": 10, "train_loss": epoch_loss, "train_accuracy": train}
        row |= {"validation_accuracy": epoch_accuracy, "test_accuracy": epoch_accuracy}
        row |= {"gradient_norm_sum": 10 * norm, "gradient_norm": norm, "gradient_log10_rms": rms or [-3, -3, -3]}
        row |= {"probe_dead": [0.0, float(epoch > more.get("alive", ran)), 1.0]}
        rows.append(row)
    best = int(np.argmax(accuracies)) + 1
    final = best if stop else ran
    result = {
        "status": "finished", "split": more.get("split", "validation"), "classes": 10, "epoch": final,
        "last_epoch": ran, "best_epoch": best, "budget": epochs, "accuracy": accuracies[final - 1],
        "best_accuracy": max(accuracies),
        "macro_accuracy": accuracies[final - 1] if macro is None else macro, "sha256": WEIGHTS,
    }  # fmt: skip
    experiment = {"lr": more.get("lr", 5e-4), "batch_size": more.get("batch_size", 128)}
    return FakeRecord(name, seed, result, rows, {"experiment": experiment})


def many(name, seeds=3, **values):
    """The same in several seeds; a dict is a value for each seed."""
    return [train(name, s, **{k: v[s] if isinstance(v, dict) else v for k, v in values.items()}) for s in range(seeds)]


def world(**runs):
    """Three seeds of each run, from its values: what a `records` function gives."""
    made = {name: many(name, **values) if isinstance(values, dict) else values for name, values in runs.items()}
    return lambda name: made.get(name, [])


def analysis(name, **results):
    """An analysis with these results, a list being one value a seed."""
    seeds = max(len(v) if isinstance(v, list) else 1 for v in results.values())
    return [
        FakeRecord(name, s, {k: v[s] if isinstance(v, list) else v for k, v in results.items()}) for s in range(seeds)
    ]


def baseline(accuracy, seeds=3, chosen="svm"):
    return analysis("baseline", accuracy=[accuracy] * seeds, chosen=chosen, sha256=WEIGHTS)


def blocks(name, *pairs):
    """A timing record: `pairs` are (plain, residual, ratios)."""
    rows = [
        {"plain": plain, "residual": residual, "block": i, "plain_seconds": 2.0, "residual_seconds": 2.0 * ratio}
        for plain, residual, ratios in pairs
        for i, ratio in enumerate(ratios)
    ]
    return [FakeRecord(name, 0, {}, rows)]


def opened(run, *accuracies, classifier=None):
    """An opening of the test set for each seed."""
    opening = {"run": run, "classifier": classifier, "weights": WEIGHTS["weights.pt"]}
    return [opening | {"seed": seed, "accuracy": accuracy} for seed, accuracy in enumerate(accuracies)]


# Values of three seeds about a middle, too wide to tell a small difference from none.
def wide(middle, by=0.2):
    return {0: middle - by, 1: middle, 2: middle + by}


def seeds_of(*values):
    return dict(enumerate(map(st.Number, values)))
