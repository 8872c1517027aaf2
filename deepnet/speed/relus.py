"""The same network with cheaper ReLUs: in place, and after max poolings."""

from torch import nn

from modelBlock import ResidualBlock
from myModel import CNN, MLP

CONTAINERS = (nn.Sequential, MLP, CNN)  # their forward runs the children in turn
# Modules whose output is a new tensor that their backward pass does not need, so that a ReLU may overwrite it
OVERWRITABLE = (nn.Linear, nn.Conv2d, nn.AdaptiveMaxPool2d, ResidualBlock)


def with_cheap_relus(model: nn.Module) -> nn.Module:
    """A faster network with bitwise the same outputs and gradients as an `MLP` or `CNN` of `myModel`.

    Its ReLUs work in place, and come after a max pooling instead of before it, where there are fewer numbers. It shares
    the model's layers, so that training it trains the model. Any other model, and one in which a module object has a
    hook or a `forward` of its own, is returned unchanged, since these could notice the difference.

    >>> model = MODELS["CNN_10"]()
    >>> with_cheap_relus(model)(images).equal(model(images))
    True
    """
    if type(model) not in (MLP, CNN) or any(map(is_altered, model.modules())):
        return model
    return _cheaper(model)


def is_altered(module: nn.Module) -> bool:
    """Whether this object itself, not its class, has hooks or a `forward`."""
    altering = ("forward", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(vars(module).get(name) for name in altering)


def _cheaper(model: nn.Module) -> nn.Sequential:
    modules = _in_order(model)
    for i in range(len(modules) - 1):
        if type(modules[i]) is nn.ReLU and type(modules[i + 1]) is nn.AdaptiveMaxPool2d:
            modules[i : i + 2] = modules[i + 1], modules[i]  # max and ReLU commute, and so do their gradients
    return nn.Sequential(
        *(
            nn.ReLU(inplace=True) if type(module) is nn.ReLU and type(previous) in OVERWRITABLE else module
            for previous, module in zip([None, *modules], modules, strict=False)
        )
    )


def _in_order(module: nn.Module) -> list[nn.Module]:
    """The modules that run in turn within this one, with a residual block's last ReLU separate from the block."""
    if isinstance(module, nn.Sequential) and type(module) in CONTAINERS:
        return [inner for child in module for inner in _in_order(child)]
    if isinstance(module, ResidualBlock) and type(module) is ResidualBlock:
        block = ResidualBlock(_cheaper(module.body), module.shortcut)
        block.set_submodule("relu", nn.Identity())
        return [block, module.relu]
    return [module]
