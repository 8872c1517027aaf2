"""A few dozen optimizer steps on a copy of a model, and all that the rules judge it by."""

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deepnet.data.labels import IGNORED
from deepnet.diagnosis.inputs import HALF, Inputs, widened
from deepnet.diagnosis.layers import (
    NOISE,
    PROBE_ITEMS,
    Layer,
    Signal,
    StepMeter,
    equal_units,
    expected_signals,
    gain,
    in_running_order,
    layer_modules,
    looks_random,
    post_norms,
    rms,
    signals,
)  # fmt: skip
from deepnet.diagnosis.sample import dtype_of
from deepnet.diagnosis.setup import Setup, first_tensor, relative_rates, tensors_in
from deepnet.records.files import first_line
from deepnet.training.ready import evaluating
from experimentTable import UsageError

FEWEST_STEPS = 12  # which tell a layer that moves from one that does not
METERED = 3  # of so many steps one is measured, which takes as long as the step itself in a model with wide layers
FITTED = 0.1  # of the loss of a guess, which knows no more than how frequent each label is
SMOOTHED = 20  # losses whose mean is compared with another's
AFFINE_ERROR = 1e-3  # of the scores' spread; in float32 an affine map's rounding errors are far smaller
AFFINE_ITEMS = 32
# Nodes of autograd's graph that keep a function affine where only one of their arguments depends on the inputs.
AFFINE = re.compile(
    r"(AccumulateGrad|Addmm|Addbmm|Baddbmm|Mm|Mv|Bmm|Linear|Convolution|T|View|UnsafeView|ReshapeAlias|Reshape"
    r"|Transpose|Permute|Expand|Squeeze|Unsqueeze|Clone|Slice|Select|Index|Cat|Stack|Split\w*|Add|Sub|Neg|Mean|Sum|Div"
    r"|Mul|(Native|Cudnn)BatchNorm|NativeDropout|\w*AvgPool\w*|ToCopy|Copy\w*|Alias|Detach)(Backward\d*)?"
)
RESHAPING = {"View", "UnsafeView", "ReshapeAlias", "Squeeze", "Clone", "Alias", "ToCopy"}
Norm = nn.modules.batchnorm._NormBase


@dataclass(frozen=True)
class Measurements:
    """All that was measured, as plain numbers. Losses are those of the training batches, one per step."""

    layers: tuple[Layer, ...]  # in the order in which they run
    losses: tuple[float, ...]
    outputs: int
    is_cross_entropy: bool
    optimizer: str
    options: dict[str, float]  # of the optimizer: of each the largest value in any group
    seconds: float
    # the data
    items: int
    labels: tuple[int, int]  # the lowest and the highest
    classes: int  # that are there
    guess: float  # the loss of the best scores that are the same for all items
    bad_items: float  # share with a NaN or an infinity
    bad_weights: tuple[str, ...]
    input_rms: float
    input_variance: float  # across samples, mean over positions
    input_floats: bool
    neighbours: tuple[float, float, float] | None
    # the model
    is_nll: bool = False
    available: int = 0  # items that the data set holds, of which `items` were read
    by_class: bool = False  # most batches of the loader hold one class each
    label_kind: str = ""  # of labels that are read as whole numbers, and that cross-entropy would not take
    several_outputs: bool = False  # of which the loss is of the first alone, as of a model with auxiliary heads
    last_operation: str = ""  # the node of autograd's graph that gives the outputs
    uses_weights: bool = True  # the outputs depend on the copy's weights, also where no module is called
    operations: frozenset[str] = field(default=frozenset())
    trainable: bool = True  # some parameter requires a gradient
    total: float = 1.0  # of exp(scores) over the classes, mean over items: 1 for log-probabilities
    affine: bool = False  # the scores are an affine function of the inputs
    noise: float = 0.0  # variance between two passes of the same items over the mean square of the rest, <= 1000
    dropout: tuple[tuple[str, float], ...] = ()  # those that are on
    eval_norms: tuple[str, ...] = ()  # in evaluation mode though their parameters learn
    fresh_norms: bool = False  # these have never seen a batch
    not_optimised: tuple[str, ...] = ()  # that require a gradient, and are not held or have a learning rate of 0
    failure: str = ""  # what torch said where a step could not be taken
    post_norms: int = 0  # transformer layers of torch's that normalize behind each shortcut
    half: str = ""  # the weights' type, where it is bfloat16 or float16
    rounding: float = 0.0  # an update of less than this share of a weight of that type is mostly rounded away
    trains_in_float32: bool = False  # the copy in float32, whose loss stays finite

    @property
    def chance(self) -> float:
        """The loss of a model that gives every output the same score."""
        return math.log(max(1, self.outputs))

    @property
    def first_loss(self) -> float:
        """Of the untrained model; infinite where it is not finite."""
        return mean_loss(self.losses[:1])

    @property
    def last_loss(self) -> float:
        """Mean over the last five batches."""
        return mean_loss(self.losses[-5:])

    @property
    def learns(self) -> bool:
        """Whether the loss has fallen by a twentieth, from its beginning and from that of a guess."""
        return self.last_loss < 0.95 * min(self.first_loss, max(self.guess, 1e-9))

    @property
    def fitted(self) -> bool:
        """Whether the loss lies far below that of a guess at the first step, and stays well below it."""
        return self.first_loss < FITTED * self.guess and self.last_loss < 0.5 * self.guess

    def learns_well(self, later: Sequence[float] = ()) -> bool:
        """Whether the loss has halved, from its beginning too, in these steps or in the `later` ones of a trial."""
        low = 0.5 * min(self.first_loss, self.guess)
        return min(self.last_loss, mean_loss(later[-SMOOTHED:])) < low


def mean_loss(losses: Sequence[float]) -> float:
    """The mean of losses; infinite where there are none or one is not finite."""
    mean = sum(losses) / len(losses) if losses else math.inf
    return mean if math.isfinite(mean) else math.inf


def scores_of(model: nn.Module, inputs: Inputs) -> Tensor:
    """The model's scores (N, classes). Raises UsageError for outputs of another kind."""
    try:
        given = inputs.given_to(model)
    except Exception as error:  # whatever a reader's own model raises
        remedy = "; make it float32 by model.float()" if dtype_of(model) in HALF else ""
        raise UsageError(f"the model cannot take {inputs} from the data: {first_line(error)}{remedy}") from None
    return _checked_scores(given, len(inputs))


def _checked_scores(given: Any, items: int) -> Tensor:
    outputs = first_tensor(_scores_in(given))
    if outputs is None or outputs.ndim != 2 or len(outputs) != items or not outputs.is_floating_point():
        found = type(given).__name__ if outputs is None else f"{tuple(outputs.shape)} of type {outputs.dtype}"
        raise UsageError(f"the model gives {found} for {items} items; it must give scores (N, classes)")
    return outputs


def _scores_in(given: Any) -> Any:
    """What of a model's outputs holds the scores: its logits, in a dict also its scores or the only tensor."""
    if not isinstance(given, dict):
        return getattr(given, "logits", given)
    named = [given[key] for key in ("logits", "scores") if key in given]
    tensors = named or [value for value in given.values() if isinstance(value, Tensor)]
    if len(tensors) != 1:
        keys = ", ".join(map(repr, given))
        raise UsageError(f'the model gives a dict with the keys {keys}; name the scores "logits", or give them alone')
    return tensors[0]


def take_steps(
    setup: Setup, steps: int, seconds: float, meter: bool = True, goal: float = 0.0
) -> tuple[list[float], StepMeter, str]:
    """Train the setup's model in place; the loss of each step, what was measured, and why it stopped early, if it did.

    After `FEWEST_STEPS` it stops once `seconds` of the processor are over or the mean of `SMOOTHED` losses is below
    `goal`, and at once where the loss is no longer finite.
    """
    optimizer, model = setup.optimizer(), setup.model
    measured = StepMeter(model, optimizer)
    losses: list[float] = []
    end = time.thread_time() + seconds  # of the processor, so that a busy machine finds what an idle one does
    for inputs, targets in setup.sample.batches(setup.batch_size):
        if len(losses) >= steps or (len(losses) >= FEWEST_STEPS and time.thread_time() > end):
            break
        outputs = scores_of(model, inputs)
        try:
            loss = setup.loss(outputs, targets)
            optimizer.zero_grad()
            loss.backward()
        except Exception as error:  # of a label without an output, or of a loss that no parameter has a part in
            return losses, measured, first_line(error)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            break
        metered = meter and len(losses) % METERED == 1
        if metered:
            measured.before()
        try:
            optimizer.step()
        except Exception as error:  # as of LBFGS
            kind = type(optimizer).__name__
            raise UsageError(
                f"{kind} cannot take a plain step ({first_line(error)}); choose another optimizer"
            ) from None
        if metered:
            measured.after()
        if goal and len(losses) >= SMOOTHED and sum(losses[-SMOOTHED:]) < goal * SMOOTHED:
            break
    return losses, measured, ""


def measure(setup: Setup, steps: int, seconds: float) -> Measurements:
    """Measure the setup's model, which is trained for some steps and so should be a copy.

    Raises UsageError for a model that cannot take the data, or gives no scores (N, classes).
    """
    begin = time.monotonic()
    model, sample = setup.model, setup.sample
    good = sample.inputs[~sample.bad_items]
    probe = (good if len(good) > 1 else sample.inputs)[:PROBE_ITEMS]
    facts = _facts(setup) | _operations(setup, probe)
    bad_weights = tuple(name for name, p in model.named_parameters() if not torch.isfinite(p).all())
    modules = layer_modules(model)
    expected = expected_signals(model, probe, list(modules))
    drawn = {name: (rms(weight), gain(weight), looks_random(weight)) for name, (_, weight) in modules.items()}
    before = signals(model, probe)
    if modules and not before and not facts["uses_weights"]:  # a copy shares what a function holds on to
        raise UsageError("no layer of the model's copy is called; make forward a method of the class, not a function")
    optimizer = setup.optimizer()
    groups = zip(optimizer.param_groups, relative_rates(optimizer), strict=True)
    rates = {id(p): rate for group, rate in groups for p in group["params"]}
    missed = [n for n, p in model.named_parameters() if p.requires_grad and not rates.get(id(p))]
    losses, meter, failure = take_steps(setup, steps, seconds)
    after = signals(model, probe)
    layers = []
    for name in in_running_order(modules, before):
        weight = modules[name][1]
        negative, silent = before.get(name, Signal()).negative, meter.silent.get(name)
        dead = [n and s for n, s in zip(negative, silent.tolist(), strict=False)] if silent is not None else []
        layers.append(
            Layer(
                name=name,
                kind=type(modules[name][0]).__name__,
                learns=weight.requires_grad and bool(rates.get(id(weight))),
                rate=rates.get(id(weight), 0.0),
                frozen=not weight.requires_grad,
                ran=name in before and (bool(before[name].negative) or name in meter.reached),
                reached=name in meter.reached,
                random=drawn[name][2],
                weight_rms=drawn[name][0],
                gain=drawn[name][1],
                before=before.get(name, Signal()),
                after=after.get(name, Signal()),
                **meter.summary(name),
                dead=sum(dead) / len(dead) if dead else math.nan,
                equal_units=equal_units(weight),
                expected=expected.get(name, math.nan),
            )
        )
    return Measurements(
        layers=tuple(layers), losses=tuple(losses), is_cross_entropy=setup.is_cross_entropy,
        optimizer=type(optimizer).__name__, options=_options(optimizer), bad_weights=bad_weights, is_nll=setup.is_nll,
        not_optimised=tuple(missed), failure=failure, seconds=time.monotonic() - begin, **facts,
    )  # fmt: skip


def _options(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in (entry for group in optimizer.param_groups for entry in group.items()):
        if isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1):
            found[key] = max(float(value), found.get(key, -math.inf))
    return found


def _facts(setup: Setup) -> dict[str, Any]:
    """What is known of data and modules before any step."""
    sample, model = setup.sample, setup.model
    counted = sample.targets[sample.targets != IGNORED]
    finite = sample.finite
    norms = [(n, m) for n, m in model.named_modules() if isinstance(m, Norm) and m.track_running_stats]
    still = [(n, m) for n, m in norms if not m.training and any(p.requires_grad for p in m.parameters())]
    return {
        "items": len(sample.targets),
        "labels": (int(counted.min()), int(counted.max())) if len(counted) else (0, 0),
        "classes": len(sample.targets.unique()),
        "guess": setup.guess,
        "trainable": any(p.requires_grad for p in model.parameters()),
        "available": sample.available,
        "by_class": sample.by_class,
        "label_kind": sample.label_kind,
        "bad_items": float(sample.bad_items.float().mean()),
        "input_rms": rms(finite),
        "input_variance": float(finite.var(0).mean()) if len(finite) > 1 else math.nan,
        "input_floats": bool(sample.inputs.measured),
        "neighbours": sample.neighbours,
        "dropout": tuple(
            (name, float(m.p)) for name, m in model.named_modules() if isinstance(m, NOISE) and m.training
        ),
        "eval_norms": tuple(name for name, _ in still),
        "fresh_norms": any(int(m.num_batches_tracked or 0) == 0 for _, m in still),
        "post_norms": len(post_norms(model)),
    }


def is_affine(model: nn.Module, inputs: Inputs) -> bool:
    """Whether, in evaluation mode, the scores for the mean of two items are the mean of their scores."""

    def mixed(values: Tensor) -> Tensor:
        return (values + values.roll(1, 0)) / 2

    if not all(part.is_floating_point() for part in inputs.parts):
        return False
    with evaluating(model):
        given = scores_of(model, inputs)
        scores = widened(given)
        error = rms(widened(scores_of(model, inputs.map(mixed))) - mixed(scores))
    spread = rms(scores - scores.mean(0))
    return error <= max(AFFINE_ERROR, 4 * torch.finfo(given.dtype).eps) * spread + 1e-6 * rms(scores)


def _operations(setup: Setup, probe: Inputs) -> dict[str, Any]:
    """What the model computes with, from autograd's graph, and what its first outputs look like."""
    frozen = [p for p in setup.model.parameters() if not p.requires_grad and p.is_floating_point()]
    for parameter in frozen:  # autograd leaves out of its graph what needs no gradient
        parameter.requires_grad_(True)
    outputs = scores_of(setup.model, probe)
    for parameter in frozen:
        parameter.requires_grad_(False)
    with torch.no_grad():
        given = probe.given_to(setup.model)
        again, first = widened(_checked_scores(given, len(probe))), widened(outputs)
        total = float(first.exp().sum(1).mean())
        noise = float((first - again).square().mean()) / 2
        signal = max(float((first * again).mean()), 1e-3 * noise, 1e-30)  # independent noise averages out of it
    found: dict[Any, None] = {}
    waiting = [outputs.grad_fn] if outputs.grad_fn else []
    while waiting:
        node = waiting.pop()
        if node in found:
            continue
        found[node] = None
        waiting += [parent for parent, _ in node.next_functions if parent is not None]
    names = [node.name().rpartition("::")[2].removesuffix("0").removesuffix("Backward") for node in found]
    while names and names[0] in RESHAPING:
        names.pop(0)
    return {
        "outputs": outputs.shape[1],
        "total": total,
        "uses_weights": any(p is getattr(node, "variable", None) for node in found for p in setup.model.parameters()),
        "several_outputs": len([*tensors_in(given)]) > 1,
        "last_operation": names[0] if names else "",
        "operations": frozenset(name for name in names[1:] if not AFFINE.fullmatch(name)),
        "affine": is_affine(setup.model, probe[:AFFINE_ITEMS]),
        "noise": noise / signal,
    }
