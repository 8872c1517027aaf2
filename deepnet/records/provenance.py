"""Provenance: the code, versions, device, precision and threads that a record is made with."""

import platform
from collections.abc import Sequence
from importlib import metadata

import numpy as np
import torch
import torchvision

from deepnet.machine import device, processor_name
from deepnet.records import code
from deepnet.records.reading import RESULTS_VERSION, ROUNDING_VERSION
from experimentTable import UsageError


def provenance(precision: str, on_processor: bool = False, packages: Sequence[str] = ()) -> dict:
    """The code, versions, device, precision and threads that a record is made with now.

    Args:
        precision: the resolved one.
        on_processor: whether the run is computed on the processor, whatever the device is.
        packages: further distributions whose versions matter.

    Raises:
        UsageError: for a package that is not installed.
    """
    try:
        versions = {package: metadata.version(package) for package in packages}
    except metadata.PackageNotFoundError as missing:
        raise UsageError(f"{missing.name} is not installed; pip install {missing.name}") from None
    computes = torch.device("cpu") if on_processor else device()
    return {
        **code.state(),
        "results_version": RESULTS_VERSION,
        "rounding_version": ROUNDING_VERSION,
        "precision": precision,
        "device": torch.cuda.get_device_name() if computes.type == "cuda" else computes.type,
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        **versions,
    }
