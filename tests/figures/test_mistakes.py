"""What models get wrong: the maps count the records' predictions, and the images shown are those that were meant."""

import numpy as np
import pytest

from deepnet.data.sets import COARSE_OF, first_of_each_class
from deepnet.figures.images import sample_images
from deepnet.figures.mistakes import SAMPLED, confusion, misclassified
from deepnet.figures.registry import draw
from deepnet.records.reading import find_record


@pytest.fixture(autouse=True)
def committed(monkeypatch, no_evidence):
    """The committed records are read, whose predictions are real."""
    monkeypatch.delenv("EVIDENCE")


def numbers(ax) -> list[int]:
    return [int(text.get_text()) for text in ax.texts]


def test_the_confusion_map_counts_every_prediction():
    record = find_record("CNN_res_56", "paper")
    (ax,) = confusion(record).get_axes()
    counts = np.array(numbers(ax)).reshape(10, 10)
    assert counts.sum() == 10_000
    assert counts.trace() / 10_000 == pytest.approx(record.result["accuracy"])


def test_the_map_of_superclasses_prints_what_is_frequent():
    (ax,) = draw("5.8b", "paper").get_axes()
    true, given = np.asarray(COARSE_OF)[find_record("dropout", "paper").predictions().astype(int)]
    counts = [np.sum((true == y) & (given == x)) for y in range(20) for x in range(20)]
    assert numbers(ax) == [count for count in counts if count >= 10]


@pytest.mark.parametrize("name", ["CNN_res_56", "MLP_4"])
def test_the_images_shown_are_those_that_were_misclassified(name):
    """The sample's test images stand in the complete set where `misclassified` takes them to be."""
    record = find_record(name, "paper")
    true, given = record.predictions().astype(int)
    sample = sample_images(record.settings["experiment"]["dataset"], "test")
    here = first_of_each_class(true, SAMPLED)
    assert sample.labels.tolist() == true[here].tolist()
    shown = [ax.get_title() for ax in misclassified(record).get_axes() if ax.get_title()]
    wrong = np.flatnonzero(true[here] != given[here])[:12]
    classes = [name.replace("_", " ") for name in sample.classes]
    assert shown == [f"{classes[given[here[i]]]},\nnot {classes[true[here[i]]]}" for i in wrong]
