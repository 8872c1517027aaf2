"""`diagnose`: why a network does not learn."""

import math
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from deepnet.data.sets import load_images
from deepnet.diagnosis.cures import UnfitError, together
from deepnet.diagnosis.findings import CAUSE, Finding
from deepnet.diagnosis.inputs import HALF
from deepnet.diagnosis.measure import FEWEST_STEPS, Measurements, measure, scores_of
from deepnet.diagnosis.report import Diagnosis
from deepnet.diagnosis.rules import judge
from deepnet.diagnosis.sample import dtype_of, kept_generators, read_sample
from deepnet.diagnosis.setup import Setup, in_float32, loss_of_guess, maker
from deepnet.diagnosis.trials import Trial, train_as_it_is, try_cures
from deepnet.records.files import first_line
from deepnet.seeds import preserved_random, seed_everything
from deepnet.training.optimizers import make_optimizer
from deepnet.training.ready import evaluating
from deepnet.training.recipe import check_mean, trial_of
from deepnet.training.steps import Loss, check_loss
from deepnet.valid import number, whole
from experimentTable import Experiment, UsageError, identity
from myModel import set_train_mode, train_only

STEPS, CURE_STEPS, MOST_CURES, BATCH_SIZE = 30, 300, 5, 32
MOST_SECONDS, CURE_SECONDS = 6.0, 60.0  # of the steps, and of each cure's
UNKNOWN = ("faster", "slower", "he", "norm")  # what is tried where the loss stays and no rule says why


def diagnose(
    model: nn.Module, data: Any, *, optimizer: Any = None, lr: float | None = None, eps: float | None = None,
    loss: Loss = cross_entropy, batch_size: int = BATCH_SIZE, steps: int = STEPS, cures: bool | int = True,
    cure_steps: int = CURE_STEPS, cure_seconds: float = CURE_SECONDS,
) -> Diagnosis:  # fmt: skip
    """Say why a classifier does not learn: what is wrong, in which layer, and what to change.

    A copy of the model takes a few dozen optimizer steps on up to 1,024 items. Rules judge what is measured of each
    layer, of the data and of the loss, and each cure that fits is tried on a copy of its own. Modes, frozen parameters
    and hooks are taken as they are; hooks of yours run on the copies too. Nothing of the model, of the data set or its
    loader, and no random state is changed, but that of a generator which no attribute of theirs holds.

    Args:
        model: gives scores (N, classes) for a batch of N items, also as `logits` of a dict or data class, or as the
            first tensor of a tuple; in float32, float64, bfloat16 or float16.
        data: a map-style data set of (tensor, label) pairs, or a `DataLoader` of one, whose first batches are taken.
            For a model with several inputs: ((x1, x2), label), (x1, x2, label) or a dict with the label under "labels",
            "label", "targets", "target" or "y", whose other entries are the model's keywords.
        optimizer: "Adam" (the default), "AdamW", "RMSprop" or "SGD"; a callable from the parameters to an optimizer; or
            your own optimizer over the model's parameters, of which the settings are taken over.
        lr: the learning rate of a named optimizer (default 1e-4).
        eps: the eps of a named optimizer (default: torch's).
        loss: from scores (B, classes) and targets (B,) to their mean.
        batch_size: items per step.
        steps: optimizer steps, at least 12; fewer are taken where they would need over six seconds of the processor.
        cures: how many cures of what is found to try at most, the most likely first (True: five, False: none), and
            once the first cures of all causes together where none of them helped; each takes as long as `cure_steps`
            steps, which is seconds for a small network and up to a minute for CNN_30 on a core.
        cure_steps: steps of each cure; it ends earlier once its loss has fallen by half.
        cure_seconds: a limit for each cure, of processor time.

    Returns:
        A `Diagnosis`. Print it, or look at its `findings`, `table`, `trials` and `figure()`.

    Raises:
        UsageError: for what is no classifier of these data, for a loss that gives no mean of a batch, and for a value
            that has no meaning.

    Example::

        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        print(diagnose(model, train_set, optimizer=optimizer))
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"model must be a torch.nn.Module, got {model!r:.60}")
    steps, cure_steps = whole("steps", steps, 12), whole("cure_steps", cure_steps, 20)
    batch_size, cure_seconds = whole("batch_size", batch_size, 2), number("cure_seconds", cure_seconds)
    most = MOST_CURES if cures is True else 0 if cures is False else whole("cures", cures, 0)
    check_loss(loss)
    with ExitStack() as stack:
        stack.enter_context(preserved_random())
        stack.enter_context(kept_generators(data))
        stack.enter_context(torch.compiler.set_stance("force_eager"))  # compiled code would not call hooks
        trial = stack.enter_context(trial_of(model))
        make = maker(model, optimizer, lr, eps)
        if trial is model:
            remedy = "give a scripted model as it was before, and normalize weights by torch.nn.utils.parametrizations"
            kind = type(model).__name__
            raise UsageError(f"{kind} cannot be copied, and so cannot be trained without being changed; {remedy}")
        seed_everything(0)  # of dropout
        setup = Setup(trial, read_sample(trial, data), make, loss, batch_size)
        setup = replace(setup, guess=loss_of_guess(setup, _outputs(setup)))
        measurements = _with_float32(measure(setup.copied(), steps, MOST_SECONDS), setup, steps)
        findings = judge(measurements)
        trials: list[Trial] = []
        if most and (_tries(findings) or not (measurements.learns or measurements.fitted)):
            as_it_is = train_as_it_is(setup, cure_steps, cure_seconds)
            findings = judge(measurements, as_it_is.losses)
            tries = _tries(findings)[:most]
            if not _causes(findings) and as_it_is.left_at is None:  # nor does it fall later, and no rule says why
                tries = [*UNKNOWN[:most]]
            trials = [as_it_is, *try_cures(setup, measurements, as_it_is, tries, cure_steps, cure_seconds)]
            if _causes(findings) and not any(trial.helped for trial in trials):
                more, joined = _together(setup, measurements, findings)
                findings = sorted([*findings, *more], key=lambda finding: -finding.confidence)
                trials += try_cures(setup, measurements, as_it_is, joined, cure_steps, cure_seconds)
    return Diagnosis(measurements, tuple(findings), tuple(trials))


def _with_float32(m: Measurements, setup: Setup, steps: int) -> Measurements:
    """Of a setup in half precision the measurements with the updates of its copy in float32; of any other as they are.

    An update that is rounded away leaves no trace in the weights themselves.
    """
    dtype = dtype_of(setup.model)
    if dtype not in HALF:
        return m
    m = replace(m, half=str(dtype).removeprefix("torch."), rounding=torch.finfo(dtype).eps / 2)
    with suppress(UsageError):  # as of a model that converts to half precision within
        wide = measure(in_float32(setup.copied()), steps, MOST_SECONDS)
        known = {layer.name: layer for layer in wide.layers}
        layers = [
            replace(layer, update=(other := known[layer.name]).update, first_update=other.first_update, peak=other.peak)
            for layer in m.layers
        ]
        finite = not wide.failure and math.isfinite(wide.last_loss)
        return replace(m, layers=tuple(layers), trains_in_float32=finite)
    return m


def _causes(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.confidence >= CAUSE]


def _tries(findings: list[Finding]) -> list[str]:
    """The cures of the causes, the most likely first."""
    return list(dict.fromkeys(name for finding in _causes(findings) for name in finding.tries))


def _together(setup: Setup, m: Measurements, findings: list[Finding]) -> tuple[list[Finding], list[str]]:
    """What is found once the first cure of each cause is made, and the name of these and its own cures together.

    Only steps that failed or gave no finite loss hide causes, so that after others nothing is measured again.
    """
    names = list(dict.fromkeys(finding.tries[0] for finding in _causes(findings) if finding.tries))
    more: list[Finding] = []
    if names and (m.failure or not math.isfinite(m.last_loss)):
        cure = together(names)
        try:
            again = judge(measure(cure.change(setup.copied(), m), FEWEST_STEPS, MOST_SECONDS))
        except (UnfitError, UsageError):
            return [], []
        known = {finding.code for finding in findings}
        more = [
            replace(finding, words=f"With {cure.words}: {finding.words}")
            for finding in _causes(again)
            if finding.code not in known
        ]
        names += [name for name in _tries(more)[:1] if name not in names]
    return more, [" + ".join(names)] if len(names) > 1 else []


def _outputs(setup: Setup) -> int:
    """How many scores the model gives for an item.

    Raises UsageError for a loss with which no step can be taken, whatever the labels are, or that adds items up.
    """
    with evaluating(setup.model):  # in which no batch norm learns from the items, so that no copy is needed
        scores = scores_of(setup.model, setup.sample.inputs[: setup.batch_size])
        targets = torch.arange(len(scores), device=scores.device) % max(1, scores.shape[1])
        shapes = f"scores {tuple(scores.shape)} and targets {tuple(targets.shape)}"
        try:
            value = setup.loss(scores, targets)
        except Exception as error:  # whatever a reader's own loss raises
            raise UsageError(f"the loss cannot take {shapes}: {first_line(error)}") from None
        if not isinstance(value, Tensor) or value.numel() != 1:
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise UsageError(f"the loss gives {found} for {shapes}; it must give their mean, a tensor of one number")
        check_mean(setup.loss, scores, targets)
    return scores.shape[1]


def diagnose_run(exp: Experiment, build: Callable[[Experiment], nn.Module], cures: bool = True) -> Diagnosis:
    """The diagnosis of the model that a row of the table trains, before its first step, with the row's own optimizer.

    `build` gives the model with the weights that it starts from. Raises UsageError for a row that is no training.
    """
    if exp.kind != "training":
        raise UsageError(f"{exp.name} is no training but a {exp.kind}; name a run that trains a model")
    model = build(exp)
    train_only(model, exp.trainable)
    images = load_images(exp.dataset, "train", exp.profile, identity(exp)["image_size"])
    return diagnose(set_train_mode(model), images, optimizer=make_optimizer(exp, model, fast=False), cures=cures)
