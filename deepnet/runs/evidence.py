"""The runs that are still missing to judge every claim on several seeds, and the order in which to train them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from statistics import median

from deepnet.claims.evidence import Evidence
from deepnet.claims.ledger import RULES
from deepnet.records.reading import find_record, find_records
from deepnet.runs.arguments import untrained_parents
from deepnet.runs.verification import committed
from deepnet.valid import whole
from experimentTable import EXPERIMENTS, Experiment, estimated_seconds, experiment, is_supported

SEEDLESS = ("distribution",)  # kinds whose results do not depend on the seed


@dataclass(frozen=True)
class Missing:
    """A run that a claim still needs."""

    exp: Experiment
    claim: str  # the first claim in the queue that needs it
    seconds: float  # estimated, without its parents
    published: bool  # whether the evidence has it, so that it is trained again only for its weights


def runs_of(claim: str, profile: str) -> list[str]:
    """The rows of the table that the rule of `claim` reads.

    >>> runs_of("3b", "cpu")
    ['MLP_4', 'MLP_23', 'MLP_13']
    """
    names: list[str] = []

    def note(name: str) -> list:
        names.append(name)
        return []

    list(RULES[claim].parts(Evidence(profile, note, ())))
    return [name for name in dict.fromkeys(names) if name in EXPERIMENTS]


def seconds_of(exp: Experiment) -> float:
    """The estimated seconds of a run: from its other seeds' records, else from the table.

    Records hold the seconds of training; those of evaluation and preparation are added by a rule of thumb.
    """
    records = find_records(exp.name, exp.profile)
    times = [sum(row.get("train_seconds", 0.0) for row in record.rows) for record in records]
    times = [seconds for seconds in times if seconds]
    return 1.2 * median(times) + 60 if times else estimated_seconds(exp)


def missing_evidence(profile: str, seeds: int) -> list[Missing]:
    """The runs that are missing to judge each claim on seeds 0 to `seeds` - 1, in the order in which to train them.

    The claim that needs the least time comes first, so that the most claims per minute are decided; a run that serves
    several claims is listed once. A run's parents come before it, even if only their weights are missing. The order
    does not depend on any outcome. Raises UsageError for an unknown profile and an invalid number of seeds.

    >>> [(run.exp.name, run.exp.seed) for run in missing_evidence("cpu", 3)][:2]  # doctest: +SKIP
    [('MLP_4', 2), ('MLP_13', 2)]
    """
    seeds = whole("seeds", seeds, least=1)
    waiting = {claim: list(_missing_runs(claim, profile, seeds)) for claim in RULES}
    # A run takes as long with any seed, so the records of its other seeds are read once.
    seconds = cache(lambda name: seconds_of(experiment(name, profile)))
    queue: dict[Experiment, Missing] = {}

    def remaining(claim: str) -> float:
        return sum(seconds(exp.name) for exp in waiting[claim] if exp not in queue)

    while any(remaining(claim) for claim in waiting):
        claim = min((claim for claim in waiting if remaining(claim)), key=remaining)
        for exp in waiting.pop(claim):
            published = exp.seed in committed(exp.name, profile)
            queue.setdefault(exp, Missing(exp, claim, seconds(exp.name), published))
    return list(queue.values())


def _missing_runs(claim: str, profile: str, seeds: int) -> Iterator[Experiment]:
    """The runs that the claim lacks, parents before children."""
    names = runs_of(claim, profile)
    for seed in range(seeds):
        for name in names:
            exp = experiment(name, profile, seed)
            found = find_record(name, profile, seed)
            if is_supported(exp) and not (exp.kind in SEEDLESS and seed) and not (found and found.result):
                yield from reversed(untrained_parents(exp))
                yield exp
