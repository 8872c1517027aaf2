"""The runs of the atlas by family, the order of their training, and their progress."""

from collections.abc import Iterable, Sequence

from deepnet.grid import FAMILIES, SEEDS
from deepnet.records.reading import find_record
from deepnet.text import Table, duration, ranges
from deepnet.valid import choose
from experimentTable import JUDGED, Experiment, UsageError, estimated_seconds, experiment, is_supported


def family_runs(prefix: str, profile: str, seeds: Sequence[int] | None = None) -> list[Experiment]:
    """Each run of the families whose name begins with `prefix`, once, in the order of training.

    The most informative family comes first. Within a family, all rows of one seed come before the next seed, so that an
    incomplete atlas is balanced. `seeds`: which of the family's own seeds; None means all. Raises UsageError for an
    unknown family, and if none of the families has any of the seeds.

    >>> len(family_runs("atlas_eps", "cpu", seeds=(0,)))
    42
    """
    families = [name for name in FAMILIES if prefix and name.startswith(prefix)] or [choose("family", prefix, FAMILIES)]
    found = [
        experiment(name, profile, seed)
        for family in families
        for seed in SEEDS[family]
        if seeds is None or seed in seeds
        for name in FAMILIES[family]
    ]
    if not found:
        own = dict.fromkeys(seed for family in families for seed in SEEDS[family])
        raise UsageError(f"{prefix} has the seeds {', '.join(map(str, own))}; choose some of these")
    return list(dict.fromkeys(found))


def progress_of(runs: Iterable[Experiment]) -> list[dict]:
    """One dict per row: its name, the number of its runs and of finished ones, and the seconds of the others."""
    lines: dict[str, dict] = {}
    for exp in runs:
        line = lines.setdefault(exp.name, {"name": exp.name, "runs": 0, "finished": 0, "seconds": 0.0})
        record = find_record(exp.name, exp.profile, exp.seed)
        finished = bool(record and record.finished)
        line["runs"] += 1
        line["finished"] += finished
        line["seconds"] += 0 if finished else estimated_seconds(exp)
    return list(lines.values())


def families_table() -> Table:
    """Each family's number of rows, its seeds, and the estimated time of one of its runs in each profile."""

    def estimate(family: str, profile: str) -> str:
        exp = experiment(FAMILIES[family][-1], profile)  # the first ones may be shared with another family
        return duration(estimated_seconds(exp)) if is_supported(exp) else "–"

    rows = [
        (family, str(len(names)), ranges(SEEDS[family]), *(estimate(family, profile) for profile in JUDGED))
        for family, names in FAMILIES.items()
    ]
    return Table(["family", "rows", "seeds", *JUDGED], rows)
