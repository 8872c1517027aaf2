"""What the original's defects cost, on made-up records with and without each of them."""

import re

from helpers import refused
from made_up_records import baseline, blocks, many, opened, world

from deepnet.claims.prices import PRICES, price_list, priced
from experimentTable import TABLE


def lines(records, openings=()):
    """The defect and what is measured of it -> what it comes to."""
    cells = priced("cpu", records, openings)
    return {f"{price.defect} {price.measured}": cell for price, cell in zip(PRICES, cells, strict=True)}


def line(found, words):
    return next(cell for text, cell in found.items() if words in text)


def test_a_defect_is_priced_by_runs_with_and_without_it_over_the_seeds_that_both_have():
    records = world(
        fine_tune_1=many("fine_tune_1", 3, accuracy={0: 0.30, 1: 0.31, 2: 0.32}),
        defect_statistics=many("defect_statistics", 4, accuracy={0: 0.28, 1: 0.30, 2: 0.29, 3: 0.9}),
    )
    assert line(lines(records), "batch normalization") == "-2 [-4.48, 0.484], seeds 0-2"  # points


def test_one_seed_has_an_interval_over_its_images():
    records = world(sgd=many("sgd", 1, accuracy=0.1), **{"defect_sgd_5e-03": many("d", 1, accuracy=0.4)})
    mean, low, high, over = re.fullmatch(r"(.+) \[(.+), (.+)\], (.+)", line(lines(records), "at 5e-3")).groups()
    assert (mean, over) == ("-30", "seed 0") and -34 < float(low) < -30 < float(high) < -26


def test_runs_that_did_not_stop_early_have_no_price_for_their_last_weights():
    scores = [0.1, 0.5, 0.45, 0.44, 0.4]
    stopped, ended = (many(name, 1, accuracy=scores, stop=5, epochs=20) for name in ("adam", "rmsprop"))
    stopped[0].result["stopped_early"] = True
    assert line(lines(world(adam=stopped, rmsprop=ended)), "early stopping") == "-10, 1 run"


def test_the_baselines_two_scores_the_epochs_of_dropout_and_the_norms_are_compared():
    records = world(
        baseline=baseline(0.4, 1, "svm"), dropout=many("dropout", 1, epochs=100, stop=23),
        MLP_33=many("MLP_33", 3, accuracy=0.12, macro=0.1),
        MLP_res_5=many("MLP_res_5", 3, norm=2.0), MLP_res_35=many("MLP_res_35", 3, norm=6.0),
    )  # fmt: skip
    found = lines(records, opened("baseline", 0.41, classifier="svm"))
    assert line(found, "scored on the test set") == "1, seed 0"
    assert line(found, "100 epochs") == "3, seed 0"
    assert line(found, "mean over classes").startswith("-2 [-2, -2], seeds 0-2")
    assert line(found, "summed over tensors").startswith("1 [1, 1], ")  # both norms grow alike here


def test_counting_evaluation_as_training_time_is_priced_over_all_pairs_in_the_seeds_that_have_both():
    def timed(name, *ratios):
        pairs = zip(("MLP_4", "MLP_13"), ("MLP_res_5", "MLP_res_15"), ratios, strict=True)
        return blocks(name, *((*pair, [ratio - 0.1, ratio + 0.1]) for *pair, ratio in pairs))

    records = world(timing_3=timed("timing_3", 1.3, 1.5), defect_timing=timed("defect_timing", 1.1, 1.2))
    assert line(lines(records), "start-up") == "-0.25, seed 0"


def test_what_no_record_tells_says_so_and_all_named_runs_are_in_the_tables():
    assert priced("paper", world()) == ["no record yet"] * len(PRICES)
    table = price_list("paper", "cpu", of=lambda profile: [profile] * len(PRICES))
    assert table.head[2:4] == ("paper", "cpu") == table.rows[0][2:4]
    asked: list[str] = []
    priced("paper", lambda name: asked.append(name) or [])
    assert {*asked} <= {*TABLE}
    refused(lambda: price_list("huge"), "unknown profile 'huge'")
