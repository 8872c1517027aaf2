"""The frozen prefix of a model: it is found, computed once for all images, and checked for changes."""

from collections.abc import Callable
from itertools import takewhile
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from deepnet.data.datasets import InMemoryDataset, UserDataset
from deepnet.records.files import digest
from deepnet.seeds import preserved_random
from deepnet.speed.memory import free_bytes
from deepnet.speed.relus import is_altered
from deepnet.training.features import forward_all
from deepnet.training.precision import arithmetic, cast
from deepnet.training.ready import device_of
from experimentTable import UsageError
from myModel import set_train_mode

# The largest cache; above this, or above half of the free memory, the whole model runs instead.
MAX_CACHE_BYTES = 6 * 2**30
# The children that torchvision's ResNet runs in turn before it flattens its maps.
RESNET_STAGES = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool")
# In evaluation mode, modules of these packages give the same output for an image each time; those below may not in
# training mode.
KNOWN = ("torch.nn.", "torchvision.models.resnet", "torchvision.ops.misc", "modelBlock", "myModel")
DRAW_IN_TRAINING = (
    nn.modules.dropout._DropoutNd, nn.RReLU, nn.modules.batchnorm._NormBase, nn.RNNBase, nn.MultiheadAttention,
    nn.TransformerEncoderLayer, nn.TransformerDecoderLayer,
)  # fmt: skip


def chain_of(model: nn.Module) -> list[nn.Module] | None:
    """The modules that the model's forward runs in turn; None if it is not known to do just that.

    Known are the forwards of nn.Sequential and of torchvision's ResNet, which flattens its maps before the last layer.
    """
    forward = getattr(type(model), "forward", None)  # a scripted module's class has none
    if is_altered(model) or any(True for _ in model.parameters(recurse=False)):
        return None
    if isinstance(model, nn.Sequential) and forward is nn.Sequential.forward:
        return list(model)
    resnet = torchvision.models.ResNet
    if isinstance(model, resnet) and forward is resnet.forward and type(model)._forward_impl is resnet._forward_impl:
        return [*map(model.get_submodule, RESNET_STAGES), nn.Sequential(nn.Flatten(1), model.fc)]
    return None


def split(model: nn.Module) -> tuple[nn.Sequential, nn.Sequential] | None:
    """Split a model into its frozen prefix and the rest: rest(prefix(x)) is model(x) in training and in evaluation.

    Returns None if the forward is not known to be a chain of modules, if its first module is not frozen, or if a frozen
    module is not known to give the same output for an image each time.
    """
    if (chain := chain_of(model)) is None:
        return None
    set_train_mode(model)
    frozen = _count_frozen(chain, _constant)
    if frozen in (0, len(chain)):
        return None
    return nn.Sequential(*chain[:frozen]), nn.Sequential(*chain[frozen:])


def _count_frozen(modules: list[nn.Module], constant: Callable[[nn.Module], bool] = lambda _: True) -> int:
    """How many of the first modules are frozen and `constant`; 0 if none of these has a parameter."""

    def frozen(module: nn.Module) -> bool:
        return not any(p.requires_grad for p in module.parameters()) and constant(module)

    front = list(takewhile(frozen, modules))
    return len(front) if any(True for module in front for _ in module.parameters()) else 0


def _constant(module: nn.Module) -> bool:
    """Whether the module, in its present mode, is known to give an image the same output in any batch."""
    for part in module.modules():
        if not (type(part).__module__ + ".").startswith(KNOWN) or is_altered(part):
            return False
        if part.training and isinstance(part, DRAW_IN_TRAINING):
            return False
        # without running statistics it always uses the batch's
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
            return False
        if isinstance(part, nn.FractionalMaxPool2d | nn.FractionalMaxPool3d):
            return False
    return True


def split_as_asked(model: nn.Module, sample: Tensor) -> tuple[nn.Sequential, nn.Sequential]:
    """Like `split`, for a caller who asserts that the children run in turn and the frozen ones never change.

    Raises UsageError if the first child is not frozen, and if the children in turn do not give the model's output for
    `sample`.
    """
    children = [child for _, child in model.named_children()]
    frozen = _count_frozen(children)
    chain = chain_of(model) or children
    if chain is children and isinstance(children[-1], nn.Linear):
        chain = [*children[:-1], nn.Sequential(nn.Flatten(1), children[-1])]
    parts = nn.Sequential(*chain[:frozen]), nn.Sequential(*chain[frozen:])
    try:
        model.eval()
        with torch.no_grad(), preserved_random():
            same = 0 < frozen < len(children) and torch.equal(parts[1](parts[0](sample)), model(sample))
    except Exception:  # whatever a reader's own model raises
        same = False
    if not same:
        raise UsageError(
            "cache_frozen needs a model that runs its children in turn, the first of them frozen; leave it out"
        )
    return parts


def cached(prefix: nn.Module, data: Any, precision: str, batch_size: int, fast: bool = True) -> InMemoryDataset | None:
    """The prefix's outputs for all of `data`; None, with a printed line, if they do not fit in memory.

    They may take `MAX_CACHE_BYTES`, and half of the memory that is free now; whether they fit can differ when a run is
    resumed. Outputs for the report's own sets are shared by all runs of one prefix in this process while there is room.
    """
    key = _key(prefix, data, precision, fast)
    found = _shared.pop(key, None) if key else None
    if found is None:
        while len(_shared) > 1 and free_bytes() / 2 < MAX_CACHE_BYTES:  # the newest may be this run's other set
            del _shared[next(iter(_shared))]
        most = min(MAX_CACHE_BYTES, free_bytes() / 2)
        found = forward_all(prefix, data, precision, most, batch_size=batch_size, fast=fast)
        if found is None:
            print("the outputs of the frozen layers do not fit in memory; they are computed again in each epoch")
            return None
    if key:  # in the order of their last use
        _shared[key] = found
        # keeps the two sets of this run
        while len(_shared) > 2 and sum(tensor.nbytes for tensor, _ in _shared.values()) > MAX_CACHE_BYTES:
            del _shared[next(iter(_shared))]
    return InMemoryDataset(*found, data.classes)


_shared: dict[tuple, tuple[Tensor, Tensor]] = {}


def without_frozen_prefix(
    model: nn.Module, train: Any, evaluation: Any, precision: str, batch_size: int, forced: bool, fast: bool
) -> tuple[nn.Module, Any, Any]:
    """The model without its frozen prefix, and both sets as the inputs of that part.

    All three are returned unchanged if there is no prefix to cut off. A data set that is read item by item, as random
    transforms need it, is cached only if this is `forced`.
    """
    if forced:
        parts: Any = split_as_asked(model, cast(train.first_inputs(4).to(device_of(model)), precision))
    else:
        parts = None if isinstance(train, UserDataset) or isinstance(evaluation, UserDataset) else split(model)
    if not parts or (cached_train := cached(parts[0], train, precision, batch_size, fast)) is None:
        return model, train, evaluation
    cached_evaluation = cached(parts[0], evaluation, precision, batch_size, fast)
    return (parts[1], cached_train, cached_evaluation) if cached_evaluation else (model, train, evaluation)


def _key(prefix: nn.Module, data: Any, precision: str, fast: bool) -> tuple | None:
    fingerprint = getattr(data, "fingerprint", None)
    if not isinstance(fingerprint, str):  # one of the report's own sets has one
        return None
    prefix.eval()
    with torch.no_grad(), arithmetic(precision, fast=fast):  # an edited `forward` has the same weights
        outputs = prefix(cast(data.first_inputs(4), precision))
    made_of = digest(prefix.state_dict() | {"": outputs.float()}), str(prefix), precision, fast
    return *made_of, fingerprint, data.size, data.memory_format, digest({"images": data.images})


def frozen_digests(model: nn.Module) -> set[tuple[str, str]]:
    """Name and sha256 of each parameter and buffer that training must not change.

    Leaves the model in the mode of `set_train_mode`.
    """
    set_train_mode(model)
    learned = {name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    modules = model.named_modules(remove_duplicate=False)
    moving = {name for prefix, m in modules if m.training for name, _ in m.named_buffers(prefix, recurse=False)}
    return {
        (key, digest({key: value}))
        for key, value in model.state_dict().items()
        if key not in learned | moving and isinstance(value, torch.Tensor)
    }
