"""What the notebook teaches with: the code as it stands, the profile that has the records, small data."""

import pytest
import torch
from helpers import refused

import modelBlock
import myModel
from coreFunction import train_epoch
from deepnet.figures.lessons import code, digit_net, digits, measured, power, seen, shown_from, span, wins
from deepnet.records.reading import find_record


def test_code_is_what_the_module_says_now():
    shown = code(myModel, "MLP_4", "train_only").data
    assert shown.startswith("```python\nMLP_4 = [784,") and "\n\n\ndef train_only(" in shown
    assert code(modelBlock.ResidualBlock).data.startswith("```python\nclass ResidualBlock")
    assert "value.backward()" in code(train_epoch, "step").data  # a function within a function
    refused(lambda: code(myModel, "MLP_5"), "MLP_5")


@pytest.mark.parametrize(
    ("number", "profile", "where"),
    [("3.1", "paper", "paper"), ("3.1", "cpu", "cpu"), ("4.4", "paper", "cpu"), ("3.4", "cpu", "paper"),
     ("5.9", "cpu", "paper"), ("3.1", "sample", "sample"), ("3.7", "sample", "paper")],
)  # fmt: skip
def test_a_figure_is_shown_from_the_profile_that_has_most_of_its_records(number, profile, where, capsys):
    assert shown_from(number, profile) == where
    assert (where in capsys.readouterr().out) == (where != profile)


def test_numbers_of_sentences_are_the_records():
    record = find_record("CNN_13", "paper")
    assert seen("CNN_13") == record.result["accuracy"] and span("CNN_13") == f"{seen('CNN_13'):.3f}"
    assert measured("CNN_13", "probe_variance", 0, 3) == record.rows[0]["probe_variance"][3]
    assert wins("MLP_4", "MLP_33") == "5 of 5" and power(-14.6) == "$10^{-15}$"
    assert seen("CNN_30_he") == find_record("CNN_30_he", "cpu").result["accuracy"]  # which paper lacks


def test_digits_are_parted_by_class_and_a_network_takes_them():
    train, held = digits(range(5, 10), training=10)
    images, targets = train.tensors
    assert images.shape == (10, 1, 8, 8) and len(held) == 150 and set(targets.tolist()) <= set(range(5))
    assert torch.equal(digit_net(5, seed=1)(images), digit_net(5, seed=1)(images))
    assert images.min() >= 0 and images.max() <= 1
