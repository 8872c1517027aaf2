"""Records that are no training: class counts, embeddings, step times, the classical baseline; and the final test."""

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np
import torch

from coreFunction import build, data_identity
from dataFunction import load_images, open_vault
from deepnet.records.folder import RunFolder
from deepnet.training.recipe import EVAL_BATCH_SIZE
from experimentTable import EXPERIMENTS, ROWS, USUAL_CHAPTER, Experiment, UsageError
from featureFunction import CS, classical_baseline, extract_features, linear
from fileFunction import append_line, lock, rounded
from myModel import MODELS
from optimizerFunction import make_optimizer
from recordFunction import WEIGHTS, Record, find_openings, find_record, roots, runs_dir
from trainFunction import accuracy, evaluate, macro_accuracy, train_epoch
from utilityFunction import device, mixed, provenance, resolve_precision, seed_everything

TIMED_PAIRS = {  # data set -> plain beside residual
    "mnist": [("MLP_4", "MLP_res_5"), ("MLP_13", "MLP_res_15"), ("MLP_33", "MLP_res_35")],
    "cifar10": [("CNN_13", "CNN_res_16"), ("CNN_30", "CNN_res_35")],
}
EMBEDDED_DIMENSIONS, NEIGHBOURS = 50, 5
AS_TRAINED: dict = {"batch_size": EVAL_BATCH_SIZE, "fast": True}  # so that the numbers are a training's own to the bit


ON_PROCESSOR = ("distribution", "tsne")  # kinds that are computed there in fp32, whatever device and precision are asked for
PACKAGES = {"tsne": ("scikit-learn",), "baseline": ("scikit-learn",)}  # kind -> what its numbers come from beside torch


def analyse(exp: Experiment, identity: dict) -> Callable[[RunFolder], Record]:
    """Prepare an analysis, and return the function that runs it from its beginning and writes its record to a folder.

    Raises UsageError for whatever is missing, so that it is said before anything is written.
    """
    precision = "fp32" if exp.kind in ON_PROCESSOR else resolve_precision(exp.precision)
    made = provenance(precision, exp.kind in ON_PROCESSOR, PACKAGES.get(exp.kind, ()))
    act = {"distribution": _distribution, "tsne": _tsne, "timing": _timing, "baseline": _baseline}[exp.kind]
    prepared = act(exp, identity)

    def write(folder: RunFolder) -> Record:
        folder.start(identity, made)
        return prepared(folder)

    return write


def _distribution(exp: Experiment, makeup: dict) -> Any:
    """Class counts of the three train sets (figure 2.1). CIFAR-100's is the train set before the validation part is cut from it."""
    parts = {"mnist": ["train"], "cifar10": ["train"], "cifar100": ["train", "validation"]}
    labels = {name: [load_images(name, part, exp.profile).labels for part in parts[name]] for name in parts}
    counts = {name: torch.cat(pieces).bincount().tolist() for name, pieces in labels.items()}
    images = {name: sum(numbers) for name, numbers in counts.items()}
    return lambda folder: folder.finish({"status": "finished", "counts": counts, "images": images})


def _tsne(exp: Experiment, makeup: dict) -> Any:
    """t-SNE in two dimensions of train images' pixels, by PCA to 50 (van der Maaten & Hinton 2008), and how well it keeps classes apart.

    The seed draws the images and the embedding. knn_accuracy: leave-one-out accuracy of the 5 nearest neighbours in the
    embedding; knn_skill: the same as (accuracy - chance) / (1 - chance).
    """
    data = load_images(exp.dataset, "train", exp.profile)
    generator = torch.Generator().manual_seed(mixed(exp.seed))
    drawn = data.subset(torch.randperm(len(data), generator=generator)[: makeup["images"]])

    def embed(folder: RunFolder) -> Record:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
        from sklearn.neighbors import NearestNeighbors

        pixels = drawn.images.flatten(1).numpy().astype(np.float32) / 255
        reduced = PCA(EMBEDDED_DIMENSIONS, random_state=exp.seed).fit_transform(pixels)
        points = TSNE(2, init="pca", random_state=exp.seed, n_jobs=torch.get_num_threads()).fit_transform(reduced)
        label, classes = drawn.labels.numpy(), len(drawn.classes)
        neighbours = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(points).kneighbors(return_distance=False)  # leaves the point itself out
        votes = np.stack([np.bincount(label[row], minlength=classes) for row in neighbours])
        score, chance = float((votes.argmax(1) == label).mean()), 1 / classes
        if exp.seed == 0:
            coarse = {} if drawn.coarse_labels is None else {"coarse": drawn.coarse_labels.numpy().astype(np.uint8)}
            folder.save_array("points.npz", xy=points.astype(np.float16), label=label.astype(np.uint8), **coarse)
        skill = (score - chance) / (1 - chance)
        return folder.finish({"status": "finished", "knn_accuracy": score, "knn_skill": skill, "classes": classes, "images": len(label)})

    return embed


def _timing(exp: Experiment, makeup: dict) -> Any:
    """Seconds a training step of a plain model and of its residual twin, in alternating blocks, both in fp32 with the same threads.

    Training alone: no evaluation, no gradient norms, no preparation of images.
    """
    data = load_images(exp.dataset, "train", exp.profile, makeup["image_size"]).to(device())

    def measure(folder: RunFolder) -> Record:
        seed_everything(exp.seed, 0)
        batches = [data.batch(indices) for indices in torch.arange(len(data)).split(exp.batch_size)[:4]]

        def seconds(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
            work = [batch for batch, _ in zip(cycle(batches), range(steps), strict=False)]
            return train_epoch(model, work, optimizer, fast=True)["train_seconds"] / steps

        for plain, residual in TIMED_PAIRS[exp.dataset]:
            models = [MODELS[name](image_size=makeup["image_size"]).to(device()) for name in (plain, residual)]
            pair = [(model, make_optimizer(exp, model)) for model in models]
            for model, optimizer in pair:
                seconds(model, optimizer, 2)  # warm-up
            for block in range(makeup["blocks"]):
                times = [seconds(model, optimizer, makeup["steps"]) for model, optimizer in pair]
                row = {"pair": f"{plain} / {residual}", "plain": plain, "residual": residual, "block": block}
                folder.append(row | {"plain_seconds": times[0], "residual_seconds": times[1]})
        return folder.finish({"status": "finished", "threads": torch.get_num_threads()})

    return measure


# ---------------------------------------------------------------- the classical baseline, and the test set


def _baseline(exp: Experiment, makeup: dict) -> Any:
    """SVM and logistic regression on the source model's features of CIFAR-100; both choices are made on a tenth of the train part."""
    train, held = (load_images("cifar100", part, exp.profile, makeup["image_size"]).to(device()) for part in ("train", "validation"))
    model = build(exp).to(device())

    def fit(folder: RunFolder) -> Record:
        precision = resolve_precision(exp.precision)
        features, labels = extract_features(model, train, precision, **AS_TRAINED).cpu().numpy(), train.labels.cpu().numpy()
        # The same tenth for all seeds, drawn at random so that it is nearly stratified.
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).numpy()
        choosing, fitting = np.split(order, [len(order) // 10])
        rows, states = classical_baseline((features[fitting], labels[fitting]), (features[choosing], labels[choosing]))
        for row in rows:
            folder.append(row)
        features, labels = extract_features(model, held, precision, **AS_TRAINED).cpu().numpy(), held.labels.cpu().numpy()
        chosen_row = max(rows, key=lambda row: row["held_out_accuracy"])
        classifiers, given = {}, {}
        for name, state in states.items():
            given[name] = np.stack([labels, linear(state)(features)])
            best = max((row for row in rows if row["classifier"] == name), key=lambda row: row["held_out_accuracy"])
            scores = {"validation_accuracy": accuracy(given[name]), "validation_macro_accuracy": macro_accuracy(given[name])}
            classifiers[name] = {key: best[key] for key in ("C", "held_out_accuracy", "converged", "refit_converged")} | scores
            classifiers[name]["C_at_edge"] = best["C"] in (min(CS[name]), max(CS[name]))  # a wider grid might do better
        chosen = chosen_row["classifier"]
        weights = {f"{name}.{key}": tensor for name, state in states.items() for key, tensor in state.items()}
        folder.save_weights(weights)
        folder.save_array("predictions.npy", predictions=given[chosen].astype(np.uint8))
        result = {"status": "finished", "split": "validation", "classes": 100, "classifiers": classifiers, "chosen": chosen}
        return folder.finish(result | {"accuracy": classifiers[chosen]["validation_accuracy"]}, weights)

    return fit


def final_test(record: Record, why_again: str = "") -> dict[str, dict]:
    """The only door to chapter 5's test set: opens it once for this run and seed, logs the opening, returns {classifier: its line}.

    Asked again it returns what was logged, here or in the committed evidence; `why_again` opens it once more, and stands in the log.
    Raises UsageError for a row without `final_test` (in the table `dropout` and `baseline` have it) or one that has not finished,
    while another chapter 5 run or search trial of that profile and seed is unfinished, where the weights are not here, where others
    were tested before, and while another process is at it.
    """
    if not _row(record).final_test:
        tested = " and ".join(row.name for row in ROWS if row.final_test)
        raise UsageError(f"{record.name} has no final test, only {tested} have one; to add one, train it with final_test=True")
    if not record.finished:
        raise UsageError(f"{record.name} (seed {record.seed}) has not finished; the final test needs its final weights")
    busy = f"another process is at the test set of {record.profile}; ask again when it has ended"
    with lock(runs_dir() / record.profile / ".openings.lock", busy):
        opened = {o["classifier"]: o for o in find_openings(record.profile, True) if (o["run"], o["seed"]) == (record.name, record.seed)}
        tested = record.result["sha256"][WEIGHTS]
        if opened and not why_again:
            if any(opening["weights"] != tested for opening in opened.values()):
                raise UsageError(
                    f"the test set was opened for other weights of {record.name} (seed {record.seed}); use another seed, or say why_again"
                )
            return opened
        if missing := _unfinished(record.profile, record.seed):
            raise UsageError(f"the test set opens once, at the end: {', '.join(missing)} (seed {record.seed}) must finish first")
        predictions = _predictions(record)
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "run": record.name, "profile": record.profile}
        line |= {"seed": record.seed, "weights": tested} | ({"why_again": why_again} if why_again else {})
        lines = {
            name: rounded(line | {"classifier": name, "accuracy": accuracy(given), "macro_accuracy": macro_accuracy(given)})
            for name, given in predictions.items()
        }
        append_line(runs_dir() / record.profile / "openings.jsonl", *lines.values())  # nobody has seen a number before it is logged
        return lines


def _row(record: Record) -> Experiment:
    """What the record is of: the table's row of that name, else what its settings say, at its profile and seed."""
    row = EXPERIMENTS.get(record.name) or Experiment(**record.settings["experiment"])
    return replace(row, profile=record.profile, seed=record.seed)


def _unfinished(profile: str, seed: int) -> list[str]:
    """The table's chapter 5 runs that have no result, and what else of chapter 5 has begun (variants, search trials) and has none."""
    begun = (Record(path.parent) for root in roots() for path in (root / profile).glob(f"*/seed-{seed}/settings.json"))
    names = [row.name for row in ROWS if row.chapter == 5]
    said = {record.name: record.settings["experiment"] for record in begun}
    names += sorted(name for name, its in said.items() if (its["chapter"] or USUAL_CHAPTER[its["dataset"]]) == 5 and name not in names)
    return [name for name in names if not ((found := find_record(name, profile, seed)) and found.result)]


def _predictions(record: Record) -> dict[str, np.ndarray]:
    """Opens the vault: for each classifier of the record (2, N), the test images' labels and the classes given."""
    weights = record.weights()
    exp = _row(record)
    test = open_vault(record.profile, data_identity(exp)["image_size"]).to(device())
    precision = resolve_precision(exp.precision)
    if exp.kind == "training":
        model = build(replace(exp, start_from=None)).to(device())  # its weights are all its own by now
        model.load_state_dict(weights)
        return {exp.model: evaluate(model, test, precision, **AS_TRAINED)[1]}
    features, labels = extract_features(build(exp).to(device()), test, precision, **AS_TRAINED).cpu().numpy(), test.labels.cpu().numpy()
    states: dict[str, dict] = {}
    for key, tensor in weights.items():
        name, _, part = key.partition(".")
        states.setdefault(name, {})[part] = tensor
    return {name: np.stack([labels, linear(state)(features)]) for name, state in states.items()}
