"""The code that makes a record: which commit it is, and whether what this process has imported is that commit's."""

import functools
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def modules(root: Path, commit: str | None = None) -> list[Path]:
    """The project's own modules: those beside the table and those of `deepnet`.

    commit: leave out what is not in it, unless this process has imported it. A module of the commit counts in any case,
        since it may
    still be imported.
    """
    found = [*root.glob("*.py"), *root.glob("deepnet/**/*.py")]
    # editors leave links with dots
    found = [path for path in found if not path.name.startswith(".") and path.is_file()]
    if commit:
        committed, imported = _committed(root, commit), _imported(root, found)
        found = [path for path in found if path in imported or path.relative_to(root).as_posix() in committed]
    return sorted(found)


def _imported(root: Path, paths: Iterable[Path]) -> set[Path]:
    """Those of these modules that this process has imported, or runs as its script."""
    names = [".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    files = {getattr(sys.modules.get(name), "__file__", None) for name in (*names, "__main__")} - {None}
    there = {Path(str(file)).resolve() for file in files}
    return {path for path in paths if path.resolve() in there}


def _stamps(root: Path) -> dict[Path, tuple[int, int]]:
    return {path: ((found := path.stat()).st_mtime_ns, found.st_size) for path in modules(root)}


# What this process imports is what lay here when it began. A file that was written since may have been imported before
# or after.
_AT_IMPORT = _stamps(ROOT)


def _written_since_import(root: Path) -> list[str]:
    """The imported modules of the project whose file was written after this process had begun."""
    now = _stamps(root)
    ours = _imported(root, [path for path in _AT_IMPORT.keys() | now.keys() if path.is_relative_to(root)])
    return sorted(path.relative_to(root).as_posix() for path in ours if _AT_IMPORT.get(path) != now.get(path))


def fingerprint(root: Path = ROOT, commit: str | None = None) -> str:
    """sha256 of the names and bytes of the `modules` that count beside this commit, as they lie on the disk now."""
    total = hashlib.sha256()
    for path in modules(root, commit):
        content = path.read_bytes()
        total.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return total.hexdigest()


def state(root: Path = ROOT) -> dict:
    """`commit`, `dirty`, `uncommitted` and `code`: what a record says of the code that made it, as it is at this
    moment.

    The commit counts only where `root` is a repository of its own. `uncommitted` says in words what keeps the code from
    being that commit's: a module that differs, is imported and not in it, or was written after this process had
    imported it. None: nothing does, and `dirty` is False. `code` is the `fingerprint`.

    Example::

        state()["commit"]  # "f4fb090...", None outside a repository
    """
    commit, reason, found = None, "", ""
    try:
        top, commit = _git(root, "rev-parse", "--show-toplevel", "HEAD").splitlines()
        if Path(top).resolve() != root.resolve():
            commit, reason = None, f"{root} lies within another repository, {top}"
        elif differing := _differing(root, commit, found := fingerprint(root, commit)):
            more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
            reason = f"not as commit {commit[:7]} has it: {differing[0]}{more}"
    except subprocess.CalledProcessError as error:
        reason = f"{root} is no git repository with a commit"
        if "dubious ownership" in error.stderr:
            reason = f"git trusts no folder of another user's; `git config --global --add safe.directory {root}`"
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        reason = f"git does not answer ({type(error).__name__})"
    if not reason and (written := _written_since_import(root)):
        reason = f"written after this process had begun: {', '.join(written)}; start it anew"
    return {"commit": commit, "dirty": bool(reason), "uncommitted": reason or None, "code": found or fingerprint(root)}


def _git(root: Path, *arguments: str, given: str | None = None) -> str:
    """What git says of the repository around `root`, whatever repository the environment names."""
    surroundings = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")} | {"LC_ALL": "C"}
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(
        command, input=given, env=surroundings, capture_output=True, encoding="utf-8", timeout=30, check=True
    ).stdout  # fmt: skip


@functools.lru_cache(maxsize=4)
def _committed(root: Path, commit: str) -> dict[str, str]:
    """The commit's modules and their hashes."""
    entries = [
        entry.partition("\t") for entry in _git(root, "ls-tree", "-r", "-z", commit, "--", ".").split("\0") if entry
    ]
    return {
        path: about.split()[2]
        for about, _, path in entries
        if path.endswith(".py") and ("/" not in path or path.startswith("deepnet/"))
    }  # fmt: skip


@functools.lru_cache(maxsize=4)
def _differing(root: Path, commit: str, code: str) -> list[str]:
    """The modules that are not as the commit has them: changed, imported beside it or gone, whatever git's index says
    of them.

    code: the `fingerprint`, so that what is remembered is of these very bytes.
    """
    committed = _committed(root, commit)
    there = [path.relative_to(root).as_posix() for path in modules(root, commit)]
    # as git would store them
    hashes = _git(root, "hash-object", "--stdin-paths", given="\n".join(there) + "\n").split()
    here = dict(zip(there, hashes, strict=True))
    return sorted(path for path in committed.keys() | here.keys() if committed.get(path) != here.get(path))


def why_not_one_commit(parts: Sequence[dict], root: Path = ROOT) -> str | None:
    """Why what these parts of a run have made, the last one until now, is not one commit's work; None where it is.

    parts: the provenance of each. A run's last part ends in the process that calls this, whose code may have been
        changed meanwhile.
    """
    if dirty := next((part for part in parts if part.get("dirty") or not part.get("commit")), None):
        return dirty.get("uncommitted") or "its code was not committed"
    if len(commits := {part["commit"][:7] for part in parts}) > 1:
        return f"its parts were made by several commits, {', '.join(sorted(commits))}"
    if code := parts[-1].get("code"):
        written = _written_since_import(root)
        try:
            now = fingerprint(root, parts[-1]["commit"])
        # git does not answer any more; a run that has ended is not lost for that
        except (OSError, subprocess.SubprocessError):
            now = fingerprint(root)
        if written or code != now:
            return f"its code was changed while it ran{': ' * bool(written)}{', '.join(written)}"
    return None
