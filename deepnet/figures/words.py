"""What was seen, as small tables with every number taken from the records."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from deepnet.claims.ledger import Ledger, check, ledger
from deepnet.claims.measures import final_loss, knn_skill, step_ratios
from deepnet.figures.registry import FIGURES, found
from deepnet.figures.sweep import SWEEP
from deepnet.records.reading import Record, find_openings
from deepnet.search.sweep import REPORT_SWEEP, read_sweep
from deepnet.search.trials import score
from deepnet.text import DATA, Table, duration, ranges
from experimentTable import (
    ATLAS,
    EXPERIMENTS,
    JUDGED,
    PROFILES,
    ROWS,
    TABLE,
    UsageError,
    choose,
    current_profile,
    estimated_seconds,
    experiment,
    is_supported,
)

Runs = Mapping[str, Sequence[Record]]  # name -> its finished records of all seeds
Row = dict[str, str]  # column -> cell


def _find(what: Sequence[str], profile: str | None) -> tuple[Runs, str]:
    """The records of runs, and a caption that names their profile and what has no record."""
    asked = current_profile(profile)
    names = [run for name in what for run in (FIGURES[name].runs if name in FIGURES else [name])]
    for name in names:
        if not name.startswith("search_"):
            choose("run or figure", name, [*FIGURES, *TABLE])
    for at in dict.fromkeys((asked, *JUDGED)):
        by_name = {name: found(name, at) for name in names}
        if any(by_name.values()):
            break
    else:
        return {}, f"No finished record of {', '.join(names)} in {asked}."
    caption = f"Profile {at}{f' ({asked} has no record of these runs)' if at != asked else ''}."
    if missing := [name for name, records in by_name.items() if not records]:
        caption += f" No finished record of {', '.join(missing)}."
    return {name: records for runs in by_name.values() for name, records in runs.items()}, caption


def _spread(values: Sequence[float], digits: int = 3) -> str:
    """The mean and, of several values, their standard deviation: "0.912 ± 0.008"."""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def _with_spread(caption: str, rows: Sequence[Row]) -> str:
    """The caption, which says what "±" is where it stands in a row."""
    if not any("±" in cell for row in rows for cell in row.values()):
        return caption
    return f"{caption} Mean ± standard deviation over the {'seeds' if 'seeds' in rows[0] else 'blocks'}."


def _number(value: object) -> str:
    """A number or a name; whole numbers grouped by thousands."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


def _seeds(records: Sequence[Record]) -> str:
    """The seeds of the records: "0-2, 5"."""
    return ranges(record.seed for record in records)


def _of(records: Sequence[Record], key: str) -> list[Any]:
    """An entry of each record's result."""
    return [record.result[key] for record in records]


def _rows(name: str, records: Sequence[Record]) -> Iterator[Row]:
    """The lines of one run; those of one kind have the same columns."""
    first, kind = records[0].result, EXPERIMENTS[name].kind if name in EXPERIMENTS else "training"
    if kind == "distribution":
        for data, images in first["counts"].items():
            least, most = f"{min(images):,}", f"{max(images):,}"
            yield {"data set": DATA[data], "classes": f"{len(images)}", "fewest training images": least, "most": most}
    elif kind == "tsne":
        data, skill = DATA[experiment(name).dataset], _spread([*map(knn_skill, records)])
        yield {"data set": data, "classes": f"{first['classes']}", "seeds": _seeds(records), "5-NN skill": skill}
    elif kind == "timing":
        for (plain, residual), ratios in step_ratios(records).items():
            blocks, ratio = f"{len(ratios)}", _spread(ratios, 2)
            yield {"plain": plain, "residual": residual, "blocks": blocks, "step time, residual / plain": ratio}
    else:
        loss = epochs = "–"
        scores = {name: _of(records, "accuracy")}
        if kind == "baseline":
            keys = {f"{name}, {key.replace('_', ' ')}": key for key in first["classifiers"]}
            tried = _of(records, "classifiers")
            scores = {run: [each[key]["validation_accuracy"] for each in tried] for run, key in keys.items()}
        else:
            last, final = set(_of(records, "last_epoch")), set(_of(records, "epoch"))
            epochs = ranges(last) + (f" (restored: {ranges(final)})" if final != last else "")
            loss = _spread([*map(final_loss, records)], 4)
        for run, values in scores.items():
            yield {
                "run": run, "seeds": _seeds(records), "training loss": loss, "accuracy": _spread(values),
                "set": first["split"], "epochs": epochs,
            }  # fmt: skip


def results_table(*what: str, profile: str | None = None, most: int = 8) -> Table:
    """What runs ended at: of trainings a row per run, with mean ± standard deviation over the seeds.

    Trainings count at their final epoch, which with early stopping is the restored one.

    what: names of runs of one kind, or numbers of figures, which stand for the runs that they show.
    profile: where it has no record of these runs, another profile's are shown, and the caption says so.
    most: of more trainings, the most accurate are shown.

    Example: `results_table("3.1")`, `results_table("MLP_4", "MLP_13")`.
    """
    runs, caption = _find(what, profile)
    rows = [row for name, records in runs.items() for row in _rows(name, records)]
    if len({tuple(row) for row in rows}) > 1:
        raise UsageError(f"{', '.join(runs)} are of several kinds; make a table of each")
    caption = _with_spread(caption, rows)
    if len(rows) > most:
        best = sorted(rows, key=lambda row: row["accuracy"], reverse=True)[:most]
        caption += f" The {most} most accurate of {len(rows)} runs."
        rows = [row for row in rows if row in best]
    return table(rows, caption)


def records_of(name: str, profile: str | None = None) -> Sequence[Record]:
    """The finished records of a run, those of another profile with evidence where `profile` has none."""
    return _find([name], profile)[0].get(name, ())


def results_of(name: str, measure: str = "accuracy", profile: str | None = None) -> list[float]:
    """One number per seed of a run: "train_loss" of the final epoch, or an entry of the record's result."""
    records = records_of(name, profile)
    return [*map(final_loss, records)] if measure == "train_loss" else _of(records, measure)


def gradients_table(*what: str, profile: str | None = None) -> Table:
    """The first layer's RMS gradient and the global norm, means over the steps of the first and last epoch."""
    runs, caption = _find(what, profile)
    rows = []
    columns = [
        f"{what}, {end}"
        for what in ("gradient of layer 1, log10 of its RMS", "L2 norm of the whole gradient")
        for end in ("first epoch", "last")
    ]
    for name, records in runs.items():
        trained = [[row for row in record.rows if "gradient_norm" in row] for record in records]
        if all(trained):
            ends = [[rows[at] for rows in trained] for at in (0, -1)]
            rms = (_spread([row["gradient_log10_rms"][0] for row in end], 1) for end in ends)
            norm = (_spread([row["gradient_norm"] for row in end], 2) for end in ends)
            rows.append({"run": name, "seeds": _seeds(records), **dict(zip(columns, (*rms, *norm), strict=True))})
    return table(rows, _with_spread(caption, rows))


def search_table(config: Mapping = REPORT_SWEEP, name: str = "search", profile: str | None = None) -> Table:
    """The five best trials of a search by the metric of `config`, its sweep configuration, and the report's best."""
    sweep, metric = read_sweep(config), config["metric"]["name"]
    runs, caption = _find([f"{name}_*"], profile)
    trials = [record for records in runs.values() for record in records if any(metric in row for row in record.rows)]
    best = sorted(trials, key=lambda record: score(record, sweep), reverse=sweep.maximize)[:5]
    k, (accuracy, _) = max(SWEEP.items(), key=lambda item: item[1])
    points = [(r.name, f"{r.seed}", score(r, sweep), r.settings["experiment"]) for r in best]
    points.append(("the report's best", "–", accuracy, asdict(experiment(f"sweep_{k}"))))
    rows = [
        {"trial": run, "seed": seed, metric: s, **{name: at[name] for name in sweep.parameters}}
        for run, seed, s, at in points
    ]
    return table(rows, f"{caption} The best {len(best)} of {len(trials)} trials.")


def openings_table(profile: str | None = None) -> Table:
    """Each opening of chapter 5's test set in this profile, and what was found."""
    profile = current_profile(profile)
    rows = [
        {"run": line["run"], "classifier": line["classifier"], "seed": line["seed"], "test accuracy": line["accuracy"]}
        for line in find_openings(profile)
    ]
    return table(rows, f"Profile {profile}: every opening of the test set.")


def verdicts_of(*claims: str, profile: str | None = None) -> Ledger:
    """The verdicts on these claims (none: on all); where `profile` has no evidence, that of another which has some.

    Example: `verdicts_of("3a", "3b")`.
    """
    verdicts = Ledger(check(claim, profile) for claim in claims) if claims else ledger(profile)
    for i, verdict in enumerate(verdicts):
        if verdict.verdict == "no evidence":
            others = (check(verdict.id, other) for other in JUDGED if other != verdict.profile)
            seen = next((other for other in others if other.verdict != "no evidence"), None)
            if seen:
                verdicts[i] = replace(seen, note=", ".join(filter(None, [seen.note, f"in {seen.profile}"])))
    return verdicts


def table(rows: Sequence[Mapping], caption: str = "") -> Table:
    """Mappings with the same keys as a table."""
    head = [key.replace("_", " ") for key in rows[0]] if rows else []
    return Table(head, [[*map(_number, row.values())] for row in rows], caption)


def sources(profile: str | None = None) -> Table:
    """Which records were made by which commit, on which machine, in which precision; the atlas's by family."""
    made: dict[tuple[str, ...], dict[str, set[int]]] = {}
    for name, records in found("*", current_profile(profile)).items():
        group = f"{ATLAS[name].family}_*" if name in ATLAS else name
        for record in records:
            by = record.settings["provenance"]
            machine = by["processor"] if by["device"] == "cpu" else by["device"]
            kind = (by["commit"][:7], machine, str(by["threads"]), by["precision"])
            made.setdefault(kind, {}).setdefault(group, set()).add(record.seed)
    runs_of = [", ".join(f"{name} ({ranges(seeds)})" for name, seeds in runs.items()) for runs in made.values()]
    rows = [(*kind, runs) for kind, runs in zip(made, runs_of, strict=True)]
    return Table(["commit", "machine", "threads", "precision", "runs (seeds)"], rows)


def prices(names: Collection[str] = EXPERIMENTS) -> Table:
    """What one of the runs `names` costs in each profile, estimated for a family of runs together."""
    families: dict[str, list[str]] = {}
    for row in (row for row in ROWS if row.name in names):
        families.setdefault(row.family, []).append(row.name)

    def cost(name: str, profile: str) -> str:
        return duration(estimated_seconds(exp)) if is_supported(exp := experiment(name, profile)) else "–"

    rows = [(", ".join(alike), *(cost(alike[0], profile) for profile in PROFILES)) for alike in families.values()]
    return Table(["runs", *PROFILES], rows)


@contextmanager
def print_errors() -> Iterator[None]:
    """Print in one line what cannot be done here and now, as `run_all` does, and let the notebook go on."""
    try:
        yield
    except UsageError as error:
        print(error)
