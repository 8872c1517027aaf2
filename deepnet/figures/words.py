"""What was seen, in a sentence, with every number taken from the records."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from deepnet.claims.ledger import ledger, ledger_markdown
from deepnet.claims.measures import ends_early, final_loss, step_ratios
from deepnet.figures.registry import found
from deepnet.figures.sweep import SWEEP
from deepnet.records.reading import Record, find_openings, find_records
from deepnet.search.sweep import REPORT_SWEEP
from deepnet.search.trials import describe_best, describe_point
from deepnet.text import DATA, counted, duration, markdown, ranges, seeds_of
from experimentTable import (
    EXPERIMENTS,
    PROFILES,
    ROWS,
    UsageError,
    current_profile,
    estimated_seconds,
    experiment,
    is_supported,
)

if TYPE_CHECKING:
    from IPython.display import Markdown


def _mean(values: Sequence[float]) -> str:
    """The seeds' mean and, of several, their range: `0.912 (0.905 to 0.921)`."""
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return f"{np.mean(values):.3g}" + (f" ({low} to {high})" if low != high else "")


def _row(profile: str) -> str:
    """What a row of metrics is: in the sample a set number of steps."""
    return "epoch" if PROFILES[profile].row_unit == "epoch" else "row"


def _training(name: str, records: list[Record]) -> str:
    split = records[0].result["split"]
    loss, score = (
        _mean([measure(record) for record in records])
        for measure in (final_loss, lambda record: record.result["accuracy"])
    )
    row, early = (
        _row(records[0].profile),
        [str(record.result["last_epoch"]) for record in records if ends_early(record)],
    )
    restored = [
        str(record.result["epoch"]) for record in records if record.result["epoch"] < record.result["last_epoch"]
    ]
    best = f" (restored: {row} {', '.join(restored)})" if restored else ""
    stopped = f", stopped early after {row} {', '.join(early)}" if early else ""
    some = f" ({len(early)} of {counted(len(records), 'seed')})" if 0 < len(early) < len(records) else ""
    return f"{name} train loss {loss}, {split} accuracy {score}{best}{stopped}{some}"


def _distribution(name: str, records: list[Record]) -> str:
    spans = {DATA[data]: (min(counts), max(counts)) for data, counts in records[0].result["counts"].items()}
    said = (
        f"{low:,} images in every class" if low == high else f"{low:,} to {high:,} images a class"
        for low, high in spans.values()
    )
    return ", ".join(f"{data} has {span}" for data, span in zip(spans, said, strict=True))


def _tsne(name: str, records: list[Record]) -> str:
    skill, classes = _mean([record.result["knn_skill"] for record in records]), records[0].result["classes"]
    data = DATA[experiment(name).dataset]
    return f"in the plane, the 5 nearest neighbours tell {data}'s {classes} classes apart with skill {skill} (0 chance, 1 always)"


def _timing(name: str, records: list[Record]) -> str:
    pairs = step_ratios(records)
    blocks = counted(max(map(len, pairs.values())), "block")
    said = (
        f"{np.mean(r):.2f} ({min(r):.2f} to {max(r):.2f}) for {plain} / {residual}"
        for (plain, residual), r in pairs.items()
    )
    steps = counted(records[0].settings["identity"]["steps"], "step")
    return f"over {blocks} of {steps}, a residual step takes the plain one's time times {', '.join(said)}"


def _baseline(name: str, records: list[Record]) -> str:
    chosen = [record.result["chosen"].replace("_", " ") for record in records]
    scores = {
        key.replace("_", " "): _mean([record.result["classifiers"][key]["validation_accuracy"] for record in records])
        for key in records[0].result["classifiers"]
    }
    parts = " and of the ".join(f"{key} {score}" for key, score in scores.items())
    return f"validation accuracy of the {parts}; held-out train images chose the {', the '.join(dict.fromkeys(chosen))}"


_SENTENCES = {
    "training": _training,
    "distribution": _distribution,
    "tsne": _tsne,
    "timing": _timing,
    "baseline": _baseline,
}


def _gradients(name: str, records: list[Record]) -> str:
    trained = [[row for row in record.rows if "gradient_norm" in row] for record in records]
    if not all(trained):
        return f"{name} has no gradients recorded"
    first, last = ([rows[at] for rows in trained] for at in (0, -1))
    rms = [f"10^{_mean([row['gradient_log10_rms'][0] for row in rows])}" for rows in (first, last)]
    norm = [_mean([row["gradient_norm"] for row in rows]) for rows in (first, last)]
    return f"{name} first layer's RMS {rms[0]} at first and {rms[1]} at the end, global norm {norm[0]} and {norm[1]}"


def _said(
    names: Sequence[str], profile: str | None, sentence: Callable[[str, list[Record]], str], what: str = ""
) -> str:
    """`sentence` of each run that has records, and the names of those that have none."""
    profile = current_profile(profile)
    records = {name: runs for name in names if (runs := find_records(name, profile))}
    missing = [name for name in names if name not in records]
    absent = [f"no finished record of {', '.join(missing)}"] if missing else []
    if not records:
        return f"Nothing seen in {profile} yet: {absent[0]}."
    seeds = seeds_of({name: [record.seed for record in runs] for name, runs in records.items()})
    return f"Seen in {profile}, {seeds}{what}: {'; '.join([*(sentence(*item) for item in records.items()), *absent])}."


def seen(*names: str, profile: str | None = None) -> str:
    """One sentence on these experiments in one profile: final train loss and accuracy of trainings, the finding of the
    others.
    """
    return _said(names, profile, lambda name, records: _SENTENCES[experiment(name).kind](name, records))


def seen_gradients(*names: str, profile: str | None = None) -> str:
    """One sentence on these trainings' gradients, each a mean over the steps of the first and of the last row of
    training.
    """
    row = _row(current_profile(profile))
    return _said(names, profile, _gradients, f", gradients averaged over the first {row} and over the last")


def seen_search(config: Mapping, name: str = "search", profile: str | None = None, seed: int | None = None) -> str:
    """One sentence on the best trial of a search (of one seed's, or of all seeds') beside the report's, and where in
    `config` it lies.
    """
    profile, metric = current_profile(profile), config["metric"]["name"]
    trials = [record for runs in found(f"{name}_*", profile).values() for record in runs if seed in (None, record.seed)]
    # else they are of a search by another metric
    trials = [record for record in trials if any(metric in row for row in record.rows)]
    best = max(SWEEP, key=lambda k: SWEEP[k][0])
    report = (
        f"the report's best had {describe_point(REPORT_SWEEP, SWEEP[best][0], asdict(experiment(f'sweep_{best}')))}"
    )
    if not trials:
        return f"Nothing seen in {profile} yet: no finished trial of {name}; {report}."
    seeds = seeds_of({name: {record.seed for record in trials}})
    return f"Seen in {profile}, {seeds}: {describe_best(config, trials)}; {report}."


def openings(profile: str | None = None) -> str:
    """How often chapter 5's test set was opened in this profile, and what was found."""
    profile = current_profile(profile)
    lines = find_openings(profile)
    if not lines:
        return f"The test set has not been opened in {profile} yet."
    times = counted(len({(line["run"], line["seed"], line["time"]) for line in lines}), "time")
    said = (
        f"{line['run']} ({line['classifier'].replace('_', ' ')}, seed {line['seed']}) {line['accuracy']:.4g}"
        for line in lines
    )
    return f"The test set has been opened {times} in {profile}: test accuracy {', '.join(said)}."


def table(rows: Sequence[dict]) -> "Markdown":
    """Dicts with the same keys as a table for a notebook; whole numbers grouped by thousands."""
    from IPython.display import Markdown

    head = {key: key.replace("_", " ") for key in rows[0]}
    cells = [[f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()] for row in rows]
    return Markdown(
        markdown(
            [*head.values()], cells, right={head[key] for key, value in rows[0].items() if not isinstance(value, str)}
        )
    )


def results(profile: str | None = None) -> str:
    """Train loss and accuracy at the epoch that counts, of every training that has finished, the search's too, and of
    the baseline.

    That is the last one, with early stopping the restored one. A column a seed. The accuracy is that of the set named
    beside it.
    """
    profile = current_profile(profile)
    names = [*(row.name for row in ROWS if row.kind in ("training", "baseline")), "search_*"]
    runs = {run: records for name in names for run, records in found(name, profile).items()}
    seeds = sorted({record.seed for records in runs.values() for record in records})

    def line(name: str, what: str, measure: Callable[[Record], float]) -> list[str]:
        by_seed = {record.seed: f"{measure(record):.4g}" for record in runs[name]}
        return [name, what, *(by_seed.get(seed, "–") for seed in seeds)]

    lines = []
    for name, records in runs.items():
        if "train_loss" in records[0].rows[-1]:
            lines.append(line(name, "train loss", final_loss))
        lines.append(line(name, f"{records[0].result['split']} accuracy", lambda record: record.result["accuracy"]))
    head = ["run", "", *(f"seed {seed}" for seed in seeds)]
    return markdown(head, lines, right=head[2:])


def sources(profile: str | None = None) -> str:
    """Which records were made by which commit, on which machine, in which precision: a Markdown table."""
    made: dict[tuple[str, ...], dict[str, list[int]]] = {}
    for name, records in found("*", current_profile(profile)).items():
        for record in records:
            by = record.settings["provenance"]
            machine = by["processor"] if by["device"] == "cpu" else by["device"]
            kind = (by["commit"][:7], machine, str(by["threads"]), by["precision"])
            made.setdefault(kind, {}).setdefault(name, []).append(record.seed)
    rows = [
        (*kind, ", ".join(f"{name} ({ranges(seeds)})" for name, seeds in runs.items())) for kind, runs in made.items()
    ]
    return markdown(["commit", "machine", "threads", "precision", "runs (seeds)"], rows)


def prices(names: Collection[str] = EXPERIMENTS) -> str:
    """What one run costs in each profile, estimated for a family of runs together, as `run.py list` has it: a Markdown
    table.

    `names`: the runs that it is to have.
    """
    families: dict[str, list[str]] = {}
    for row in (row for row in ROWS if row.name in names):
        families.setdefault(row.family, []).append(row.name)

    def cost(name: str, profile: str) -> str:
        return duration(estimated_seconds(exp)) if is_supported(exp := experiment(name, profile)) else "–"

    rows = [(", ".join(alike), *(cost(alike[0], profile) for profile in PROFILES)) for alike in families.values()]
    return markdown(["runs", *PROFILES], rows, right=PROFILES)


def verdicts(profile: str | None = None) -> "Markdown":
    """The claim ledger for a notebook; one line in the sample, which judges nothing."""
    from IPython.display import Markdown

    judged = ledger(profile)
    return Markdown(
        ledger_markdown(judged)
        if PROFILES[current_profile(profile)].judged
        else f"No claim is judged: {judged[0].note}."
    )


@contextmanager
def print_errors() -> Iterator[None]:
    """What cannot be done here and now is said in one line, as `run_all` does it, and the notebook goes on."""
    try:
        yield
    except UsageError as error:
        print(error)
