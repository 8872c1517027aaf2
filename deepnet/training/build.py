"""The model that an experiment trains, with its initial weights."""

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from deepnet.seeds import seed_everything
from experimentTable import CLASSES, Experiment, choose, experiment, identity
from myModel import CNN, MLP, MODELS, initialise, replace_head


def built(exp: Experiment, weights_of: Callable[[Experiment], dict]) -> nn.Module:
    """The experiment's model with its initial weights.

    `weights_of` returns the parent's state dict, if there is a parent. The last layer is new if the parent has other
    classes or another dropout.
    """
    seed_everything(exp.seed, 0)
    if exp.start_from is None:
        model = MODELS[choose("model", exp.model, MODELS)](image_size=identity(exp)["image_size"])
        # MLPs and CNNs already have a head for ten classes; replacing it would change the random numbers drawn.
        has_its_head = isinstance(model, MLP | CNN) and CLASSES[exp.dataset] == 10 and not exp.dropout
        model = model if has_its_head else replace_head(model, CLASSES[exp.dataset], exp.dropout)
        initialise(model, exp.initialisation)
        return model
    parent = experiment(exp.start_from, exp.profile, exp.seed)
    weights = weights_of(parent)
    model = built(replace(parent, start_from=None), weights_of)
    model.load_state_dict(weights)
    seed_everything(exp.seed, 0)
    same_head = CLASSES[parent.dataset] == CLASSES[exp.dataset] and parent.dropout == exp.dropout
    return model if same_head else replace_head(model, CLASSES[exp.dataset], exp.dropout)
