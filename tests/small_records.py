"""Small records, made by the writing side."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from deepnet.records.folder import RunFolder
from deepnet.records.reading import Record
from experimentTable import Experiment

EXPERIMENT = Experiment("x", model="MLP_4", lr=0.1, profile="sample")
PROVENANCE = {"commit": "c" * 40, "dirty": False, "results_version": 1, "precision": "fp32"}
WEIGHTS = {"w": torch.arange(3.0)}


def written(root, *, finished=True, seed=0, accuracy=0.5, status="finished", weights=True, **provenance):
    """A small record under `root`, made by the writing side."""
    with RunFolder(replace(EXPERIMENT, seed=seed), root) as folder:
        folder.start({"lr": 0.1}, PROVENANCE | provenance)
        folder.append({"epoch": 0, "test_accuracy": 0.1})
        folder.append({"epoch": 1, "test_accuracy": accuracy, "train_loss": math.nan})
        folder.checkpoint({"epoch": 1})
        if finished:
            folder.save_array("predictions.npy", predictions=np.array([[0, 1], [0, 0]], np.uint8))
            if weights:
                folder.save_weights(WEIGHTS)
            reason = None if status == "finished" else "stopped"
            result = {"status": status, "reason": reason, "split": "test", "accuracy": accuracy}
            return folder.finish(result, WEIGHTS)
        return Record(folder.path)


class Hostile:
    """Whoever unpickles it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)
