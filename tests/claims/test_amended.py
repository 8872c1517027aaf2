"""The rules that were added beside others, on made-up records whose answer is known."""

import pytest
from made_up_records import blocks, many, train, wide, world
from test_rules import FALLING, FLAT, GONE, RISING, F, H, U, mlps, slow_tuning

from deepnet.claims.evidence import TIMED
from deepnet.claims.ledger import check
from deepnet.claims.rules import CHAPTER_5

NONE = "no evidence"


def seeds(count, runs):
    return {name: many(name, count, **values) for name, values in runs.items()}


def cnns(loss=0.4, accuracy=0.7):
    return {"CNN_10": {"loss": 0.5, "accuracy": 0.6}, "CNN_13": {"loss": loss, "accuracy": accuracy}}


def dying(alive=2, rms=GONE, loss=FLAT):
    """CNN_30, one of whose hidden layers is dead as a whole after `alive` epochs."""
    return {"CNN_30": {"loss": loss, "macro": 0.1, "rms": rms, "alive": alive}}


def tuning(losses=FALLING, accuracies=RISING, rival=0.38):
    runs = slow_tuning(losses, accuracies, rival)
    return runs | {"fine_tune_2": runs["fine_tune_2"] | {"train": 0.9}}  # by default .5 of the images


def timings(name, *ratios):
    """A record of `name` for each ratio, the same for every pair."""
    records = [blocks(name, *((*pair, [ratio - 0.01, ratio + 0.01]) for pair in TIMED[name]))[0] for ratio in ratios]
    for seed, record in enumerate(records):
        record.seed = seed
    return {name: records}


def stops(*costs, name="adam", first=1):
    """Runs that stopped early, each so far below its best in its last epoch; one more of seed 0, and one that ended."""
    made = [train(name, seed, accuracy=[0.5, 0.5 - cost], stop=2) for seed, cost in enumerate(costs, first)]
    ended = train("sgd", 1, accuracy=[0.5, 0.1], stop=2, epochs=2)
    return {name: [train(name, 0, accuracy=[0.9, 0.1], stop=2), *made], "sgd": [ended]}


CASES = [
    ("3a′", H, seeds(10, mlps())),
    ("3a′", NONE, seeds(9, mlps())),
    ("3a′", H, seeds(10, mlps(accuracies=(0.98, 0.97, [0.1] * 15 + [0.95] * 5)))),  # what came before does not count
    ("3a′", F, seeds(10, mlps(accuracies=(0.98, 0.97, 0.975)))),
    ("3a′", H, seeds(10, mlps()) | {"MLP_4": many("MLP_4", 3, loss=0.1, accuracy=0.98)}),  # all seeds there are
    ("3a′", U, seeds(10, mlps(accuracies=(0.98, {s: 0.97 if s % 2 else 0.9 for s in range(10)}, 0.95)))),
    ("3f′", H, timings("timing_3", 1.1, 1.12, 1.11)),
    ("3f′", F, timings("timing_3", 0.9, 0.91, 0.9)),
    ("3f′", U, timings("timing_3", 0.9, 1.0, 1.1)),
    ("3f′", NONE, timings("timing_3", 1.1, 1.12)),
    ("4a′", H, cnns()),
    ("4a′", H, cnns(accuracy=[0.7] * 19 + [0.61])),
    ("4a′", F, cnns(accuracy=[0.57] * 19 + [0.7])),  # the last epoch alone is above
    ("4a′", F, cnns(loss=0.6)),
    ("4a′", U, cnns(accuracy=wide(0.6))),
    ("4b′", H, dying()),
    ("4b′", F, dying(rms=[-9, -8, -3])),
    ("4b′", F, dying(loss=1.0)),
    ("4b′", NONE, dying(alive=0)),
    ("4b′", U, dying(rms={0: GONE, 1: GONE, 2: None})),
    ("4d′", H, timings("timing_4", 1.1, 1.12, 1.11)),
    ("4d′", F, timings("timing_4", 0.9, 0.91, 0.9)),
    ("4d′", U, timings("timing_4", 0.9, 1.0, 1.1)),
    ("4d′", NONE, timings("timing_4", 1.1)),
    ("5d′", H, tuning()),
    ("5d′", H, tuning(rival=[0.9] + [0.38] * 19)),  # the best epoch does not count
    ("5d′", F, tuning(rival=0.42)),
    ("5d′", F, tuning(accuracies=[0.385] * 20)),
    ("5d′", F, tuning(losses=[*FALLING[:-2], 2.0, 2.1])),
    ("5d′", U, tuning(rival=wide(0.4))),
    ("5k′", H, tuning()),
    ("5k′", F, tuning(rival=0.42)),
    ("5k′", F, tuning(rival=0.79)),  # the gap is smaller
    ("5k′", U, tuning(rival=wide(0.4, 0.1))),
    ("q12", H, stops(0.02, 0.021, 0.022)),
    ("q12", F, stops(0.001, 0.002, 0.001)),
    ("q12", U, stops(0.001, 0.02, 0.1)),
    ("q12", NONE, stops()),
    ("q12", NONE, stops(0.02, 0.02, name="sweep_8")),  # sweep_3 once more
    ("q12", NONE, stops(0.02, 0.02, name="search_1")),  # no run of the report's
]


@pytest.mark.parametrize(("claim", "verdict", "runs"), CASES, ids=[f"{c}-{v}-{i}" for i, (c, v, _) in enumerate(CASES)])
def test_amended_rule(claim, verdict, runs):
    found = check(claim, "paper", world(**runs))
    assert found.verdict == verdict, str(found)


def test_what_too_few_seeds_give_is_said():
    verdict = check("3a′", "cpu", world(**seeds(9, mlps())))
    assert verdict.text == "no evidence (no record of 10 seeds of MLP_13 and MLP_23 (there are 9))"
    assert {part.verdict for part in verdict.parts} == {NONE, H}  # what they say is shown all the same
    assert check("3f′", "cpu", world()).text == "no evidence (no record of timing_3)"


def test_4b_takes_the_last_epoch_before_a_layer_is_dead():
    """The first two epochs do not vanish; the third, after which a layer is dead, would."""
    (record,) = many("CNN_30", 1, loss=FLAT, macro=0.1, alive=2)
    record.rows[3]["gradient_log10_rms"] = [-30, -8, -3]
    found = check("4b′", "paper", lambda name: [record] if name == "CNN_30" else [])
    assert found.verdict == F and found.parts[-1].effect == 0


def test_the_unit_of_q12_is_a_run():
    runs = stops(0.02, 0.03) | {"rmsprop": [train("rmsprop", 1, accuracy=[0.5, 0.46], stop=2)]}
    (part,) = check("q12", "cpu", world(**runs)).parts
    assert part.seeds == ("adam 1", "adam 2", "rmsprop 1") and part.which == "3 runs"
    assert part.effect == pytest.approx(0.03) and str(part).endswith(", 3 runs")
    assert {"adam", "rmsprop"} < set(CHAPTER_5)
