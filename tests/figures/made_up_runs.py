"""Records of any row of the table as its run would leave them, and how a figure is read."""

import json
import math

import numpy as np

from deepnet.claims.evidence import TIMED
from deepnet.records.files import sha256
from experimentTable import EXPERIMENTS
from myModel import MODELS, model_table

EPOCHS = 20
LAYERS = {row["name"]: row["weight_layers"] for row in model_table(MODELS)}
VERDICTS = ("as claimed", "contradicted", "undecided")


def write_record(root, name, rows, result=None, profile="cpu", seed=0, dirty=False, identity=None, **experiment):
    """A finished record as a run leaves it."""
    folder = root / profile / name / f"seed-{seed}"
    folder.mkdir(parents=True)
    table = {"name": name, "profile": profile, "seed": seed, "dataset": "mnist", "lr": 1e-4, "batch_size": 128}
    provenance = {"commit": "0123456789abcdef" * 2 + "01234567", "dirty": dirty}
    settings = {"experiment": table | experiment, "identity": identity or {}, "provenance": provenance}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "result.json").write_text(json.dumps({"status": "finished", **(result or {})}))
    return vouched(folder)


def vouched(folder):
    """The record's folder, its result naming the digests of all other files."""
    result = json.loads((folder / "result.json").read_text())
    digests = {path.name: sha256(path) for path in folder.iterdir() if path.name != "result.json"}
    (folder / "result.json").write_text(json.dumps(result | {"sha256": digests}))
    return folder


def training_rows(exp, seed, epochs, noise):
    """A curve that falls towards a floor of its own; runs named in `FLAT` stay where they began."""
    rng = np.random.default_rng([seed, *exp.name.encode()])
    speed = rng.uniform(0.25, 0.7) * (1 + noise * rng.normal())
    classes, split = (100, "validation") if exp.chapter == 5 and exp.dataset == "cifar100" else (10, "test")
    stuck = exp.name in ("MLP_33", "CNN_30")
    best = 1 / classes if stuck else (0.5 if classes == 100 else 0.97 if exp.chapter == 3 else 0.7)
    depth = LAYERS[exp.model]
    rows = []
    for epoch in range(epochs + 1):
        done = 0 if stuck else 1 - math.exp(-speed * epoch)
        row = {
            "epoch": epoch,
            f"{split}_accuracy": 1 / classes + (best - 1 / classes) * done + 0.01 * noise * rng.normal(),
            f"{split}_loss": math.log(classes) * (1 - 0.8 * done),
        }
        if epoch:
            row |= {
                "train_loss": math.log(classes) * (1 - 0.97 * done) + 0.02 * noise * abs(rng.normal()),
                "train_accuracy": min(1.0, (1 if split == "validation" else best) * done + 0.01),
                "learning_rate": exp.lr, "steps": 150, "train_seconds": 10.0,
            }  # fmt: skip
        if exp.record_gradients:
            default = "_he" not in exp.name and "_res_" not in exp.name
            fall = math.log10(6) if default and done < 0.5 else 0.1
            row["probe_distinct"] = [256] * depth
            row["probe_variance"] = [10 ** max(-0.5 - fall * k, -15) for k in range(depth)]
            if epoch:
                row["gradient_norm_sum"] = 1e-6 if stuck else 50 * depth * (1.2 - done)
                row["gradient_norm"] = row["gradient_norm_sum"] / 500
                row["gradient_log10_rms"] = [-2 - fall * (depth - 1 - k) / 1.5 for k in range(depth)]
        rows.append(row)
    return rows, split


def write_experiment(root, name, profile="cpu", seed=0, epochs=EPOCHS, noise=0.1):
    """A made-up record of any row of the table."""
    exp, rng = EXPERIMENTS[name], np.random.default_rng(seed)
    place = {"profile": profile, "seed": seed}
    place |= {field: getattr(exp, field) for field in ("kind", "dataset", "lr", "batch_size", "patience")}
    if exp.kind == "training":
        ends = 8 if name in ("early_stopping", "sgd", "sweep_6") else epochs
        rows, split = training_rows(exp, seed, min(ends, epochs), noise)
        accuracies = [row[f"{split}_accuracy"] for row in rows]
        epoch = int(np.argmax(accuracies)) if exp.patience else len(rows) - 1
        score, classes = accuracies[epoch], 100 if exp.dataset == "cifar100" else 10
        result = {
            "split": split, "classes": classes, "epoch": epoch, "last_epoch": len(rows) - 1, "budget": epochs,
            "accuracy": score, "macro_accuracy": score, "best_epoch": int(np.argmax(accuracies)),
            "best_accuracy": max(accuracies), "stopped_early": len(rows) - 1 < epochs,
        }  # fmt: skip
        return predicted(write_record(root, name, rows, result, **place), score, classes)
    if exp.kind == "baseline":
        classifiers = {"svm": {"validation_accuracy": 0.37}, "logistic_regression": {"validation_accuracy": 0.35}}
        result = {"accuracy": 0.37, "chosen": "svm", "split": "validation", "classes": 100, "classifiers": classifiers}
        return predicted(write_record(root, name, [], result, **place), 0.37, 100)
    if exp.kind == "distribution":
        mnist = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        counts = {"mnist": mnist, "cifar10": [5000] * 10, "cifar100": [500] * 100}
        return write_record(root, name, [], {"counts": counts}, **place)
    if exp.kind == "tsne":
        classes, count = (100 if name.endswith("100") else 10), 1000
        result = {"knn_skill": 0.9 + 0.02 * seed, "classes": classes, "images": count}
        folder = write_record(root, name, [], result, **place)
        label = (np.arange(count) % classes).astype(np.uint8)
        centres = rng.normal(size=(classes, 2)) * 40
        xy = (centres[label] + rng.normal(size=(count, 2)) * 6).astype(np.float16)
        np.savez_compressed(
            folder / "points.npz", xy=xy, label=label, **({"coarse": label // 5} if classes == 100 else {})
        )
        return vouched(folder)
    rows = [
        {"pair": f"{plain} / {residual}", "plain": plain, "residual": residual, "block": block,
         "plain_seconds": 0.002 * (i + 1) * (1 + 0.02 * rng.random()),
         "residual_seconds": 0.0023 * (i + 1) * (1 + 0.02 * rng.random())}
        for i, (plain, residual) in enumerate(TIMED[name]) for block in range(10)
    ]  # fmt: skip
    return write_record(root, name, rows, identity={"blocks": 10, "steps": 20}, **place)


def predicted(folder, accuracy, classes, images=1000):
    """The folder, with predictions of that accuracy."""
    labels = np.arange(images) % classes
    predicted = np.where(np.arange(images) < round(accuracy * images), labels, (labels + 1) % classes)
    np.save(folder / "predictions.npy", np.stack([labels, predicted]).astype(np.uint8))
    return vouched(folder)


def named(ax):
    """name -> line, of the lines that a reader sees a name for."""
    return {line.get_label(): line for line in ax.get_lines() if not line.get_label().startswith("_")}


def texts(ax):
    """What is written in a panel."""
    return [text.get_text() for text in ax.texts]


def flat(root, name, **columns):
    """A training in cpu that stands still: each metric's value, give or take a thousandth."""
    noise = np.random.default_rng(0).uniform(-1e-3, 1e-3, EPOCHS + 1)
    rows = [{"epoch": k, "steps": 10} | {m: value + of for m, value in columns.items()} for k, of in enumerate(noise)]
    write_record(root, name, rows, {"split": "test", "epoch": EPOCHS})


def trial(root, number, accuracy, lr, batch_size, name="search", seed=0):
    """A trial of a search, as far as a sentence reads it."""
    rows = [{"epoch": epoch, "validation_accuracy": accuracy * epoch} for epoch in (0, 1)]
    return write_record(root, f"{name}_{number}", rows, lr=lr, batch_size=batch_size, dataset="cifar100", seed=seed)
