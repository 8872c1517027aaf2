"""One switch turns off the faster implementations, which change results by rounding only."""

from dataclasses import replace

import pytest
from helpers import lend

import coreFunction
from coreFunction import run
from deepnet.speed import memory
from deepnet.training import precision, steps
from experimentTable import EXPERIMENTS

SWITCHED = {  # what a run uses of the room, by the module that uses it
    coreFunction: ("fast_layout", "without_frozen_prefix"),
    memory: ("_keeps_memory",),
    precision: ("SmallMaps", "bf16_autocast"),
    steps: ("CUDAGraphStep", "ContiguousViews", "drop_subnormals", "release_memory", "with_cheap_relus"),
}


@pytest.mark.parametrize("name", ["MLP_4", "MLP_res_5", "CNN_10", "CNN_res_16", "fine_tune_1", "baseline"])
def test_results_differ_by_rounding_only(made, tiny, runs_dir, monkeypatch, name):
    """In fp32, whose rounding is small on every processor."""
    lend(made, runs_dir, *([] if EXPERIMENTS[name].start_from is None else ["train_resnet"]))
    exp = replace(EXPERIMENTS[name], precision="fp32")
    fast = run(replace(exp, name=f"{name}_fast"), wandb=False)
    monkeypatch.setenv("FAST", "0")
    for module, names in SWITCHED.items():
        for used in names:
            monkeypatch.setattr(module, used, lambda *_, used=used, **__: pytest.fail(f"{used} was used"))
    plain = run(replace(exp, name=f"{name}_plain"), wandb=False)
    for one, other in zip(fast.rows, plain.rows, strict=True):
        assert one.keys() == other.keys()
        for key in ("train_loss", "test_loss", "validation_loss", "gradient_norm", "held_out_accuracy"):
            assert one.get(key, 0) == pytest.approx(other.get(key, 0), rel=2e-3)
