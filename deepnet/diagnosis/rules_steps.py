"""Rules on the first steps: how signal, gradient and weights behave in each layer."""

import math
from statistics import median_high

from deepnet.diagnosis.findings import Finding, percent, power, rule
from deepnet.diagnosis.layers import Layer
from deepnet.diagnosis.measure import Measurements
from deepnet.diagnosis.rules_model import SQUASHING

# A weight that moves by 3e-5 of its own size per step needs 30,000 steps to change by that size. A usual training has
# about 10,000 steps, and a layer that learns well moves by about 1e-3 per step.
LOW_UPDATE, GOOD_UPDATE = 3e-5, 1e-3
HIGH_UPDATE = 0.03  # the weights are replaced within 30 steps
APART = 100  # between the fastest layer and the slowest, from which a layer is called left behind
LARGE_LOSS = 4.0  # times ln(classes): of libraries' models, EfficientNet begins highest, at up to 3.2 times
LARGE_SIGNAL = 100  # a layer's RMS over the input's; a good initialization keeps it within a factor of 10
LARGE_GAIN = 4.0  # variance of the weights times fan-in: twice that of He's rule
DEAD = 0.9  # share of a layer's units; in a deep plain network half may be dead and it learns all the same
DEEP_POST_NORM = 6  # layers, from which Xiong et al. (2020, arXiv:2002.04745) find that a warm-up is needed
STRONG_DECAY = 0.02  # L2 penalties are mostly 5e-4 and seldom above 1e-2
DEFAULT_EPS = 1e-7  # eps above it is larger than any default of torch's Adam family
TINY = 3e-8  # half of the smallest number above 0 in float16
RECTIFYING = {"Relu", "LeakyRelu", "Gelu", "Silu", "Elu", "Hardswish", "Hardtanh"}


@rule
def no_step(m: Measurements) -> Finding | None:
    if not m.failure:
        return None
    words = f"Step {len(m.losses) + 1} cannot be taken: {m.failure.rstrip('.')}."
    return Finding("no-step", "", words, "Look at what the loss is given in that step.", 0.8)


@rule
def negative_loss(m: Measurements) -> Finding | None:
    if m.is_cross_entropy or not m.losses or min(m.losses) >= 0:
        return None
    words = f"The loss is below 0, at {power(min(m.losses))}: nll_loss needs log-probabilities, which are 0 or less."
    cure = "End the model in log_softmax, or take cross_entropy, which makes it itself."
    return Finding("negative-loss", "", words, cure, 0.95 if m.is_nll else 0.3)  # a loss of one's own may go below 0


@rule
def maximizing(m: Measurements) -> Finding | None:
    if not m.options.get("maximize"):
        return None
    words = f"{m.optimizer} was made with maximize=True, and so raises the loss."
    return Finding("maximizing", "", words, "Leave maximize out.", 0.97, ("minimize",))


@rule
def no_log_probabilities(m: Measurements) -> Finding | None:
    if not m.is_nll or abs(m.total - 1) < 0.01 or not math.isfinite(m.total):
        return None
    words = (
        "nll_loss needs log-probabilities: exp of an item's scores adds up to 1 over the classes. Here it adds up to "
        f"{power(m.total)}."
    )
    cure = "End the model in log_softmax over the classes (dim=1), or take cross_entropy, which makes it itself."
    return Finding("no-log-probabilities", "", words, cure, 0.93, ("log-probabilities",))


@rule
def exploding(m: Measurements) -> Finding | None:
    ran = [layer for layer in m.layers if layer.ran and not math.isnan(layer.before.rms)]
    scale = max(m.input_rms, 1.0) if m.input_floats else 1.0
    large = [layer for layer in ran if not layer.before.rms < LARGE_SIGNAL * scale]
    if not ran or not m.losses or not (large or (m.is_cross_entropy and m.losses[0] > LARGE_LOSS * m.chance)):
        return None
    worst = large[0] if large else max(ran, key=lambda layer: layer.gain)
    top = max(layer.before.rms for layer in ran)
    words = (
        f"The signal is too large: its root mean square is {power(m.input_rms)} at the input and up to {power(top)} in "
        f"the layers, and the untrained model's loss is {power(m.losses[0])}"
        + (f", where ln({m.outputs}) = {m.chance:.2f} is expected." if m.is_cross_entropy else ".")
    )
    if median_high(layer.gain for layer in ran) > LARGE_GAIN:
        cure = "Draw the weights by He's rule, or normalize each layer."
        return Finding("exploding", worst.name, words, cure, 0.85, ("he", "norm", "small-weights"))
    cure = "Scale the weights of each branch down, or normalize it."  # each layer keeps its signal: shortcuts add up
    return Finding("exploding", worst.name, words, cure, 0.85, ("small-weights", "norm"))


@rule
def dead_units(m: Measurements) -> Finding | None:
    ran = [layer for layer in m.layers if layer.ran]
    dead = [layer for layer in ran[:-1] if layer.dead >= DEAD]
    if not dead:
        return None
    worst = max(dead, key=lambda layer: layer.dead)
    words = (
        f"{percent(worst.dead)} of the units of {worst.name} are negative for every item, so that no gradient passes "
        "the ReLU behind them."
    )
    return Finding("dead-units", worst.name, words, "Draw that layer anew, with biases of 0.", 0.87, ("he", "norm"))


@rule
def learning_rate_high(m: Measurements) -> Finding | None:
    if len(m.losses) < 2 or not math.isfinite(m.losses[0]):
        return None
    moves = [layer.update for layer in _stepping(m)]
    peak = _peak(m)  # units that die stop moving
    worse = not math.isfinite(m.losses[-1]) or max(m.losses) > 2 * max(m.losses[0], m.chance)
    fast = bool(moves) and (peak > HIGH_UPDATE if worse else median_high(moves) > 3 * HIGH_UPDATE)
    if not fast and math.isfinite(m.losses[-1]):
        return None
    finite = math.isfinite(m.losses[-1])
    to = f"up to {power(max(m.losses))}" if finite else f"to NaN or infinity in step {len(m.losses)}"
    words = f"The steps are too large: the loss goes from {power(m.losses[0])} {to}"
    words += f", and some weights change by {percent(peak)} of their size per step." if moves else "."
    cure = "Lower the learning rate; a weight should move by about a thousandth of its size per step."
    return Finding("learning-rate-high", "", words, cure, 0.86, ("good-rate", "slower"))


@rule
def post_norm(m: Measurements) -> Finding | None:
    peak = _peak(m)
    if m.post_norms < DEEP_POST_NORM or peak <= HIGH_UPDATE:
        return None
    words = (
        f"{m.post_norms} transformer layers normalize behind their shortcuts; at a learning rate at which some weights "
        f"change by {percent(peak)} of their size per step, such a stack soon gives every input the same scores."
    )
    cure = "Take norm_first=True, or a lower learning rate with a warm-up."
    return Finding("post-norm", "", words, cure, 0.84, ("pre-norm", "slower"))


@rule
def large_eps(m: Measurements) -> Finding | None:
    eps = m.options.get("eps", 0.0)
    below = [layer for layer in _stepping(m) if layer.gradient < eps and layer.update < GOOD_UPDATE]
    if eps <= DEFAULT_EPS or not below or 2 * len(below) < len(_stepping(m)):
        return None
    words = (
        f"{m.optimizer}'s eps of {power(eps)} is above the gradients ({power(below[0].gradient)} in {below[0].name}) "
        "and so damps each step."
    )
    return Finding("eps", below[0].name, words, "Leave eps at its default of 1e-8.", 0.88, ("small-eps",))


@rule
def learning_rate_low(m: Measurements) -> Finding | None:
    moves = [layer.update for layer in _stepping(m)]
    if not moves or max(moves) >= LOW_UPDATE or _below_eps(m):
        return None
    if _peak(m) > HIGH_UPDATE:  # units died of the first steps
        return None
    if m.options.get("lr") == 0:
        return Finding("learning-rate-low", "", "The learning rate is 0.", "Raise it.", 0.95, ("good-rate",))
    words = (
        f"The steps are too small: no layer's weights move by more than {power(max(moves))} of their size per step, "
        f"and about {power(GOOD_UPDATE)} is usual."
    )
    return Finding("learning-rate-low", "", words, "Raise the learning rate.", 0.86, ("good-rate", "faster"))


@rule
def weight_decay(m: Measurements) -> Finding | None:
    strengths = [layer.decay for layer in _stepping(m)]
    decay = m.options.get("weight_decay", 0.0)
    middle = median_high(strengths) if strengths else 0.0
    if decay <= STRONG_DECAY or middle < 1:
        return None
    words = f"A weight decay of {power(decay)} pulls {middle:.0f} times as strongly as the loss: weights go to 0."
    return Finding("weight-decay", "", words, "Take a weight decay of 1e-4, or none.", 0.89, ("no-decay",))


@rule
def saturating_activation(m: Measurements) -> Finding | None:
    behind = _left_behind(m)
    if not (m.operations & SQUASHING) or m.operations & RECTIFYING or not behind:
        return None
    name = sorted(m.operations & SQUASHING)[0].lower()
    words = f"The gradient shrinks in each {name}, whose slope is small: {_shrinks(m)}."
    cure = "Take ReLU with He's initialization in its place, or normalize each layer."
    return Finding("saturating-activation", behind[0].name, words, cure, 0.86, ("relu-he", "norm", "xavier"))


@rule
def half_precision(m: Measurements) -> Finding | None:
    stepping = _stepping(m)
    small = [layer for layer in stepping if LOW_UPDATE <= layer.update < m.rounding]
    if m.trains_in_float32 and not math.isfinite(m.losses[-1] if m.losses and not m.failure else math.nan):
        step = f"step {len(m.losses) + 1} fails" if m.failure else f"the loss of step {len(m.losses)} is not finite"
        words = f"In {m.half} {step}; in float32 all is well."
        if m.half == "float16" and 0 < m.options.get("eps", 0.0) < TINY:
            words += f" {m.optimizer}'s eps of {power(m.options['eps'])} is 0 in float16, so that steps divide by 0."
        layer = ""
    elif small and 2 * len(small) >= len(stepping):
        layer = small[0].name
        words = (
            f"{m.half} rounds most updates away: in float32 the weights of {layer} move by {power(small[0].update)} of "
            f"their size per step, and weights in {m.half} can hardly change by less than {power(m.rounding)} of it."
        )
    else:
        return None
    cure = f"Keep the weights in float32, and compute in {m.half} by torch.autocast."
    return Finding("half-precision", layer, words, cure, 0.9, ("float32",))


@rule
def vanishing(m: Measurements) -> Finding | None:
    behind = _left_behind(m) or _below_eps(m)
    if not behind:
        return None
    words = f"The gradient vanishes on its way to the input: {_shrinks(m)}."
    eps = m.options.get("eps", 0.0)
    if below := [layer for layer in behind if layer.gradient < eps]:
        layers = "1 layer" if len(below) == 1 else f"{len(below)} layers"
        words += f" In {layers} it is below {m.optimizer}'s eps of {power(eps)}, which keeps the weights still."
    seen = [layer for layer in m.layers if layer.ran and layer.before.variance > 0]
    if len(seen) > 1:
        first, last = seen[0], seen[-1]
        words += (
            f" The variance across samples falls from {power(first.before.variance)} in {first.name} to "
            f"{power(last.before.variance)} in {last.name}."
        )
        gain = median_high(layer.gain for layer in seen)
        if gain < 1:
            words += f" The weights' variance times fan-in is {gain:.2f}; a network of ReLUs keeps its signal at 2."
    cure = "Draw the weights by He's rule; or add shortcuts or normalization."
    return Finding("vanishing", behind[0].name, words, cure, 0.84, ("he", "shortcuts", "norm", "xavier", "small-eps"))


def _stepping(m: Measurements) -> list[Layer]:
    """The layers that learn and that took steps."""
    return [layer for layer in m.layers if layer.learns and layer.reached and not math.isnan(layer.update)]


def _peak(m: Measurements) -> float:
    """The largest update of any layer in any step, relative to its weight."""
    return max((layer.peak for layer in _stepping(m)), default=0.0)


def _left_behind(m: Measurements) -> list[Layer]:
    """The layers that hardly move while another does; none where the first of those that learn is not among them."""
    layers = _stepping(m)
    fastest = max((layer.update for layer in layers), default=0.0)
    # A group with a small learning rate is slow on purpose.
    slow = [layer for layer in layers if layer.update < layer.rate * min(LOW_UPDATE, fastest / APART)]
    return slow if slow and slow[0] is layers[0] else []


def _below_eps(m: Measurements) -> list[Layer]:
    """All layers that learn, where an eps of usual size is above the gradients of every one, and none moves."""
    layers, eps = _stepping(m), m.options.get("eps", 0.0)
    return layers if eps <= DEFAULT_EPS and all(0 < x.gradient < eps and x.update < LOW_UPDATE for x in layers) else []


def _shrinks(m: Measurements) -> str:
    first, last = _stepping(m)[0], _stepping(m)[-1]
    return (
        f"its root mean square is {power(last.gradient)} in {last.name} and {power(first.gradient)} in {first.name}, "
        f"which moves by {power(first.update)} of its size per step"
    )
