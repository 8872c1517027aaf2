"""What several test files build on: small real data, small models, small runs of the table's rows, and how a refusal is
asserted.
"""

import functools
import json
import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import coreFunction
from deepnet.analyses import final_test, kinds
from deepnet.data.sets import load_images, load_test_set
from deepnet.records.files import sha256
from deepnet.records.reading import Record
from deepnet.runs import single
from experimentTable import PROFILES, UsageError

ROOT = Path(__file__).resolve().parent.parent
QUICK = {"lr": 1e-2, "epochs": 3, "batch_size": 32}  # of a `pipeline`
TRAININGS = [
    "MLP_4", "MLP_res_5", "CNN_10", "CNN_res_16", "train_resnet", "fine_tune_1", "fine_tune_2", "early_stopping",
    "dropout",
]  # fmt: skip
ANALYSES = ["distribution", "tsne_mnist", "tsne_cifar100", "timing_3", "baseline"]
needs_fork = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods() or torch.cuda.is_available() or torch.get_num_threads() > 1,
    reason="neither CUDA nor torch's threads can be used after a fork",
)


# ---------------------------------------------------------------- data and models


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    return torch.tensor(found.images, dtype=torch.float32)[:, None] / 16, torch.tensor(found.target)


def digits(first: int = 0, last: int = 200, label: Callable[[Tensor], Tensor] = lambda y: y) -> TensorDataset:
    """scikit-learn's handwritten digits `first` to `last`: images (1, 8, 8) in [0, 1] and labels."""
    images, labels = _digits()
    return TensorDataset(images[first:last], label(labels[first:last]))


def held() -> TensorDataset:
    """100 digits that `digits()` leaves out."""
    return digits(300, 400)


class Listed(Dataset):
    """Any list of (image, label) pairs as a data set."""

    def __init__(self, items: list) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def mlp(seed: int = 0, outputs: int = 10) -> nn.Sequential:
    """A small model for the digits, children "0" to "3"; the same weights for the same seed."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, outputs))


def normed(seed: int = 0) -> nn.Sequential:
    """A small convolutional model for the digits with batch normalization in child "1"."""
    torch.manual_seed(seed)
    convolution = nn.Conv2d(1, 4, 3, padding=1)
    return nn.Sequential(
        convolution, nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10)
    )


def state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's weights and buffers."""
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two state dicts are equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# ---------------------------------------------------------------- runs


def untimed(rows: list[dict]) -> list[dict]:
    """Rows without what differs from run to run."""
    return [{key: value for key, value in row.items() if key != "train_seconds"} for row in rows]


def raising(error: BaseException | type[BaseException]) -> Callable[..., Any]:
    """In place of any function: raises this error."""

    def call(*_: object, **__: object) -> None:
        raise error

    return call


interrupt = raising(KeyboardInterrupt)  # Ctrl-C


@contextmanager
def cut_off(evaluations: int) -> Iterator[None]:
    """Ctrl-C after this many evaluations, one per epoch from epoch 0 on; each of these epochs has left a checkpoint."""
    calls, real = count(), coreFunction.evaluate
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setenv("CHECKPOINT_SECONDS", "0")
        patch.setattr(
            coreFunction, "evaluate", lambda *a, **k: interrupt() if next(calls) == evaluations else real(*a, **k)
        )
        yield


@contextmanager
def tiny_sample(images: int = 16) -> Iterator[None]:
    """The sample profile cut down: a run is two rows of one step each, on the first images of each part; the analyses
    get 50.
    """
    sample = PROFILES["sample"]
    budgets = {family: (2, 2) if steps else (0, 0) for family, (steps, _) in sample.budgets.items()}
    few = lambda *arguments: load_images(*arguments).subset(range(images))  # noqa: E731
    fifty = lambda load: lambda *arguments: load(*arguments).subset(range(50))  # noqa: E731  which t-SNE's 50 dimensions need
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            PROFILES, "sample", replace(sample, budgets=budgets, tsne_images=50, timing_blocks=(2, 1), search_trials=2)
        )
        patch.setattr(single, "load_images", few)
        patch.setattr(kinds, "load_images", fifty(load_images))
        patch.setattr(final_test, "load_test_set", fifty(load_test_set))
        yield


def found(made: Path, name: str) -> Record:
    """The record of a run among those that the fixture `made` holds."""
    return Record(made / "sample" / name / "seed-0")


def lend(made: Path, runs_dir: Path, *names: str) -> None:
    """Copy made records to the test's own folder."""
    for name in names:
        shutil.copytree(made / "sample" / name, runs_dir / "sample" / name)


def refused(action: Callable[[], object], *words: str) -> str:
    """The message of the UsageError that `action` ends in: one line, with all these words in it."""
    with pytest.raises(UsageError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    return message


def python(code: str, *arguments: Any, **options: Any) -> subprocess.CompletedProcess:
    """Run `code` in a new Python process, started in the project's root with the test's environment."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, **options)


def edit(folder: Path, file: str, part: str = "", **values: object) -> None:
    """Change values of a record's settings or result, or of a part of them, and update the hash of its settings."""
    path = folder / file
    content = json.loads(path.read_text())
    (content[part] if part else content).update(values)
    path.write_text(json.dumps(content))
    if file == "settings.json":
        edit(folder, "result.json", "sha256", **{file: sha256(path)})
