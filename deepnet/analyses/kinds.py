"""Experiments that train no network: class counts, embeddings, step times, the classical baseline."""

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import torch

from deepnet.analyses.baseline import CS, classical_baseline, linear
from deepnet.data.sets import load_images
from deepnet.machine import device
from deepnet.records.folder import RunFolder
from deepnet.records.provenance import provenance
from deepnet.records.reading import Record
from deepnet.seeds import mixed, seed_everything
from deepnet.training.features import extract_features
from deepnet.training.metrics import accuracy, macro_accuracy
from deepnet.training.optimizers import make_optimizer
from deepnet.training.precision import resolve_precision
from deepnet.training.recipe import EVAL_BATCH_SIZE, fast_by_default
from deepnet.training.steps import train_epoch
from experimentTable import Experiment
from myModel import MODELS

TIMED_PAIRS = {  # data set -> plain beside residual
    "mnist": [("MLP_4", "MLP_res_5"), ("MLP_13", "MLP_res_15"), ("MLP_33", "MLP_res_35")],
    "cifar10": [("CNN_13", "CNN_res_16"), ("CNN_30", "CNN_res_35")],
}


EMBEDDED_DIMENSIONS, NEIGHBOURS = 50, 5


# kinds that are computed there in fp32, whatever device and precision are asked for
ON_PROCESSOR = ("distribution", "tsne")


PACKAGES = {"tsne": ("scikit-learn",), "baseline": ("scikit-learn",)}  # kind -> what its numbers come from beside torch


def analyse(
    exp: Experiment, identity: dict, build: Callable[[Experiment], torch.nn.Module]
) -> Callable[[RunFolder], Record]:
    """Prepare an analysis, and return the function that runs it from its beginning and writes its record to a folder.

    `build` gives the model of an experiment. Raises UsageError for whatever is missing, so that it is said before
    anything is written.
    """
    precision = "fp32" if exp.kind in ON_PROCESSOR else resolve_precision(exp.precision)
    made = provenance(precision, exp.kind in ON_PROCESSOR, PACKAGES.get(exp.kind, ()))
    act = {"distribution": _distribution, "tsne": _tsne, "timing": _timing, "baseline": _baseline}[exp.kind]
    prepared = act(exp, identity, build)

    def write(folder: RunFolder) -> Record:
        folder.start(identity, made)
        return prepared(folder)

    return write


def _distribution(exp: Experiment, identity: dict, build: Any) -> Any:
    """Class counts of the three train sets (figure 2.1). CIFAR-100's is the train set before the validation part is cut
    from it.
    """
    parts = {"mnist": ["train"], "cifar10": ["train"], "cifar100": ["train", "validation"]}
    labels = {name: [load_images(name, part, exp.profile).labels for part in parts[name]] for name in parts}
    counts = {name: torch.cat(pieces).bincount().tolist() for name, pieces in labels.items()}
    images = {name: sum(numbers) for name, numbers in counts.items()}
    return lambda folder: folder.finish({"status": "finished", "counts": counts, "images": images})


def _tsne(exp: Experiment, identity: dict, build: Any) -> Any:
    """t-SNE in two dimensions of train images' pixels, by PCA to 50 (van der Maaten & Hinton 2008), and how well it
    keeps classes apart.

    The seed draws the images and the embedding. knn_accuracy: leave-one-out accuracy of the 5 nearest neighbours in the
    embedding; knn_skill: the same as (accuracy - chance) / (1 - chance).
    """
    data = load_images(exp.dataset, "train", exp.profile)
    generator = torch.Generator().manual_seed(mixed(exp.seed))
    drawn = data.subset(torch.randperm(len(data), generator=generator)[: identity["images"]])

    def embed(folder: RunFolder) -> Record:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
        from sklearn.neighbors import NearestNeighbors

        pixels = drawn.images.flatten(1).numpy().astype(np.float32) / 255
        reduced = PCA(EMBEDDED_DIMENSIONS, random_state=exp.seed).fit_transform(pixels)
        points = TSNE(2, init="pca", random_state=exp.seed, n_jobs=torch.get_num_threads()).fit_transform(reduced)
        label, classes = drawn.labels.numpy(), len(drawn.classes)
        # leaves the point itself out
        neighbours = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(points).kneighbors(return_distance=False)
        votes = np.stack([np.bincount(label[row], minlength=classes) for row in neighbours])
        score, chance = float((votes.argmax(1) == label).mean()), 1 / classes
        if exp.seed == 0:
            coarse = {} if drawn.coarse_labels is None else {"coarse": drawn.coarse_labels.numpy().astype(np.uint8)}
            folder.save_array("points.npz", xy=points.astype(np.float16), label=label.astype(np.uint8), **coarse)
        skill = (score - chance) / (1 - chance)
        return folder.finish(
            {"status": "finished", "knn_accuracy": score, "knn_skill": skill, "classes": classes, "images": len(label)}
        )

    return embed


def _timing(exp: Experiment, identity: dict, build: Any) -> Any:
    """Seconds a training step of a plain model and of its residual twin, in alternating blocks, both in fp32 with the
    same threads.

    Training alone: no evaluation, no gradient norms, no preparation of images.
    """
    data = load_images(exp.dataset, "train", exp.profile, identity["image_size"]).to(device())

    def measure(folder: RunFolder) -> Record:
        seed_everything(exp.seed, 0)
        batches = [data.batch(indices) for indices in torch.arange(len(data)).split(exp.batch_size)[:4]]

        def seconds(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
            work = [batch for batch, _ in zip(cycle(batches), range(steps), strict=False)]
            return train_epoch(model, work, optimizer, fast=fast_by_default())["train_seconds"] / steps

        for plain, residual in TIMED_PAIRS[exp.dataset]:
            models = [MODELS[name](image_size=identity["image_size"]).to(device()) for name in (plain, residual)]
            pair = [(model, make_optimizer(exp, model, fast=fast_by_default())) for model in models]
            for model, optimizer in pair:
                seconds(model, optimizer, 2)  # warm-up
            for block in range(identity["blocks"]):
                times = [seconds(model, optimizer, identity["steps"]) for model, optimizer in pair]
                row = {"pair": f"{plain} / {residual}", "plain": plain, "residual": residual, "block": block}
                folder.append(row | {"plain_seconds": times[0], "residual_seconds": times[1]})
        return folder.finish({"status": "finished", "threads": torch.get_num_threads()})

    return measure


# ---------------------------------------------------------------- the classical baseline, and the test set


def as_trained() -> dict:
    """The options by which `evaluate` and `extract_features` give a training's own numbers, to the bit."""
    return {"batch_size": EVAL_BATCH_SIZE, "fast": fast_by_default()}


def _baseline(exp: Experiment, identity: dict, build: Any) -> Any:
    """SVM and logistic regression on the source model's features of CIFAR-100; both choices are made on a tenth of the
    train part.
    """
    train, held = (
        load_images("cifar100", part, exp.profile, identity["image_size"]).to(device())
        for part in ("train", "validation")
    )
    model = build(exp).to(device())

    def fit(folder: RunFolder) -> Record:
        precision = resolve_precision(exp.precision)
        features, labels = (
            extract_features(model, train, precision, **as_trained()).cpu().numpy(),
            train.labels.cpu().numpy(),
        )
        # The same tenth for all seeds, drawn at random so that it is nearly stratified.
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).numpy()
        choosing, fitting = np.split(order, [len(order) // 10])
        rows, states = classical_baseline((features[fitting], labels[fitting]), (features[choosing], labels[choosing]))
        for row in rows:
            folder.append(row)
        features, labels = (
            extract_features(model, held, precision, **as_trained()).cpu().numpy(),
            held.labels.cpu().numpy(),
        )
        chosen_row = max(rows, key=lambda row: row["held_out_accuracy"])
        classifiers, given = {}, {}
        for name, state in states.items():
            given[name] = np.stack([labels, linear(state)(features)])
            best = max((row for row in rows if row["classifier"] == name), key=lambda row: row["held_out_accuracy"])
            scores = {
                "validation_accuracy": accuracy(given[name]),
                "validation_macro_accuracy": macro_accuracy(given[name]),
            }
            classifiers[name] = {
                key: best[key] for key in ("C", "held_out_accuracy", "converged", "refit_converged")
            } | scores
            classifiers[name]["C_at_edge"] = best["C"] in (min(CS[name]), max(CS[name]))  # a wider grid might do better
        chosen = chosen_row["classifier"]
        weights = {f"{name}.{key}": tensor for name, state in states.items() for key, tensor in state.items()}
        folder.save_weights(weights)
        folder.save_array("predictions.npy", predictions=given[chosen].astype(np.uint8))
        result = {
            "status": "finished",
            "split": "validation",
            "classes": 100,
            "classifiers": classifiers,
            "chosen": chosen,
        }
        return folder.finish(result | {"accuracy": classifiers[chosen]["validation_accuracy"]}, weights)

    return fit
