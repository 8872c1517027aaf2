"""The benchmark beside other libraries does the same work, and says what it left out. Nothing here depends on speed."""

import json
from concurrent.futures import Future
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from benchmarks import benchmark, peers
from benchmarks.peers import (
    CONTENDERS,
    PEERS,
    Batches,
    in_loop,
    jax_model,
    line,
    markdown,
    measure,
    prepare,
    seconds_per_step,
)
from benchmarks.recipes import Plain
from benchmarks.timing import ROWS, plain_process, timed_images
from experimentTable import experiment, identity
from myModel import MODELS, count_parameters

PACKAGE = {"Lightning": "lightning", "skorch": "skorch", "timm": "timm", "JAX": "optax"}


@pytest.fixture
def process():
    """A process as the contenders have."""
    with plain_process() as executor:
        yield executor


class Here:
    """An executor that runs everything at once in this process."""

    def submit(self, function, *arguments):
        future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


# ---------------------------------------------------------------- like with like


def jax_and_torch(exp):
    """Within a process: number of parameters and outputs for 8 images, in JAX and in torch."""
    import jax

    torch.manual_seed(0)
    model = MODELS[exp.model](image_size=identity(exp)["image_size"])
    parameters, forward = jax_model(model)
    inputs, _ = timed_images(exp).batch(torch.arange(8))
    counted = sum(p.size for p in jax.tree.leaves(parameters)), count_parameters(model)
    return counted, jax.device_get(forward(parameters, inputs.numpy())), model(inputs).detach().numpy()


def test_jax_computes_the_outputs_of_torch_s_models(process):
    """In another process, since JAX starts threads, and a process with threads had better not fork any more."""
    if find_spec("jax") is None:
        pytest.skip("jax is not installed")
    for name in peers.ROWS_OF["JAX"]:
        counted, outputs, expected = process.submit(jax_and_torch, experiment(name, "sample")).result()
        assert counted[0] == counted[1]
        np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in CONTENDERS if name != "torch.compile"])  # which compiles for long
def test_each_contender_trains(process, name):
    if find_spec(PACKAGE.get(name, "torch")) is None:
        pytest.skip(f"{PACKAGE[name]} is not installed")
    row = "resnet18" if name == "timm" else "MLP_4"
    exp = replace(experiment(ROWS.get(row, row), "sample"), batch_size=64)
    assert process.submit(prepare, name, exp).result() > 0
    assert process.submit(seconds_per_step, 2).result() > 0


def test_a_step_lasts_until_the_next_batch_is_asked_for():
    """Batches that workers have prepared are thrown away; the first and the last step do not count."""
    exp = experiment("MLP_4", "sample")
    recipe, seen = Plain(exp, timed_images(exp), workers=0), []
    recipe.ahead = 2
    recipe.batches = lambda order: iter(range(len(order)))

    def fit(batches):
        assert len(batches) == 5
        seen.extend(batches)
        batches.asked[:] = [0.0, 10.0, 11.0, 12.0, 16.0]

    assert in_loop(recipe, fit)(3) == 2.0
    assert seen == [2, 3, 4, 5, 6]


def test_batches_note_when_they_are_asked_for():
    batches = Batches(iter("abcd"), 3)
    assert (len(batches), list(batches), len(batches.asked)) == (3, ["a", "b", "c"], 3)


# ---------------------------------------------------------------- what is kept and shown


def test_what_fails_is_left_out_with_a_word(monkeypatch):
    def missing(exp, data):
        import no_such_library  # noqa: F401

    contenders = {"ours": lambda exp, data: lambda steps: 2.0, "plain": lambda exp, data: lambda steps: 2.0}
    monkeypatch.setattr(peers, "CONTENDERS", contenders | {"skorch": missing})
    row = measure("MLP_4", "sample", dict.fromkeys(peers.CONTENDERS, Here()), repeats=2, seconds=0, batch_size=8)
    assert row["repeats"] == {"ours": [4.0, 4.0], "plain": [4.0, 4.0]}
    assert row["failed"] == {"skorch": "No module named 'no_such_library'"}
    assert json.loads(json.dumps(row)) == row
    assert line(row).startswith("| MLP_4 | 28 | 4 | 1.00 (1.00–1.00) | – |")
    made = {"threads": 1, "workers": 2, "torch": "2", "commit": None, "date": "2025-01-01", "repeats": 2}
    table = markdown({"machine": "a-machine", "rows": [row], "provenance": made, "versions": {"jax": "0.1"}})
    assert len({text.count("|") for text in table.splitlines() if text.startswith("|")}) == 1
    assert "jax 0.1" in table and table.endswith("Left out is skorch: No module named 'no_such_library'.")


def test_a_ratio_is_of_medians_and_has_the_range_of_the_repeats():
    assert peers.ratio({"ours": [6.0, 8.0, 4.0], "JAX": [2.0, 4.0, 3.0]}, "JAX") == "2.00 (1.33–3.00)"


def test_peers_have_rows_of_their_own():
    assert set(peers.ROWS_OF) < set(PEERS)
    assert all(set(rows) <= set(peers.MODELS) for rows in peers.ROWS_OF.values())
    assert {experiment(ROWS.get(name, name)).optimizer for name in peers.MODELS} == {"Adam"}


def test_results_beside_peers_have_a_file_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path)
    monkeypatch.setattr(peers, "run", lambda profile, **_: {"machine": "a-machine", "profile": profile})
    monkeypatch.setattr("sys.argv", ["benchmark.py", "--peers", "--profile", "cpu"])
    benchmark.main()
    assert [path.name for path in tmp_path.iterdir()] == ["a-machine-cpu-peers.json"]
