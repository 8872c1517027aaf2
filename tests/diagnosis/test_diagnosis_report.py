"""A diagnosis as text, table, HTML, figure, JSON and on the command line; the page of it, and the bench's results."""

import contextlib
import io
import json
import math

import pytest
import torch
import torchvision
from helpers import ROOT, digits, mlp
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks.broken_nets import CASES
from benchmarks.diagnose import OUTCOMES, PAGE, page
from deepnet.data.sets import load_images
from deepnet.diagnosis.findings import RULES
from utilityFunction import diagnose

GUIDE = ROOT / "docs" / "not-learning.md"


@pytest.fixture(scope="module")
def ill():
    """A diagnosis with causes, cures and a layer that is not called."""

    class WithMore(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp().append(nn.Softmax(1))
            self.extra = nn.Linear(2, 2)

        def forward(self, x):
            return self.inner(x)

    return diagnose(WithMore(), digits(), lr=1e-2, cure_steps=20)


def test_text_names_cause_remedy_and_what_each_cure_did(ill):
    text = str(ill)
    assert text == ill.text == repr(ill)
    assert text.startswith("1 likely cause found. In 30 steps of Adam with a learning rate of 0.01 the loss went from")
    for words in (
        "1. output-activation",
        "What to do: Leave",
        "likely to be the cause:\n- unused: ",
        "- as it is: loss",
    ):
        assert words in text
    assert "the last activation left out: " in text


def test_nothing_is_said_of_what_could_not_be_measured():
    x, y = digits().tensors
    gaps = TensorDataset(torch.where(x > 0.9, torch.nan, x), y)
    broken = mlp()
    nn.init.constant_(broken[1].weight, torch.nan)
    for found in (diagnose(mlp(), gaps, cure_steps=20), diagnose(broken, digits(), cures=False)):
        assert found.causes[0].code in ("nan-data", "nan-weights")
        assert not any(words in str(found) for words in ("between the last layer", "nan times", "up to nan"))
    off = diagnose(mlp(), TensorDataset(x, y + 1), cure_steps=20)
    assert "20 steps at most:\n- as it is: no step can be taken" in str(off)


def test_table_has_a_row_for_each_layer(ill):
    assert [row[0] for row in ill.table.rows] == ["inner.1", "inner.3", "extra"]
    assert len(diagnose(nn.Sequential(nn.Flatten(), *[nn.Linear(64, 64)] * 1, *(nn.Linear(64, 64) for _ in range(40))),
                        digits(), cures=False).table.rows) <= 17  # fmt: skip
    assert "<table>" in ill._repr_html_() and "&lt;" not in ill.table._repr_html_()


def test_json_holds_all_of_it(ill):
    found = json.loads(json.dumps(ill.to_dict(), allow_nan=False))
    assert found["healthy"] is False
    assert found["findings"][0]["code"] == "output-activation"
    assert found["measurements"]["layers"][2]["before"]["rms"] is None  # it never ran
    assert [trial["name"] for trial in found["trials"]] == ["as it is", "raw-scores"]


def test_figure_shows_layers_and_cures(ill):
    signal, moves, losses = ill.figure().axes
    assert list(signal.lines[0].get_xdata()) == [1, 2]
    assert moves.lines[0].get_ydata()[0] == ill.measurements.layers[0].update
    assert losses.lines[0].get_label() == "as it is"
    ill.figure().png  # noqa: B018  it can be drawn
    assert len(diagnose(mlp(), digits(), lr=1e-2, cures=False).figure().axes) == 2


def test_command(call):
    status, out, _ = call("diagnose", "MLP_4", "--no-cures")
    assert status == 0 and out.startswith("MLP_4, seed 0\nNothing wrong was found.")
    status, out, _ = call("diagnose", "MLP_33", "--no-cures", "--json", "--seeds", "0,1", "--profile", "sample")
    both = json.loads(out)
    assert status == 0 and [(found["name"], found["seed"]) for found in both] == [("MLP_33", 0), ("MLP_33", 1)]
    assert all(found["findings"][0]["code"] == "vanishing" for found in both)
    status, _, error = call("diagnose", "tsne_mnist")
    assert status == 1 and "tsne_mnist is no training" in error


@pytest.mark.parametrize("builder", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_untrained_models_of_torchvision_are_healthy(builder):
    torch.manual_seed(0)
    model = torchvision.models.get_model(builder, num_classes=10)
    found = diagnose(model, load_images("cifar10", size=32), lr=1e-3, steps=12, cures=False)
    assert found.causes == (), found
    assert math.isfinite(found.measurements.last_loss)


# ---------------------------------------------------------------- the page and the bench


def test_the_page_s_example_gives_what_it_says():
    _, code, _, output, *_ = GUIDE.read_text().split("```")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code.removeprefix("python\n"), str(GUIDE), "exec"), {})

    def said(text):
        lines = [line.partition(", loss")[0].partition(": loss")[0] for line in text.splitlines()]
        return [line for line in lines if line[:2] in ("1.", "2.", "- ") or "likely cause" in line[:30]]

    found, written = said(printed.getvalue()), said(output)
    assert [line.partition(" In 30")[0] for line in found] == [line.partition(" In 30")[0] for line in written]


def test_the_page_lists_every_code():
    from test_diagnosis_findings import CODES

    cells = [line.split("|")[1] for line in GUIDE.read_text().splitlines() if line.startswith("| `")]
    listed = {code.strip(" `") for cell in cells for code in cell.split(",")}
    assert listed == CODES
    assert len(listed) == len(RULES)


def test_the_bench_s_page_is_that_of_its_outcomes():
    outcomes = json.loads(OUTCOMES.read_text())
    made, written = (text.splitlines()[4:] for text in (page(outcomes), PAGE.read_text()))
    assert made == written
    known = {case.name: list(case.causes) for case in CASES}
    assert all(o["causes"] == known[o["name"]] for o in outcomes if o["part"] != "library")
