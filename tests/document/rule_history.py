"""When the rules were last changed, read from git: the state of each rule's text at each commit that touched it."""

import ast
import os
import subprocess
from collections.abc import Iterator

from helpers import ROOT

# where the rules have stood, the oldest places first
PLACES = (
    "report/claims.py", "report/rules_depth.py", "report/rules_tuning.py", "deepnet/claims/rules_depth.py",
    "deepnet/claims/rules_tuning.py", "deepnet/claims/rules.md",
)  # fmt: skip
SUFFIX = " ends with macro accuracy above .5"  # of the four questions whose rule once stood in a loop


def git(*arguments: str) -> str:
    """What a git command prints. Raises CalledProcessError where it fails."""
    utc = os.environ | {"TZ": "UTC"}  # dates of one time zone are ordered as texts
    return subprocess.run(["git", *arguments], cwd=ROOT, env=utc, capture_output=True, text=True, check=True).stdout


def _rules_in(place: str, text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(id, what is said, measured, and holds) for each rule in a file as it was at some commit."""
    if place.endswith(".md"):
        for line in text.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if line.startswith("|"):
                yield cells[0], tuple(cells[1:4])
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("rule", "learning"):
            said = [str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)]
            if node.func.id == "learning" and len(said) == 3:
                said = [*said[:2], "", said[2] + SUFFIX]
            if len(said) > 3:
                yield said[0], tuple(said[1:4])


def last_changes() -> dict[str, str]:
    """Rule -> the ISO date of the commit since which its text is what it is today, through its former places."""
    changed: dict[str, tuple[str, tuple[str, ...]]] = {}
    for line in git("log", "--reverse", "--date=iso-strict-local", "--format=%H %cd", "--", *PLACES).splitlines():
        commit, date = line.split()
        for place in git("ls-tree", "--name-only", commit, *PLACES).split():
            for claim, said in _rules_in(place, git("show", f"{commit}:{place}")):
                if claim not in changed or changed[claim][1] != said:
                    changed[claim] = date, said
    return {claim: date for claim, (date, _) in changed.items()}


def first_records() -> dict[tuple[str, str, int], str]:
    """(profile, run, seed) -> the ISO date of the commit that added its first record."""
    first: dict[tuple[str, str, int], str] = {}
    options = ("--reverse", "--diff-filter=A", "--date=iso-strict-local", "--format=@%cd", "--name-only")
    date = ""
    for line in git("log", *options, "--", "report/records").splitlines():
        if line.startswith("@"):
            date = line[1:]
        elif line.endswith("/result.json") and "/superseded/" not in line:
            profile, run, seed = line.split("/")[-4:-1]
            first.setdefault((profile, run, int(seed.removeprefix("seed-"))), date)
    return first
