"""Training of a row of the table: it is prepared before its folder is locked, then begun or resumed there."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from deepnet.data.sets import load_images
from deepnet.machine import device
from deepnet.records.folder import RunFolder
from deepnet.records.provenance import provenance
from deepnet.records.reading import Record
from deepnet.speed.memory import kept_memory
from deepnet.training.optimizers import make_optimizer
from deepnet.training.precision import cast, resolve_precision
from deepnet.training.ready import count_outputs
from deepnet.training.recipe import Recipe, fast_by_default, rehearse, set_precision, trial_of
from experimentTable import EVAL_SPLIT, Experiment, keeps_weights
from myModel import train_only

# Called with the record at the beginning of the loop, and the `model`. It returns an observer, such as
# `utilityFunction.Mirror`: `log` is shown each row, `finish` the record at the end.
Observe = Callable[..., Any]


def prepare_training(
    exp: Experiment, identity: dict, build: Callable[[Experiment], nn.Module], fit: Callable[..., Record],
    observe: Observe | None, line: Any, stop: Callable[[], bool],
) -> Callable[[RunFolder], Record]:  # fmt: skip
    """Prepare a training run, and return a function that trains or resumes it in a folder and returns its record.

    `build` returns the model of an experiment; `fit` is the training loop, which is passed the other arguments. Raises
    UsageError, before anything is written, if the run would fail.
    """
    split = EVAL_SPLIT[exp.dataset]
    precision, fast = resolve_precision(exp.precision), fast_by_default()
    exp = replace(exp, epochs=identity["epochs"])  # those of its profile
    train_set, eval_set = (
        load_images(exp.dataset, part, exp.profile, identity["image_size"]) for part in ("train", split)
    )
    model = build(exp)
    train_only(model, exp.trainable, "moving_statistics" in exp.defects)
    set_precision(model, precision)
    recipe = Recipe(partial(make_optimizer, exp, graph=fast, fast=fast), precision, fast=fast, graph=fast)
    with trial_of(model) as trial:
        with torch.no_grad():
            count_outputs(trial, cast(train_set.first_inputs(2).to(device()), precision))
        rehearse(trial, train_set, eval_set, exp, recipe, record_gradients=False)

    @kept_memory(fast)
    def write(folder: RunFolder) -> Record:
        checkpoint = folder.start(identity, provenance(precision))
        return fit(
            model, train_set, eval_set, exp, recipe, folder, checkpoint, split=split,
            steps_per_epoch=identity["steps_per_epoch"], keep_weights=keeps_weights(exp), observe=observe, line=line,
            stop=stop,
        )  # fmt: skip

    return write
