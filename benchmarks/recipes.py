"""The two recipes that the benchmark times: the plain one, as one writes it by hand, and this package's.

Plain: PIL images through torchvision's transforms one by one, a DataLoader with workers, fp32 (on a GPU with torch's
default of TF32 in convolutions), contiguous memory, torch's default optimizer, `loss.item()` in each step,
`grad.norm().item()` for each parameter where norms are recorded, and every layer in each forward pass, frozen or not.
It is timed in a process of its own, whose memory is left to the system. Ours: the functions of `coreFunction`.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from multiprocessing import get_all_start_methods
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

from coreFunction import build
from deepnet.data.datasets import InMemoryDataset
from deepnet.data.sets import NORMALISATION, ImageSet
from deepnet.machine import device
from deepnet.speed.layout import fast_layout
from deepnet.training.features import forward_all
from deepnet.training.frozen_prefix import split
from deepnet.training.metrics import GradientNorms
from deepnet.training.optimizers import make_optimizer
from deepnet.training.recipe import EVAL_BATCH_SIZE
from deepnet.training.steps import train_epoch
from experimentTable import Experiment
from myModel import train_only

WORKERS = min(8, os.cpu_count() or 1)


# ---------------------------------------------------------------- the plain recipe


class PlainSet(Dataset):
    """Images as torchvision's own data sets give them: PIL images, each transformed when it is read."""

    def __init__(self, data: ImageSet) -> None:
        self.images = data.images.permute(0, 2, 3, 1).squeeze(-1).contiguous().numpy()
        self.labels = data.labels.tolist()
        self.transform = Compose([Resize((data.size, data.size)), ToTensor(), Normalize(*NORMALISATION[data.name])])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class Plain:
    """The plain recipe of an experiment, from its initial weights on."""

    def __init__(self, exp: Experiment, data: ImageSet, workers: int = WORKERS) -> None:
        self.exp, self.source, self.workers = exp, PlainSet(data), workers
        self.model = _initial_model(exp).to(device())
        train_only(self.model, exp.trainable)
        self.optimizer = getattr(torch.optim, exp.optimizer)(self.model.parameters(), lr=exp.lr)
        self.ahead = 2 * workers  # batches that workers have ready before they are asked for

    def batches(self, order: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels of each batch of indices."""
        # As workers start by default; in a spawned process they would be spawned too, which takes seconds each.
        start = get_all_start_methods()[0] if self.workers else None
        sampler = [indices.tolist() for indices in order]
        return iter(
            DataLoader(self.source, batch_sampler=sampler, num_workers=self.workers, multiprocessing_context=start)
        )

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch."""
        return cross_entropy(self.model(inputs), labels)

    @torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=True)  # torch's defaults
    def train(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict:
        """Train on the batches; the mean loss and, where recorded, the report's gradient norm."""
        self.model.train()
        loss_sum = norm_sum = 0.0
        images = 0
        for inputs, labels in batches:
            inputs, labels = inputs.to(device()), labels.to(device())
            self.optimizer.zero_grad()
            loss = self.loss(inputs, labels)
            loss.backward()
            if self.exp.record_gradients:
                for parameter in self.model.parameters():
                    if parameter.grad is not None:
                        norm_sum += parameter.grad.norm().item()
            self.optimizer.step()
            loss_sum += loss.item() * len(labels)
            images += len(labels)
        return {"train_loss": loss_sum / images} | (
            {"gradient_norm_sum": norm_sum} if self.exp.record_gradients else {}
        )


# ---------------------------------------------------------------- ours


class Ours:
    """What a run does with the experiment, from the same initial weights on."""

    ahead = 0

    def __init__(self, exp: Experiment, data: ImageSet, precision: str = "fp32") -> None:
        self.exp, self.precision = exp, precision
        self.model = _initial_model(exp).to(device())
        layout = fast_layout(self.model, data.first_inputs(2))
        self.model.to(memory_format=layout)
        self.source: Any = data.to(device(), layout)
        train_only(self.model, exp.trainable)
        self.prefix: Any = None
        if parts := split(self.model):
            self.prefix, self.model = parts
            # The first batches of one chunk stand for the whole set: how long a step takes does not depend on the
            # images.
            few = min(len(data), EVAL_BATCH_SIZE) // exp.batch_size * exp.batch_size
            self.uncached = self.source.subset(range(few))
            self.source = InMemoryDataset(self.make_cache(), self.uncached.labels, self.uncached.classes)
        self.optimizer = make_optimizer(exp, self.model, graph=True)
        self.gradients = GradientNorms(self.model) if exp.record_gradients else None

    def make_cache(self) -> Tensor:
        """The frozen prefix's outputs for one chunk of images."""
        found: Any = forward_all(self.prefix, self.uncached, self.precision)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return found[0]

    def batches(self, order: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels of each batch of indices."""
        return map(self.source.batch, order)

    def train(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict:
        """Train on the batches; train_epoch's row."""
        return train_epoch(self.model, batches, self.optimizer, self.precision, self.gradients, graph=True, fast=True)

    def operations(self) -> float:
        """Floating-point operations per image in training, as torch counts them: two per multiply-add.

        Three times the forward pass, less the gradients of the images or of a cache, and the prefix's share. Products
        with padding are counted, though a convolution in fp32 may leave them out.
        """
        step = operations(self.model, *self.source.batch(torch.arange(2)))
        return step + (
            operations(self.prefix, *self.uncached.batch(torch.arange(2))) / self.exp.epochs if self.prefix else 0
        )


def _initial_model(exp: Experiment) -> nn.Module:
    """The experiment's model with its seed's weights, even where it starts from a parent's, which train as fast."""
    return build(replace(exp, start_from=None))


def operations(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Floating-point operations per image of the forward pass and, where anything learns, of the backward pass."""
    with FlopCounterMode(display=False) as counter:
        outputs = model(inputs)
        if outputs.requires_grad:
            cross_entropy(outputs, labels).backward()
    return counter.get_total_flops() / len(inputs)
