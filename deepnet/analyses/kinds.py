"""Experiments that train no network: class counts, embeddings, step times, the classical baseline."""

import time
from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from deepnet.analyses.baseline import CS, best_row, classical_baseline, joined, linear
from deepnet.data.sets import ImageSet, load_images
from deepnet.machine import device
from deepnet.progress import bar
from deepnet.records.folder import RunFolder
from deepnet.records.provenance import provenance
from deepnet.records.reading import Record
from deepnet.seeds import combined_seed, seed_everything
from deepnet.training.features import extract_features
from deepnet.training.metrics import accuracy, macro_accuracy
from deepnet.training.optimizers import make_optimizer
from deepnet.training.precision import resolve_precision
from deepnet.training.recipe import EVAL_BATCH_SIZE, fast_by_default
from deepnet.training.steps import evaluate, train_epoch
from experimentTable import EVAL_SPLIT, Experiment
from myModel import MODELS

TIMED_PAIRS = {  # data set -> a plain model and its residual counterpart
    "mnist": [("MLP_4", "MLP_res_5"), ("MLP_13", "MLP_res_15"), ("MLP_33", "MLP_res_35")],
    "cifar10": [("CNN_13", "CNN_res_16"), ("CNN_30", "CNN_res_35")],
}
EMBEDDED_DIMENSIONS, NEIGHBOURS = 50, 5
# Kinds that are computed on the processor in fp32, whatever the device and the precision are.
ON_PROCESSOR = ("distribution", "tsne")
PACKAGES = {"tsne": ("scikit-learn",), "baseline": ("scikit-learn",)}  # packages whose versions affect the results


def prepare_analysis(
    exp: Experiment, identity: dict, build: Callable[[Experiment], nn.Module], line: Any
) -> Callable[[RunFolder], Record]:
    """Prepare an analysis, and return a function that runs it and writes its record to a folder.

    `build` returns the model of an experiment; `line` is the progress bar to use, None for a new one. Raises
    UsageError, before anything is written, if something is missing.
    """
    precision = "fp32" if exp.kind in ON_PROCESSOR else resolve_precision(exp.precision)
    made = provenance(precision, exp.kind in ON_PROCESSOR, PACKAGES.get(exp.kind, ()))
    prepare = {"distribution": _distribution, "tsne": _tsne, "timing": _timing, "baseline": _baseline}[exp.kind]
    analyse = prepare(exp, identity, build)

    def write(folder: RunFolder) -> Record:
        shown = bar(1) if line is None else line
        shown.reset(total=1)
        shown.set_description_str(exp.name)
        shown.set_postfix_str("")  # removes the loss of a training run before it
        folder.start(identity, made)
        record = analyse(folder)
        shown.update(1)
        return record

    return write


def _distribution(exp: Experiment, identity: dict, build: Any) -> Any:
    """Class counts of the three training sets (figure 2.1), for CIFAR-100 including the validation set."""
    parts = {"mnist": ["train"], "cifar10": ["train"], "cifar100": ["train", "validation"]}
    labels = {name: [load_images(name, part, exp.profile).labels for part in parts[name]] for name in parts}
    counts = {name: torch.cat(pieces).bincount().tolist() for name, pieces in labels.items()}
    images = {name: sum(numbers) for name, numbers in counts.items()}
    return lambda folder: folder.finish({"status": "finished", "counts": counts, "images": images})


def _tsne(exp: Experiment, identity: dict, build: Any) -> Any:
    """t-SNE of training images in two dimensions, from 50 principal components (van der Maaten & Hinton 2008).

    The seed decides the images and the embedding. `knn_accuracy` is the leave-one-out accuracy of the 5 nearest
    neighbours in the embedding, and `knn_skill` is (accuracy - chance) / (1 - chance).
    """
    data = load_images(exp.dataset, "train", exp.profile)
    generator = torch.Generator().manual_seed(combined_seed(exp.seed))
    drawn = data.subset(torch.randperm(len(data), generator=generator)[: identity["images"]])

    def embed(folder: RunFolder) -> Record:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
        from sklearn.neighbors import NearestNeighbors

        pixels = drawn.images.flatten(1).numpy().astype(np.float32) / 255
        reduced = PCA(EMBEDDED_DIMENSIONS, random_state=exp.seed).fit_transform(pixels)
        points = TSNE(2, init="pca", random_state=exp.seed, n_jobs=torch.get_num_threads()).fit_transform(reduced)
        label, classes = drawn.labels.numpy(), len(drawn.classes)
        # without arguments, kneighbors excludes the point itself
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
    """Seconds per training step of plain models and their residual counterparts, in alternating blocks and in fp32.

    Evaluation, gradient norms and the preparation of images are not part of a step. With the defect "whole_epochs" they
    are, and a block is an epoch.
    """
    data = load_images(exp.dataset, "train", exp.profile, identity["image_size"]).to(device())
    whole_epoch = _epoch_timer(exp, identity["image_size"]) if "whole_epochs" in exp.defects else None

    def measure(folder: RunFolder) -> Record:
        seed_everything(exp.seed, 0)
        batches = [data.batch(indices) for indices in torch.arange(len(data)).split(exp.batch_size)[:4]]

        def seconds(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
            work = [batch for batch, _ in zip(cycle(batches), range(steps), strict=False)]
            return train_epoch(model, work, optimizer, fast=fast_by_default())["train_seconds"] / steps

        in_block = whole_epoch or partial(seconds, steps=identity["steps"])
        for plain, residual in TIMED_PAIRS[exp.dataset]:
            models = [MODELS[name](image_size=identity["image_size"]).to(device()) for name in (plain, residual)]
            pair = [(model, make_optimizer(exp, model, fast=fast_by_default())) for model in models]
            for model, optimizer in pair:
                seconds(model, optimizer, 2)  # warm-up
            for block in range(identity["blocks"]):
                times = [in_block(model, optimizer) for model, optimizer in pair]
                row = {"pair": f"{plain} / {residual}", "plain": plain, "residual": residual, "block": block}
                folder.append(row | {"plain_seconds": times[0], "residual_seconds": times[1]})
        return folder.finish({"status": "finished", "threads": torch.get_num_threads()})

    return measure


def _epoch_timer(exp: Experiment, image_size: int) -> Callable[[nn.Module, torch.optim.Optimizer], float]:
    """Return a function that trains a model for an epoch, and returns its seconds per step as the original timed them.

    They include the start of the workers that load the images, a norm per parameter that is read from the device in
    each step, and the evaluation.
    """
    images = (load_images(exp.dataset, part, exp.profile, image_size) for part in ("train", EVAL_SPLIT[exp.dataset]))
    sets = [TensorDataset(*data.batch(torch.arange(len(data)))) for data in images]

    def seconds(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        def read_norms() -> None:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.norm().item()

        start = time.perf_counter()
        loaders = [DataLoader(data, exp.batch_size, shuffle=True, num_workers=2) for data in sets]
        row = train_epoch(model, loaders[0], optimizer, after_step=read_norms)
        evaluate(model, loaders[1])
        return (time.perf_counter() - start) / row["steps"]

    return seconds


def as_trained() -> dict:
    """The options with which `evaluate` and `extract_features` reproduce a training run's numbers bitwise."""
    return {"batch_size": EVAL_BATCH_SIZE, "fast": fast_by_default()}


def features_and_targets(model: nn.Module, data: ImageSet, precision: str) -> tuple[np.ndarray, np.ndarray]:
    """The model's features (N, F) of all images, and their targets (N,)."""
    return extract_features(model, data, precision, **as_trained()).cpu().numpy(), data.labels.cpu().numpy()


def _baseline(exp: Experiment, identity: dict, build: Any) -> Any:
    """SVM and logistic regression on the source model's features of CIFAR-100.

    C and the better of the two are chosen on a tenth of the training set.
    """
    train, evaluation = (
        load_images("cifar100", part, exp.profile, identity["image_size"]).to(device())
        for part in ("train", "validation")
    )
    model = build(exp).to(device())

    def fit(folder: RunFolder) -> Record:
        precision = resolve_precision(exp.precision)
        features, targets = features_and_targets(model, train, precision)
        # The same random tenth for all seeds, which is nearly stratified.
        order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0)).numpy()
        choosing, fitting = np.split(order, [len(order) // 10])
        rows, states = classical_baseline(
            (features[fitting], targets[fitting]), (features[choosing], targets[choosing]), exp.defects
        )
        for row in rows:
            folder.append(row)
        features, targets = features_and_targets(model, evaluation, precision)
        classifiers, predictions = {}, {}
        for name, state in states.items():
            predictions[name] = np.stack([targets, linear(state)(features)])
            best = best_row(rows, name)
            classifiers[name] = {
                **{key: best[key] for key in ("C", "held_out_accuracy", "converged", "refit_converged")},
                "validation_accuracy": accuracy(predictions[name]),
                "validation_macro_accuracy": macro_accuracy(predictions[name]),
                "C_at_edge": best["C"] in (min(CS[name]), max(CS[name])),  # a wider grid might do better
            }
        chosen = best_row(rows)["classifier"]
        weights = joined(states)
        folder.save_weights(weights)
        folder.save_array("predictions.npy", predictions=predictions[chosen].astype(np.uint8))
        result = {
            "status": "finished", "split": "validation", "classes": 100, "classifiers": classifiers, "chosen": chosen,
            "accuracy": classifiers[chosen]["validation_accuracy"],
        }  # fmt: skip
        return folder.finish(result, weights)

    return fit
