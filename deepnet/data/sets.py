"""The report's three data sets: decoded once, checked, split, normalized and kept in memory.

A set is identified by the fingerprint of its decoded pixels and labels, so every source gives the same images in the
same order, whatever its encoding. The sources are tried in this order: DATA_DIR, the cache of decoded sets, the Hugging
Face hub, torchvision. The profile `sample` reads only the embedded sample, whose decoded form is cached too.
"""

import functools
import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from deepnet.data.datasets import BatchSource
from deepnet.data.sources import SAMPLE, SETS, LocalCopy, fetch, in_data_dir, in_folder
from deepnet.records.files import WriteError, atomic, first_line
from deepnet.valid import whole
from experimentTable import CLASSES, PROFILES, PROJECT, Experiment, UsageError, choose, identity

# ---------------------------------------------------------------- the literals

# The parts that load_images opens. Only load_test_set opens CIFAR-100's test part.
SPLITS = {"mnist": ("train", "test"), "cifar10": ("train", "test"), "cifar100": ("train", "validation")}
VALIDATION = {"complete": 5_000, "sample": 1_000}  # images of CIFAR-100's train part, equally many per class

NORMALISATION = {  # mean and standard deviation of each channel of the complete training sets, pixels in [0, 1]
    "mnist": ((0.1307,), (0.3081,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}

FINGERPRINTS = {  # of each published part: its number of images, and the sha256 of its rows in canonical order
    ("mnist", "complete"): {
        "train": (60_000, "2d3ae56a224f4c3d203242167559c58ff5ead331c462b3357c445d2a8085c510"),
        "test": (10_000, "4779fe42e54a7d904d79fcd826e655d5c2a219a5f1daf0f9ee745a50a6d8825f"),
    },
    ("cifar10", "complete"): {
        "train": (50_000, "1c84844c3a56714e49c66d84ea9fda393837c4a61a22831ec67dd29b3e6b7890"),
        "test": (10_000, "6f2e22fa244c2ab8575eabe2ac6d17c679a5861fcaeb63d73af2228a5662588c"),
    },
    ("cifar100", "complete"): {
        "train": (50_000, "ab461e82ed331e70c757ffbd596f71b7be7c1345902cfd95c245b742b1c3c2d5"),
        "test": (10_000, "d53c971a11b01e78da2f607024ad37cb40ad250522fdf77c30c7290212be1f24"),
    },
    ("mnist", "sample"): {
        "train": (4_000, "acf5a8789b559c2d26a83cb12e404e744e6a5b595ae55f0846cb356d49c4dfff"),
        "test": (1_000, "fdbd49ccfa03e356d4eebdf1a5abe771fb9abd9b9d504ad4c38a850ed46eefbc"),
    },
    ("cifar10", "sample"): {
        "train": (3_000, "0916878a4d508c973d02606d46d023423ed6c39210c085dff04823dc78a19cdd"),
        "test": (1_000, "595bda752fc18c1b372ed94995d7aeba62a22496571bb0374f9a7b5d3a0912df"),
    },
    ("cifar100", "sample"): {
        "train": (5_000, "694a76ec35b86c9bb8006d162c59aca9d0d809f96c6a277d94ac3652dac8592a"),
        "test": (500, "5d159c90ea6e97d17be2031badcd0a7505b9058486eefa32504a064f8aa46e19"),
    },
}

CLASS_NAMES = {
    "mnist": tuple("0123456789"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "cifar100": (
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
        "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
        "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
        "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
        "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
        "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
        "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
        "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
        "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
        "willow_tree", "wolf", "woman", "worm",
    ),
}  # fmt: skip
COARSE_NAMES = (
    "aquatic_mammals", "fish", "flowers", "food_containers", "fruit_and_vegetables", "household_electrical_devices",
    "household_furniture", "insects", "large_carnivores", "large_man-made_outdoor_things",
    "large_natural_outdoor_scenes", "large_omnivores_and_herbivores", "medium_mammals", "non-insect_invertebrates",
    "people", "reptiles", "small_mammals", "trees", "vehicles_1", "vehicles_2",
)  # fmt: skip
COARSE_OF = (  # the superclass of each of CIFAR-100's classes
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7,
    6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10,
    16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16,
    12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
)  # fmt: skip


# ---------------------------------------------------------------- a set in memory


@dataclass(frozen=True)
class ImageSet(BatchSource):
    """One part of one set, in memory: a map-style data set of (image, label) pairs, read faster by `batch`.

    Example::

        load_images("cifar10", "train", "sample").batch(torch.arange(4))[0].shape  # (4, 3, 32, 32)
    """

    name: str
    part: str
    images: Tensor  # uint8 (N, C, H, W), native size
    labels: Tensor  # int64 (N,)
    classes: tuple[str, ...]
    fingerprint: str  # of the set that this part is cut from
    size: int  # height and width that a model sees, in pixels
    memory_format: torch.memory_format = torch.contiguous_format  # of the batches

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image, float32 (C, size, size), normalized, and its label."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name} {self.part} has {len(self)} images, asked for number {index}")
        inputs, labels = self.batch(torch.tensor([index % len(self)]))
        return inputs[0], int(labels[0])

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Resized and normalized images, float32 (B, C, size, size), and int64 labels (B,) at `indices` (B,).

        Images are resized as 8-bit images, as by torchvision's Resize before ToTensor. The result equals torchvision's
        exactly for colour images on an x86 processor with AVX2, and within one grey level elsewhere.
        """
        # a blocking copy would synchronize with the device in every batch
        indices = indices.to(self.images.device, non_blocking=True)
        images = self.images[indices].contiguous(memory_format=self.memory_format)
        if images.shape[-1] != self.size:
            images = resize(images, [self.size, self.size], antialias=True)
        mean, deviation = _normalization(self.name, self.size, self.memory_format, images.device)
        return images.float().div_(255).sub_(mean).div_(deviation), self.labels[indices]

    @property
    def coarse_labels(self) -> Tensor | None:
        """The superclass of each image, int64 (N,) indices into COARSE_NAMES; None unless this is CIFAR-100."""
        return torch.tensor(COARSE_OF, device=self.labels.device)[self.labels] if self.coarse_classes else None

    @property
    def coarse_classes(self) -> tuple[str, ...]:
        """The names of the superclasses; empty unless this is CIFAR-100."""
        return COARSE_NAMES if self.name == "cifar100" else ()

    def subset(self, indices: Tensor | Sequence[int]) -> "ImageSet":
        """The images at `indices`, in that order."""
        indices = torch.as_tensor(indices, device=self.images.device)
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def to(self, device: torch.device | str, memory_format: torch.memory_format | None = None) -> "ImageSet":
        """The same set on `device`, with batches in `memory_format`; channels-last images are resized faster."""
        images, labels = self.images.to(device), self.labels.to(device)
        return replace(self, images=images, labels=labels, memory_format=memory_format or self.memory_format)


@functools.cache
def _normalization(name: str, size: int, layout: torch.memory_format, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of `name` (1, C, size, size), expanded and in the batches' layout for speed."""
    channels = torch.tensor(NORMALISATION[name], device=device)[:, None, :, None, None]
    mean, deviation = (each.expand(-1, -1, size, size).contiguous(memory_format=layout) for each in channels)
    return mean, deviation


# ---------------------------------------------------------------- opening a set


def load_images(name: str, part: str = "train", profile: str = "sample", size: int | None = None) -> ImageSet:
    """Open part `part` of set `name` of `profile`, for models whose inputs are size x size pixels (None: native).

    Raises UsageError for an unknown name, part or profile, for CIFAR-100's test part, and for a set that is not
    available, cannot be read or is not the published one.

    Example::

        load_images("cifar100", "validation", "cpu", size=64)
    """
    choose("data set", name, SETS)
    if (name, part) == ("cifar100", "test"):
        raise UsageError("CIFAR-100's test part stays closed until the end; coreFunction.final_test(record) opens it")
    choose(f"part of {name}", part, SPLITS[name])
    return _image_set(name, part, profile, size)


def is_available_locally(name: str, part: str, profile: str) -> bool:
    """Whether this machine has part `part` of set `name`, so that load_images would download nothing."""
    data = PROFILES[profile].data
    try:
        return _local_copy(name, data) is not None or _cached(name, data, _published(part)).exists()
    except UsageError:  # DATA_DIR lacks it
        return False


def load_test_set(profile: str, size: int | None = None) -> ImageSet:
    """Open CIFAR-100's test part. Only the final test calls this, and it logs every opening."""
    return _image_set("cifar100", "test", profile, size)


def _published(part: str) -> str:
    """The published part, train or test, that `part` is cut from."""
    return "test" if part == "test" else "train"


def known_fingerprint(name: str, profile: str) -> str:
    """The fingerprint of set `name` in `profile`, a sha256 over its parts' fingerprints. Needs no data."""
    parts = FINGERPRINTS[choose("data set", name, SETS), PROFILES[choose("profile", profile, PROFILES)].data]
    return hashlib.sha256("".join(digest for _, digest in parts.values()).encode()).hexdigest()


def data_identity(exp: Experiment) -> dict:
    """The experiment's identity in its profile, with the fingerprint of its data; needs no data."""
    names = tuple(CLASSES) if exp.kind == "distribution" else (exp.dataset,)
    return identity(exp) | {"data": {name: known_fingerprint(name, exp.profile) for name in names}}


def _image_set(name: str, part: str, profile: str, size: int | None) -> ImageSet:
    data = PROFILES[choose("profile", profile, PROFILES)].data
    published = _published(part)
    copy = _local_copy(name, data)
    images, labels = _tensors(name, data, published, copy.stamp(published) if copy else None)[part]
    size = images.shape[-1] if size is None else whole("size", size, 1)
    return ImageSet(name, part, images, labels, CLASS_NAMES[name], known_fingerprint(name, profile), size)


def _local_copy(name: str, data: str) -> LocalCopy | None:
    """The sample, or the copy in DATA_DIR if that is set; None for the cache or the network."""
    if data != "sample":
        return in_data_dir(name)
    if copy := in_folder(name, SAMPLE / name):
        return copy
    raise UsageError(
        f"the embedded sample {SAMPLE / name} is missing; put it back with `git checkout data/sample`, "
        "or install the package from its clone with `pip install -e`"
    )


@functools.cache  # the stamp is part of the key, so that a changed DATA_DIR is read again
def _tensors(name: str, data: str, published: str, stamp: str | None) -> dict[str, tuple[Tensor, Tensor]]:
    """Images and labels of each part that `published` is split into: two for CIFAR-100's train part, else one."""
    rows = _read_cache(name, data, published, stamp)
    if rows is None:

        def read(copy: LocalCopy) -> np.ndarray:
            found = copy.read(published)
            return checked(found[canonical_order(found)], name, data, published, str(copy.folder))

        copy = _local_copy(name, data)
        rows = read(copy) if copy else fetch(name, cache_folder(), read)
        _write_cache(rows, name, data, published, stamp)
    labels = rows[:, 0].astype(np.int64)
    chosen = {published: np.arange(len(rows))}
    if (name, published) == ("cifar100", "train"):
        train = first_of_each_class(labels, len(rows) - VALIDATION[data])
        chosen = {"train": train, "validation": np.setdiff1d(chosen["train"], train)}
    images = {part: rows[:, 1:][indices].reshape(-1, *SETS[name].shape) for part, indices in chosen.items()}
    return {part: (torch.from_numpy(images[part]), torch.from_numpy(labels[i])) for part, i in chosen.items()}


# ---------------------------------------------------------------- order, fingerprint, split


def canonical_order(rows: np.ndarray) -> np.ndarray:
    """Indices that sort rows by their sha256: the same order from every source, and as good as shuffled."""
    digests = [hashlib.sha256(row).digest() for row in rows]
    return np.array(sorted(range(len(rows)), key=digests.__getitem__))


def fingerprint(rows: np.ndarray) -> str:
    """sha256 of the rows' shape and bytes."""
    digest = hashlib.sha256(repr(rows.shape).encode())
    digest.update(rows.data)
    return digest.hexdigest()


def checked(rows: np.ndarray, name: str, data: str, part: str, origin: str) -> np.ndarray:
    """Return `rows`, which are in canonical order, if they are the published ones; else raise UsageError."""
    images, known = FINGERPRINTS[name, data][part]
    if len(rows) != images:
        found = f"has {len(rows):,} images, the published set {images:,}"
    elif (digest := fingerprint(rows)) != known:
        found = f"has pixels or labels that differ from the published set (sha256 {digest[:12]}, not {known[:12]})"
    else:
        return rows
    raise UsageError(f"{name}'s {part} part in {origin} {found}; fetch it again")


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Ascending indices of the first images of each class, `count` in all, in proportion to the classes' sizes."""
    quotas = np.diff(np.cumsum(np.bincount(labels)) * count // len(labels), prepend=0)
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:quota] for c, quota in enumerate(quotas)]))


# ---------------------------------------------------------------- the cache of decoded sets

# A cached file is used only if its fingerprint is right, so it can be neither stale nor damaged. An empty file next to
# it, named after the stamp of a copy in DATA_DIR, marks that it was decoded from this copy; else the copy is read.


def cache_folder() -> Path:
    """Where decoded sets are kept."""
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / PROJECT


def _cached(name: str, data: str, part: str) -> Path:
    return cache_folder() / f"{name}-{data}-{part}.npy"


def _read_cache(name: str, data: str, part: str, stamp: str | None) -> np.ndarray | None:
    """The decoded rows, or None if they are missing, damaged, or not from the copy with this stamp."""
    path = _cached(name, data, part)
    try:
        if stamp and not path.with_suffix(f".{stamp}").exists():
            return None
        return checked(np.load(path, allow_pickle=False), name, data, part, str(path))
    except Exception:  # numpy may raise anything for a damaged file, which is then written again
        return None


def _write_cache(rows: np.ndarray, name: str, data: str, part: str, stamp: str | None) -> None:
    """Write the rows to the cache, atomically; only warn if that fails."""
    path = _cached(name, data, part)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as unfinished, unfinished.open("wb") as file:
            np.save(file, rows)
        if stamp:
            path.with_suffix(f".{stamp}").touch()
    except (OSError, WriteError) as error:
        reason = first_line(error.__context__ or error)
        warnings.warn(f"{path.parent} cannot be written ({reason}); {name} is decoded again each time", stacklevel=2)
