"""Rules on the model as it is built: what it computes, and what is frozen, cut off or in the wrong mode."""

import math
from collections.abc import Sequence

from deepnet.diagnosis.findings import Finding, listed, percent, rule
from deepnet.diagnosis.layers import Layer
from deepnet.diagnosis.measure import Measurements

STRONG_DROPOUT = 0.8  # the noise variance p / (1 - p) is then four times the signal's
# Variance between two passes over mean square: an untrained EfficientNet has up to 6, a dropout of 0.95 has 19.
MUCH_NOISE = 8.0
SQUASHING = {"Sigmoid", "Tanh"}


@rule
def bad_weights(m: Measurements) -> Finding | None:
    if not m.bad_weights:
        return None
    words = f"There is a NaN or an infinity in {listed(m.bad_weights)} before any step."
    cure = "Draw the weights anew, or load another checkpoint."
    return Finding("nan-weights", m.bad_weights[0].rpartition(".")[0], words, cure, 0.98, ("he",))


@rule
def not_finite(m: Measurements) -> Finding | None:
    if not m.losses or math.isfinite(m.losses[0]):
        return None
    bad = next((layer for layer in m.layers if layer.ran and not math.isfinite(layer.before.rms)), None)
    if not bad and m.bad_items:  # the layers were measured with the other items
        return None
    where = f"in the outputs of {bad.name}" if bad else "between the last layer and the loss"
    words = f"The loss of the untrained model is not finite: the first NaN or infinity is {where}."
    cure = "Look for a division by zero, a logarithm of zero or an overflow there."
    return Finding("not-finite", bad.name if bad else "", words, cure, 0.9, ("he", "norm"))


@rule
def nothing_learns(m: Measurements) -> Finding | None:
    if m.trainable:
        return None
    words = "The whole model is frozen: no parameter requires a gradient."
    return Finding("nothing-learns", "", words, "Unfreeze them by requires_grad_(True).", 0.99, ("unfreeze",))


@rule
def frozen(m: Measurements) -> Finding | None:
    still = [layer for layer in m.layers if layer.frozen and layer.ran and layer.random]
    if not still:
        return None
    words = f"Frozen with weights that look drawn at random, and not trained: {_layers(still)}."
    cure = "Unfreeze by requires_grad_(True), or load trained weights first."
    return Finding("frozen", still[0].name, words, cure, 0.88, ("unfreeze",))


@rule
def not_optimised(m: Measurements) -> Finding | None:
    if not m.not_optimised:
        return None
    names = listed(m.not_optimised)
    words = f"The optimizer does not hold these parameters, or has a learning rate of 0 for them: {names}."
    cure = "Make the optimizer from model.parameters() after the last change of the model, with a rate for each."
    layer = m.not_optimised[0].rpartition(".")[0]
    return Finding("not-optimised", layer, words, cure, 0.92, ("all-parameters",))


@rule
def detached(m: Measurements) -> Finding | None:
    remedy = "Look for .detach(), .data, torch.no_grad(), .argmax(), NumPy or a hook between there and the loss."
    if "does not require grad" in m.failure and m.trainable:
        return Finding("detached", "", "The loss has no gradient at all: the outputs are cut off.", remedy, 0.97)
    ran = [layer for layer in m.layers if layer.learns and layer.ran]
    cut = [layer for layer in ran if not layer.reached]
    sure = bool(cut) and not m.several_outputs  # heads beside the first output have a loss of their own
    first = next((i for i, layer in enumerate(ran) if layer.gradient > 0), len(ran))
    cut = cut or [layer for layer in ran[first:] if layer.gradient == 0]  # as by a hook on its weight
    if m.failure or not m.losses or not math.isfinite(m.losses[0]) or not cut:
        return None
    words = f"No gradient reaches these layers, though the forward pass runs through them: {_layers(cut)}."
    return Finding("detached", cut[-1].name, words, remedy, 0.95 if sure else 0.3)


@rule
def unused(m: Measurements) -> Finding | None:
    idle = [layer for layer in m.layers if layer.learns and not layer.ran and not layer.reached]
    if m.failure or not idle or not m.losses:
        return None
    words = f"The forward pass does not run through {_layers(idle)}."
    return Finding("unused", idle[0].name, words, "Call it, or remove it.", 0.3)


@rule
def eval_mode(m: Measurements) -> Finding | None:
    if not m.eval_norms:
        return None
    words = f"In evaluation mode, and so normalized by running statistics: {listed(m.eval_norms)}."
    if m.fresh_norms:
        words += " These have never been updated from data."
    confidence = 0.9 if m.fresh_norms else 0.3  # trained statistics are often kept on purpose
    cure = "Call model.train() before training."
    return Finding("eval-mode", m.eval_norms[0], words, cure, confidence, ("train-mode",))


@rule
def output_activation(m: Measurements) -> Finding | None:
    last = m.last_operation
    if not m.is_cross_entropy or m.outputs < 2:
        return None
    if last in ("Softmax", "SafeSoftmax", *SQUASHING):
        words = f"The model ends in a {last.lower()}, but cross-entropy takes scores and makes their softmax itself."
        confidence = 0.95
    elif last == "Relu":
        words = "The model ends in a ReLU, so no score can be negative, and an output that dies stays dead."
        confidence = 0.7
    else:
        return None
    return Finding("output-activation", "", words, "Leave the last activation out.", confidence, ("raw-scores",))


@rule
def constant_weights(m: Measurements) -> Finding | None:
    ran = [layer for layer in m.layers if layer.ran]
    equal = [layer for layer in ran[:-1] if layer.equal_units and layer.learns]
    if not equal or not m.losses:
        return None
    words = f"All units have the same weights, and still have them after {len(m.losses)} steps: {_layers(equal)}."
    return Finding("constant-weights", equal[0].name, words, "Draw the weights at random.", 0.96, ("he", "xavier"))


@rule
def no_nonlinearity(m: Measurements) -> Finding | None:
    ran = [layer for layer in m.layers if layer.ran and layer.before.negative]  # one of each module
    if len(ran) < 2 or m.operations or not m.affine or not all(layer.reached or layer.frozen for layer in ran):
        return None
    words = f"There is no activation between the {len(ran)} layers: together they are one linear layer."
    return Finding("no-nonlinearity", ran[0].name, words, "Put a ReLU behind each hidden layer.", 0.85, ("relus",))


@rule
def dropout(m: Measurements) -> Finding | None:
    strong = [(name, p) for name, p in m.dropout if p >= STRONG_DROPOUT]
    if strong:
        name, p = strong[0]
        passed = f"the noise has {p / (1 - p):.0f} times the signal's variance" if p < 1 else "nothing passes it"
        words = f"{name} drops {percent(p)} of its inputs: {passed}."
        return Finding("dropout", name, words, "Take a dropout of 0.5 or less.", 0.9, ("no-dropout",))
    if not m.noise >= MUCH_NOISE:  # NaN where a score is
        return None
    words = f"The same items give other scores each time: noise has {m.noise:.0f} times their mean square."
    return Finding("dropout", "", words, "Take less dropout, or less noise.", 0.65, ("no-dropout",))


def _layers(layers: Sequence[Layer]) -> str:
    return listed([layer.name for layer in layers])
