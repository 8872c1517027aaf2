"""The sets: which parts can be opened, their fingerprints and splits, and the batches that a set gives."""

import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from helpers import refused
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

from deepnet.data.sets import (
    COARSE_OF,
    NORMALISATION,
    SPLITS,
    cache_folder,
    known_fingerprint,
    load_images,
    load_test_set,
)
from deepnet.data.sources import SETS

ALL_PARTS = [(name, part) for name, parts in SPLITS.items() for part in parts]

# ---------------------------------------------------------------- what is opened


@pytest.mark.parametrize(("call", "message"), [
    (lambda: load_images("cifar100", "test", "sample"), "stays closed until the end; coreFunction.final_test(record)"),
    (lambda: load_images("mnist", "validation"), "unknown part of mnist 'validation'; choose train or test"),
    (lambda: load_images("cifar"), "unknown data set 'cifar'"),
    (lambda: load_images("mnist", profile="gpu"), "unknown profile 'gpu'"),
    *[(lambda size=size: load_images("mnist", size=size), f"got {size!r}")
      for size in (0, 2.5, True, "64")],
])  # fmt: skip
def test_what_cannot_be_opened(call, message):
    refused(call, message)


def test_fingerprints():
    """They differ between the sets, and between the complete ones and the sample."""
    prints = {
        (name, profile): known_fingerprint(name, profile) for name in SETS for profile in ("sample", "cpu", "paper")
    }
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in prints.values())
    assert len(set(prints.values())) == 6
    assert all(prints[name, "cpu"] == prints[name, "paper"] for name in SETS)


def test_training_set_needs_no_test_set(data_dir):
    for shard in (data_dir / "cifar100").glob("test-*"):
        shard.write_bytes(b"no parquet")
    assert len(load_images("cifar100", "train", "cpu")) == 300
    assert not list(cache_folder().glob("*test*"))
    refused(lambda: load_test_set("cpu"), "test-00000-of-00002.parquet cannot be read")


def test_split(data_dir, published):
    """It is stratified, and always the same."""
    train, evaluation = (load_images("cifar100", part, "cpu") for part in ("train", "validation"))
    assert train.labels.bincount().tolist() == [3] * 100 and evaluation.labels.bincount().tolist() == [1] * 100
    last = [np.flatnonzero(published["cifar100"]["train"][:, 0] == c)[-1] for c in range(100)]
    assert (evaluation.images.flatten(1).numpy() == published["cifar100"]["train"][np.sort(last), 1:]).all()


# ---------------------------------------------------------------- a set in memory


@pytest.mark.parametrize(("name", "part"), ALL_PARTS)
def test_map_style_data_set(name, part):
    data = load_images(name, part, size=36)
    image, label = data[3]
    inputs, labels = data.batch(torch.tensor([3, -1, 3]))
    assert inputs.shape == (3, SETS[name].shape[0], 36, 36) and inputs.dtype == torch.float32
    assert labels.dtype == torch.int64 and labels.tolist() == [label, int(data.labels[-1]), label]
    assert type(label) is int and torch.equal(image, inputs[0]) and torch.equal(inputs[1], data[-1][0])
    with pytest.raises(IndexError, match=f"{name} {part} has {len(data)} images"):
        data[len(data)]
    loaded, targets = next(iter(DataLoader(data, batch_size=4)))
    assert torch.equal(loaded, data.batch(torch.arange(4))[0]) and torch.equal(targets, data.labels[:4])


def test_subset_and_to():
    data = load_images("cifar100", "validation")
    some = data.subset(torch.tensor([5, 2]))
    assert len(some) == 2 and len(data) == 1000 and some.fingerprint == data.fingerprint
    assert torch.equal(some.images, data.images[[5, 2]])
    assert some.coarse_labels.tolist() == [COARSE_OF[label] for label in some.labels.tolist()]
    assert len(data.subset([1, 2, 3])) == 3 and len(data.subset(data.labels == 7)) == 10
    moved = data.to("meta")
    assert moved.images.device.type == moved.labels.device.type == moved.coarse_labels.device.type == "meta"
    with pytest.raises(FrozenInstanceError):
        data.size = 64


def test_batches_equal_those_of_torchvision():
    """Exactly at the native size, and resized where torch computes as Pillow does; else within one grey level."""
    has_pillows = torch.backends.cpu.get_cpu_capability().startswith("AVX")  # for three channels
    for name in SETS:
        for size in (SETS[name].shape[-1], 16, 64, 128):
            data = load_images(name, "train", size=size)
            pipeline = Compose([Resize((size, size)), ToTensor(), Normalize(*NORMALISATION[name])])
            some = torch.arange(0, len(data), len(data) // 16)
            pictures = [Image.fromarray(data.images[i].permute(1, 2, 0).squeeze(2).numpy()) for i in some]
            inputs, wanted = data.batch(some)[0], torch.stack([pipeline(each) for each in pictures])
            last = data.to("cpu", torch.channels_last).batch(some)[0]
            assert (
                last.equal(inputs) and last.is_contiguous(memory_format=torch.channels_last) and inputs.is_contiguous()
            )
            if size == data.images.shape[-1] or (has_pillows and data.images.shape[1] == 3):
                assert torch.equal(inputs, wanted)
            levels = (inputs - wanted).abs() * torch.tensor(NORMALISATION[name][1]).view(-1, 1, 1) * 255
            assert levels.max() < 1.001


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("size", [32, 64])
def test_batches_on_a_gpu(size):
    data = load_images("cifar10", size=size)
    some = torch.arange(0, 3000, 50)
    levels = (data.to("cuda").batch(some)[0].cpu() - data.batch(some)[0]).abs() * 0.2616 * 255
    assert levels.max() < (1.001 if size == 64 else 0.001)
