"""`diagnose` leaves everything as it was: the model, its gradients, hooks and modes, the data, the random state."""

import copy
import random
import threading

import numpy as np
import pytest
import torch
from helpers import digits, held, mlp, refused, same, state
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Subset

from utilityFunction import diagnose

QUICK = {"steps": 12, "cures": False}


def odd_model() -> nn.Sequential:
    """With buffers, a frozen layer, a part in evaluation mode, a gradient and hooks."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 16),
        nn.Linear(16, 10),
    )  # fmt: skip
    model[5].weight.requires_grad_(False)
    model[4].eval()
    model[1].weight.grad = torch.ones_like(model[1].weight)
    model.register_forward_hook(lambda *_: None)
    model[2].register_full_backward_hook(lambda *_: None)
    return model


class WholeNumbers(nn.Module):
    def forward(self, x):
        return x.long()


def hooks(model: nn.Module) -> list[int]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [len(getattr(module, kind)) for module in model.modules() for kind in kinds]


@pytest.mark.parametrize("cures", [False, True])
def test_model_and_random_state_are_as_they_were(cures):
    model = odd_model()
    before = state(model), hooks(model), [m.training for m in model.modules()]
    learns, gradient = [p.requires_grad for p in model.parameters()], model[1].weight.grad.clone()
    addresses = [p.data_ptr() for p in model.parameters()]
    generators = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    diagnose(model, digits(), steps=12, cures=cures, cure_steps=20, lr=1e-2)
    assert same(state(model), before[0])
    assert (hooks(model), [m.training for m in model.modules()]) == before[1:]
    assert [p.requires_grad for p in model.parameters()] == learns
    assert [p.data_ptr() for p in model.parameters()] == addresses
    assert torch.equal(model[1].weight.grad, gradient)
    assert [p.grad is None for p in model.parameters()].count(False) == 1
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert np.array_equal(np.random.get_state()[1], generators[1]) and random.getstate() == generators[2]


def test_an_optimizer_of_the_reader_s_own_takes_no_step():
    model = odd_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    found = diagnose(model, digits(), optimizer=optimizer, **QUICK)
    assert found.measurements.optimizer == "SGD" and found.measurements.options["momentum"] == 0.9
    assert not optimizer.state


def test_a_loader_s_generator_is_as_it_was():
    generator, other = torch.Generator().manual_seed(5), torch.Generator().manual_seed(6)
    loader = DataLoader(digits(), 16, sampler=RandomSampler(digits(), generator=other), generator=generator)
    before = generator.get_state(), other.get_state()
    diagnose(odd_model(), loader, **QUICK)
    assert torch.equal(generator.get_state(), before[0]) and torch.equal(other.get_state(), before[1])


def test_generators_of_samplers_and_data_sets_are_as_they_were():
    class Noisy(Dataset):
        def __init__(self):
            self.generators = [torch.Generator(), np.random.default_rng(0), np.random.RandomState(0), random.Random(0)]

        def __len__(self):
            return 64

        def __getitem__(self, index):
            a, b, c, d = self.generators
            noise = torch.rand((), generator=a) + b.random() + c.random() + d.random()
            return held()[index][0] + noise, held()[index][1]

    def draws():
        a, b, c, d = copy.deepcopy(data.generators)
        return torch.rand((), generator=a), b.random(), c.random(), d.random()

    data, other = Noisy(), torch.Generator().manual_seed(6)
    before = draws(), other.get_state()
    sampler = BatchSampler(RandomSampler(range(60), generator=other), 8, False)
    loader = DataLoader(Subset(data, range(60)), batch_sampler=sampler)
    diagnose(odd_model(), loader, **QUICK)
    assert draws() == before[0] and torch.equal(other.get_state(), before[1])


def test_a_model_that_cannot_be_copied_keeps_its_memory():
    model = odd_model()
    model.lock = threading.Lock()
    tensors = [*model.parameters(), *model.buffers()]
    before = state(model), [t.data_ptr() for t in tensors], [t._version for t in tensors]
    refused(lambda: diagnose(model, digits()), "cannot be copied")
    assert same(state(model), before[0])
    assert ([t.data_ptr() for t in tensors], [t._version for t in tensors]) == before[1:]


def test_random_transforms_draw_nothing_from_outside():
    class Noisy(Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, index):
            return held()[index][0] + torch.rand(1, 8, 8) + np.random.rand(), held()[index][1]

    before = torch.get_rng_state()
    diagnose(odd_model(), Noisy(), **QUICK)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_same_call_gives_the_same_findings():
    one, other = (diagnose(odd_model(), digits(), **QUICK) for _ in range(2))
    assert one.findings == other.findings and one.measurements.losses == other.measurements.losses


def test_what_is_refused_is_refused_in_one_line():
    model, data = odd_model(), digits()
    before = state(model)
    refused(lambda: diagnose(nn.Linear, data), "model must be a torch.nn.Module")
    refused(lambda: diagnose(nn.Linear(64, 10), data), "cannot take a batch of shape")
    refused(lambda: diagnose(nn.Conv2d(1, 4, 3), data), "it must give scores (N, classes)")
    counts = nn.Sequential(nn.Linear(8, 8), nn.Flatten(), WholeNumbers())
    refused(lambda: diagnose(counts, data), "(32, 64) of type torch.int64", "it must give scores (N, classes)")
    refused(lambda: diagnose(model, data, optimizer="Adan"), "unknown optimizer")
    refused(lambda: diagnose(model, data, optimizer="SGD", eps=1e-3), "SGD has no eps")
    refused(lambda: diagnose(model, data, optimizer=torch.optim.SGD(model.parameters()), lr=1.0), "lr and eps")
    refused(
        lambda: diagnose(model, data, optimizer=torch.optim.SGD(nn.Linear(2, 2).parameters())), "none of the model's"
    )
    refused(lambda: diagnose(model, data, optimizer=3), "optimizer must be a name")
    refused(lambda: diagnose(model, data, optimizer=torch.optim.LBFGS), "LBFGS cannot take a plain step")
    refused(lambda: diagnose(model, data, steps=3), "steps must be a whole number of at least 12")
    refused(lambda: diagnose(model, digits(0, 1)), "1 item")
    refused(lambda: diagnose(model, [(torch.zeros(64), 0.5)] * 20), "a regression")
    refused(lambda: diagnose(model, 7), "no length")
    bound, bound.forward = mlp(), model.forward
    refused(lambda: diagnose(bound, data), "make forward a method of the class")
    assert same(state(model), before)
