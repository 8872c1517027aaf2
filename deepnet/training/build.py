"""The model that an experiment trains, with the weights that it starts from."""

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from deepnet.seeds import seed_everything
from experimentTable import CLASSES, Experiment, choose, experiment, identity
from myModel import CNN, MLP, MODELS, initialise, replace_head


def built(exp: Experiment, weights_of: Callable[[Experiment], dict]) -> nn.Module:
    """The experiment's model, with the weights that it starts from.

    `weights_of` gives the state dict of the experiment that it starts from, if it starts from one. Its last layer is
    new where the parent's has other classes or another dropout.
    """
    seed_everything(exp.seed, 0)
    if exp.start_from is None:
        model = MODELS[choose("model", exp.model, MODELS)](image_size=identity(exp)["image_size"])
        # The report's own networks are drawn with a head for ten classes; any other gets a new one, as ResNet-18 does
        # there.
        drawn_with_it = isinstance(model, MLP | CNN) and CLASSES[exp.dataset] == 10 and not exp.dropout
        model = model if drawn_with_it else replace_head(model, CLASSES[exp.dataset], exp.dropout)
        initialise(model, exp.initialisation)
        return model
    parent = experiment(exp.start_from, exp.profile, exp.seed)
    weights = weights_of(parent)
    model = built(replace(parent, start_from=None), weights_of)
    model.load_state_dict(weights)
    seed_everything(exp.seed, 0)
    same_head = CLASSES[parent.dataset] == CLASSES[exp.dataset] and parent.dropout == exp.dropout
    return model if same_head else replace_head(model, CLASSES[exp.dataset], exp.dropout)
