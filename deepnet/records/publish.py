"""Publishing: a record is copied to the committed evidence, together with earlier attempts."""

import shutil
from pathlib import Path

from deepnet.records import reading
from deepnet.records.files import append_line, atomic, read_lines, writing
from deepnet.records.reading import WEIGHTS, Record, find_openings
from experimentTable import UsageError


def publish(record: Record) -> Path:
    """Copy a record without its weights to the evidence; returns the folder there.

    Its openings of the test set are copied with it and, for a trial, the database of its search. Earlier attempts at
    this run, and the record that it replaces in the evidence, go to `superseded/<profile>/<name>/`. Raises UsageError
    for a record that is unfinished, damaged, or not made by one commit.
    """
    label = f"{record.name} (seed {record.seed})"
    if not record.result:
        raise UsageError(f"{label} is not finished; train it first")
    made = record.settings["provenance"]
    if record.result.get("uncommitted") or made["dirty"] or not made["commit"]:
        reason = record.result.get("uncommitted") or made.get("uncommitted") or "its commit does not have that code"
        raise UsageError(f"{label} was made from uncommitted code ({reason}); commit, and train it with --fresh")
    for file in record.result["sha256"].keys() - {WEIGHTS}:
        record.read(file)
    evidence = reading.EVIDENCE
    target = evidence / record.profile / record.name / record.path.name
    superseded = evidence / "superseded" / record.profile / record.name
    with writing(target):
        if target.exists() and Record(target).result != record.result:
            ended = Record(target).result.get("ended") or Record(target).settings["provenance"]["commit"][:7]
            _copy(target, superseded / f"{target.name}.{ended.replace(':', '')}")
            shutil.rmtree(target)
        for attempt in record.path.parent.glob(f"{record.path.name}.*"):
            _copy(attempt, superseded / attempt.name)
        _copy(record.path, target)
    if (database := record.path.parents[1] / f"{record.name.rpartition('_')[0]}.sqlite").exists():
        with atomic(evidence / record.profile / database.name) as part:
            shutil.copyfile(database, part)
    logged = evidence / record.profile / "openings.jsonl"
    for opening in find_openings(record.profile, evidence=False):
        if (opening["run"], opening["seed"]) == (record.name, record.seed) and opening not in read_lines(logged):
            append_line(logged, opening)
    return target


def _copy(attempt: Path, target: Path) -> None:
    shutil.copytree(attempt, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.pt", ".*"))
