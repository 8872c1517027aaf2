"""The precision of a run: bf16 compared with fp32, and devices without bf16."""

from dataclasses import replace

import pytest
import torch
from helpers import mlp, untimed

from coreFunction import evaluate, run
from deepnet.training.metrics import probe
from deepnet.training.precision import resolve_precision
from experimentTable import BOTH_PRECISIONS, EXPERIMENTS, UsageError, experiment
from myModel import MODELS


@pytest.fixture
def without_bf16(monkeypatch):
    monkeypatch.setattr("deepnet.training.precision.has_bfloat16", lambda: False)


def test_bf16_is_refused_if_the_hardware_lacks_it(without_bf16, runs_dir, tiny):
    assert resolve_precision("auto") == "fp32"
    refused = pytest.raises(UsageError, match=r"has no bf16; choose precision 'fp32', or 'auto', which is fp32 here$")
    with refused:
        run(replace(EXPERIMENTS["CNN_10_bf16"], family="cnn", profile="sample", epochs=20))
    with refused:
        evaluate(mlp(), [], "bf16")
    assert not runs_dir.exists()


def test_a_probe_sees_what_training_computes():
    """Two images that differ by less than bf16 can tell are one image to it."""
    images = torch.full((2, 3, 32, 32), 0.5)
    images[1] *= 1 + 1e-4
    model = MODELS["CNN_10"](image_size=32)
    assert probe(model, images, "fp32")["probe_distinct"][0] == 2
    assert probe(model, images, "bf16")["probe_distinct"][0] == 1


@pytest.mark.parametrize("model", BOTH_PRECISIONS)
def test_the_two_sides_of_a_comparison_differ_only_in_precision(model):
    fp32, bf16 = (EXPERIMENTS[f"{model}_{precision}"] for precision in ("fp32", "bf16"))
    assert {key for key in vars(fp32) if vars(fp32)[key] != vars(bf16)[key]} == {"name", "precision"}
    assert (fp32.model, fp32.epochs, fp32.precision, bf16.precision) == (model, 5, "fp32", "bf16")
    assert fp32.lr == experiment("CNN_10").lr


def test_both_sides_begin_with_the_same_weights_and_say_their_precision(tiny, with_bf16):
    sides = [
        replace(EXPERIMENTS[f"CNN_10_{precision}"], family="cnn", profile="sample", epochs=20)
        for precision in ("fp32", "bf16")
    ]
    fp32, bf16 = (run(side, wandb=False) for side in sides)
    assert abs(fp32.rows[0]["test_loss"] - bf16.rows[0]["test_loss"]) < 1e-2
    assert untimed(fp32.rows[1:]) != untimed(bf16.rows[1:])
    assert (fp32.settings["provenance"]["precision"], bf16.settings["provenance"]["precision"]) == ("fp32", "bf16")
