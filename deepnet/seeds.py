"""Random numbers: seeds made of several numbers, and the state of the global generators."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from deepnet.machine import device


def combined_seed(*numbers: int) -> int:
    """One 63-bit seed from several numbers, so that (seed, epoch) and (seed + 1, epoch - 1) are unrelated.

    >>> combined_seed(0, 1) == combined_seed(1, 0)
    False
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_everything(*numbers: int) -> torch.Generator:
    """Seed the global generators of torch, numpy and Python from `numbers`; returns a CPU generator for shuffling."""
    seed = combined_seed(*numbers)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # a reader's own transforms may use numpy's or Python's generator
    random.seed(seed)
    return torch.Generator().manual_seed(seed)


@contextmanager
def preserved_random() -> Iterator[None]:
    """Restore the states of the global generators of torch, numpy and Python after the block."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if device().type == "cuda" else []):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
