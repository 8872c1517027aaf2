"""Training speed beside other libraries: their loops, as their documentation writes them, on the benchmark's work.

All train the same model from the same weights on the same images, in fp32, with Adam, the same batch size and, where
the experiment records them, one gradient norm per parameter tensor and step. Each has a process of its own, and they
take turns. A peer that is not installed, or that fails, is left out, and the table's caption says why.

Like the plain recipe, Lightning, skorch and torch.compile read PIL images through a DataLoader with workers. timm's
loader is its own. JAX has the images in memory as bytes of the models' size, which are normalized in the step. What is
timed are steps in the steady state; what comes before is the warm-up.
"""

import logging
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from itertools import chain, islice, repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.transforms.v2.functional import resize

from benchmarks.recipes import WORKERS, Ours, Plain
from benchmarks.timing import MOST_STEPS, ROWS, machine, plain_process, repeated_ratios, step_seconds, timed_images
from deepnet.data.datasets import epoch_batches
from deepnet.data.sets import NORMALISATION, ImageSet
from deepnet.records.files import first_line
from deepnet.records.provenance import provenance
from deepnet.speed.memory import kept_memory
from experimentTable import Experiment, UsageError, experiment, identity

Steps = Callable[[int], float]  # takes so many steps, more or fewer; gives the seconds per step

MODELS = ("MLP_4", "MLP_13", "MLP_33", "CNN_10", "CNN_13", "resnet18")
PACKAGES = ("lightning", "skorch", "timm", "jax", "optax")


# ---------------------------------------------------------------- one function per contender


def ours(exp: Experiment, data: ImageSet) -> Steps:
    """This package, in fp32."""
    recipe = Ours(exp, data)
    return kept_memory()(lambda steps: step_seconds(recipe, steps))


def plain(exp: Experiment, data: ImageSet) -> Steps:
    """The plain PyTorch recipe."""
    return in_loop(Plain(exp, data))


def compiled(exp: Experiment, data: ImageSet) -> Steps:
    """The plain recipe whose forward pass and loss are compiled, and with them the backward pass."""
    recipe = Plain(exp, data)
    recipe.loss = torch.compile(recipe.loss)  # type: ignore[method-assign]
    return in_loop(recipe)


def lightning(exp: Experiment, data: ImageSet) -> Steps:
    """A LightningModule and a Trainer; what would only write to disk or screen is off."""
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.utilities import grad_norm

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    recipe = Plain(exp, data)

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = recipe.model

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            inputs, labels = batch
            loss = cross_entropy(self.model(inputs), labels)
            self.log("train_loss", loss)
            return loss

        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            if exp.record_gradients:
                self.log_dict(grad_norm(self, norm_type=2))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return recipe.optimizer

    module, shown = Module(), ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")

    def fit(batches: Iterable) -> None:
        trainer: Any = Trainer(accelerator="cpu", devices=1, max_epochs=1, **dict.fromkeys(shown, False))
        trainer.fit(module, batches)

    return in_loop(recipe, fit)


def skorch(exp: Experiment, data: ImageSet) -> Steps:
    """A NeuralNetClassifier without a validation set, and a callback that takes the norms."""
    from skorch import NeuralNetClassifier
    from skorch.callbacks import Callback

    recipe = Plain(exp, data)

    class Norms(Callback):
        def on_grad_computed(self, net: Any, named_parameters: Iterable[tuple[str, Tensor]], **_: Any) -> None:
            self.norms = {name: p.grad.norm().item() for name, p in named_parameters if p.grad is not None}

    net = NeuralNetClassifier(
        recipe.model, criterion=nn.CrossEntropyLoss, optimizer=torch.optim.Adam, lr=exp.lr, max_epochs=1,
        batch_size=exp.batch_size, train_split=None, verbose=0, callbacks=[Norms] if exp.record_gradients else None,
    )  # fmt: skip
    net.initialize()

    def fit(batches: Iterable) -> None:
        net.iterator_train = lambda dataset, **_: batches
        net.partial_fit(recipe.source)

    return in_loop(recipe, fit)


def timm(exp: Experiment, data: ImageSet) -> Steps:
    """The parts of timm's train.py: its loader, which normalizes whole batches, its Adam and its meter of the loss."""
    from timm.data import create_loader
    from timm.optim import create_optimizer_v2
    from timm.utils import AverageMeter

    if exp.record_gradients:
        raise UsageError("timm's loop takes no gradient norms")
    mean, deviation = NORMALISATION[data.name]
    recipe = Plain(exp, data)
    source: Any = recipe.source  # which timm takes, as it takes any data set
    loader = create_loader(
        source, (3, data.size, data.size), exp.batch_size, is_training=True, no_aug=True,
        mean=mean, std=deviation, num_workers=WORKERS, device=torch.device("cpu"),
    )  # fmt: skip
    recipe.batches = lambda order: islice(chain.from_iterable(repeat(loader)), len(order))  # type: ignore
    optimizer, loss_of = create_optimizer_v2(recipe.model, "adam", exp.lr, weight_decay=0.0), nn.CrossEntropyLoss()

    def fit(batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        recipe.model.train()
        losses = AverageMeter()
        for inputs, labels in batches:
            loss = loss_of(recipe.model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(inputs))

    return in_loop(recipe, fit)


def jax(exp: Experiment, data: ImageSet) -> Steps:
    """JAX and Optax: an epoch is a scan over shuffled batches under one jit, a CNN's a loop over jitted steps.

    XLA takes many times as long for the gradients of a convolution within a scan on a CPU (20 times, JAX 0.10.2).
    """
    threads, cores = torch.get_num_threads(), sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:threads])  # XLA takes all cores that it may
    import jax
    import jax.numpy as jnp
    import optax

    parameters, forward = jax_model(Plain(exp, data, workers=0).model)
    mean, deviation = (np.array(numbers, np.float32).reshape(-1, 1, 1) for numbers in NORMALISATION[data.name])
    images = jnp.asarray(resize(data.images, [data.size, data.size], antialias=True).numpy())
    labels = jnp.asarray(data.labels.numpy())
    optimizer = optax.adam(exp.lr)

    def loss_of(parameters: Any, inputs: Any, labels: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(forward(parameters, inputs), labels).mean()

    def step(state: Any, images: Any, labels: Any, indices: Any) -> Any:
        parameters, moments = state
        inputs = (images[indices].astype(jnp.float32) / 255 - mean) / deviation
        loss, gradients = jax.value_and_grad(loss_of)(parameters, inputs, labels[indices])
        norms = [jnp.linalg.norm(g.ravel()) for g in jax.tree.leaves(gradients)] if exp.record_gradients else []
        updates, moments = optimizer.update(gradients, moments)
        return (optax.apply_updates(parameters, updates), moments), (loss, norms)

    convolves = any(getattr(leaf, "ndim", 0) == 4 for leaf in jax.tree.leaves(parameters))
    one_step = jax.jit(step, donate_argnums=0)
    whole_epoch = jax.jit(
        lambda state, images, labels, order: jax.lax.scan(
            lambda state, indices: step(state, images, labels, indices), state, order
        ),
        donate_argnums=0,
    )
    state, generator = (parameters, optimizer.init(parameters)), torch.Generator().manual_seed(0)

    def train(steps: int) -> float:
        nonlocal state
        taken, start = 0, time.perf_counter()
        while taken < steps:
            order = torch.stack(epoch_batches(len(data), exp.batch_size, generator)).numpy()
            if convolves:
                order, measured = order[: steps - taken], []
                for indices in order:
                    state, found = one_step(state, images, labels, indices)
                    measured.append(found)
            else:
                state, measured = whole_epoch(state, images, labels, order)
            jax.device_get(measured)
            taken += len(order)
        return (time.perf_counter() - start) / taken

    return train


def jax_model(model: nn.Module) -> tuple[list, Callable[[list, Any], Any]]:
    """A chain of torch layers in JAX: its parameters, and the function from them and images (N, C, H, W) to outputs."""
    import jax
    import jax.numpy as jnp

    def pool(layer: nn.Module, x: Any) -> Any:
        side = int(layer.output_size)  # type: ignore[arg-type]
        windows = (side, x.shape[2] // side, side, x.shape[3] // side)  # all of one size, at the profiles' image sizes
        return x.reshape(*x.shape[:2], *windows).max((3, 5))  # on a CPU faster than reduce_window

    def convolve(layer: nn.Module, x: Any, weight: Any, bias: Any) -> Any:
        return jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME") + bias[:, None, None]

    operations: dict[type, Callable] = {
        nn.Linear: lambda layer, x, weight, bias: x @ weight.T + bias,
        nn.Conv2d: convolve,
        nn.ReLU: lambda layer, x: jax.nn.relu(x),
        nn.Flatten: lambda layer, x: x.reshape(len(x), -1),
        nn.AdaptiveMaxPool2d: pool,
    }
    layers = [module for module in model.modules() if not any(True for _ in module.children())]

    def forward(parameters: list, x: Any) -> Any:
        for layer, own in zip(layers, parameters, strict=True):
            x = operations[type(layer)](layer, x, *own)
        return x

    return [[jnp.array(p.detach().numpy()) for p in layer.parameters()] for layer in layers], forward


CONTENDERS: dict[str, Callable[[Experiment, ImageSet], Steps]] = {
    "ours": ours, "plain": plain, "torch.compile": compiled,
    "Lightning": lightning, "skorch": skorch, "timm": timm, "JAX": jax,
}  # fmt: skip
PEERS = [name for name in CONTENDERS if name != "ours"]
ROWS_OF = {"timm": ("resnet18",), "JAX": ("MLP_4", "MLP_13", "MLP_33", "CNN_10", "CNN_13")}  # the others have all


# ---------------------------------------------------------------- measuring


class Batches:
    """`count` batches, and the times at which they were asked for."""

    def __init__(self, batches: Iterator, count: int) -> None:
        self.batches, self.count, self.asked = batches, count, list[float]()

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator:
        for _ in range(self.count):
            self.asked.append(time.perf_counter())
            yield next(self.batches)


def in_loop(recipe: Plain, fit: Callable[[Iterable], object] | None = None) -> Steps:
    """The steps that `fit` (default: the recipe's own loop) takes on the recipe's batches.

    As in `step_seconds`, batches that workers have prepared are thrown away. A step lasts from the moment when a batch
    is asked for until the next one is. The first and the last do not count.
    """

    def steps_in(steps: int) -> float:
        count = steps + 2
        order = epoch_batches(
            len(recipe.source), recipe.exp.batch_size, torch.Generator().manual_seed(0), count + 2 * recipe.ahead
        )
        batches = recipe.batches(order)
        for _ in islice(batches, recipe.ahead):
            pass
        timed = Batches(batches, count)
        (fit or recipe.train)(timed)
        return (timed.asked[-1] - timed.asked[1]) / steps

    return steps_in


_steps: Steps  # in a contender's process: what is timed


def prepare(name: str, exp: Experiment) -> float:
    """Within a contender's process: set it up, and take its first steps; the seconds that this took."""
    global _steps
    data, start = timed_images(exp), time.perf_counter()
    _steps = CONTENDERS[name](exp, data)
    _steps(1)
    return time.perf_counter() - start


def seconds_per_step(steps: int) -> float:
    """Within a contender's process: take so many steps."""
    return _steps(steps)


def measure(
    name: str, profile: str, processes: dict[str, Executor], repeats: int, seconds: float, batch_size: int | None = None
) -> dict:
    """One row of the table: the contenders in turn, `repeats` blocks of about `seconds` each (0: three steps).

    processes: one for each contender. batch_size: None is the experiment's own.
    """
    exp = experiment(ROWS.get(name, name), profile)
    exp = replace(exp, batch_size=batch_size or exp.batch_size)
    warm_up: dict[str, float] = {}
    failed: dict[str, str] = {}
    for contender in (c for c in processes if name in ROWS_OF.get(c, MODELS)):
        try:
            warm_up[contender] = processes[contender].submit(prepare, contender, exp).result()
        except Exception as error:  # not installed, or whatever else a library raises
            failed[contender] = first_line(error)
    if "ours" in failed:
        raise UsageError(f"{name}: {failed['ours']}")

    def timed(contender: str, steps: int) -> float:
        return processes[contender].submit(seconds_per_step, steps).result()

    steps = {c: min(max(round(seconds / timed(c, 2)), 1), MOST_STEPS) if seconds else 3 for c in warm_up}
    speeds: dict[str, list[float]] = {contender: [] for contender in warm_up}
    for _ in range(repeats):
        for contender in speeds:
            speeds[contender].append(exp.batch_size / timed(contender, steps[contender]))
    return {
        "name": name, "image_size": identity(exp)["image_size"], "batch_size": exp.batch_size,
        "gradient_norms": exp.record_gradients, "repeats": speeds, "warm_up": warm_up, "failed": failed,
    }  # fmt: skip


def run(profile: str, repeats: int, seconds: float, batch_size: int | None = None) -> dict:
    """Measure all rows, each printed when it is there."""
    made = provenance("fp32") | {"date": time.strftime("%Y-%m-%d"), "workers": WORKERS, "repeats": repeats}
    rows = []
    print(HEADER)
    with ExitStack() as stack:
        processes: dict[str, Executor] = {
            # a cache of compiled code would make the warm-up depend on earlier runs
            contender: stack.enter_context(
                plain_process(
                    THP_MEM_ALLOC_ENABLE=str(int(contender == "ours")), TORCHINDUCTOR_FORCE_DISABLE_CACHES="1"
                )
            )
            for contender in CONTENDERS
        }
        for name in MODELS:
            rows.append(measure(name, profile, processes, repeats, seconds, batch_size))
            print(line(rows[-1]), flush=True)
    result = {"machine": machine(), "profile": profile, "rows": rows, "provenance": made, "versions": versions()}
    print(f"\n{caption(result)}")
    return result


def versions() -> dict[str, str]:
    """The versions of the peers' packages that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except ModuleNotFoundError:
            continue
    return found


# ---------------------------------------------------------------- the table

HEADER = (
    f"| | pixels | ours | {' | '.join(f'/ {peer}' for peer in PEERS)} | warm-up |\n"
    f"|---|---:|---:|{'---:|' * len(PEERS)}---|"
)


def line(entry: dict) -> str:
    """A row of the table, in Markdown."""
    speeds = entry["repeats"]
    warm_up = ", ".join(f"{c} {entry['warm_up'][c]:.0f}" for c in ("torch.compile", "JAX") if c in entry["warm_up"])
    cells = [entry["name"], entry["image_size"], f"{statistics.median(speeds['ours']):,.0f}"]
    return f"| {' | '.join(map(str, [*cells, *(ratio(speeds, peer) for peer in PEERS), warm_up]))} |"


def ratio(speeds: dict[str, list[float]], peer: str) -> str:
    """Ours to the peer's speed: that of the medians, and the range over the repeats."""
    if peer not in speeds:
        return "–"
    ratios = repeated_ratios(speeds, "ours", peer)
    whole = statistics.median(speeds["ours"]) / statistics.median(speeds[peer])
    return f"{whole:.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def caption(result: dict) -> str:
    """What a result was measured on and with, and which peers were left out."""
    made, rows = result["provenance"], result["rows"]
    packages = ", ".join(f"{package} {number}" for package, number in result["versions"].items())
    reasons = {f"{peer}: {reason}" for row in rows for peer, reason in row["failed"].items()}
    return (
        f"Training images a second in fp32 on {result['machine']}, threads {made['threads']}, "
        f"workers {made['workers']}, batch {rows[0]['batch_size']}, torch {made['torch']}, {packages}, "
        f"commit {str(made['commit'])[:7]}, {made['date']}; ours, and ours divided by each peer's: medians of "
        f"{made['repeats']} alternating repeats, and the ratios' range; warm-up in seconds."
    ) + "".join(f" Left out is {reason}." for reason in sorted(reasons))


def markdown(result: dict) -> str:
    """The table of a result, and what it was measured on."""
    return "\n".join([HEADER, *map(line, result["rows"]), "", caption(result)])
