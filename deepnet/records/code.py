"""The code that makes a record: its commit, and whether the modules that this process uses are those of the commit."""

import functools
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from deepnet.text import listed

ROOT = Path(__file__).resolve().parents[2]


def modules(root: Path, commit: str | None = None) -> list[Path]:
    """The project's own modules, at the top and in `deepnet`.

    With `commit`, modules that are not in that commit are left out unless this process has imported them.
    """
    found = [*root.glob("*.py"), *root.glob("deepnet/**/*.py")]
    # editors leave links whose names begin with a dot
    found = [path for path in found if not path.name.startswith(".") and path.is_file()]
    if commit:
        committed, imported = _committed(root, commit), _imported(root, found)
        found = [path for path in found if path in imported or path.relative_to(root).as_posix() in committed]
    return sorted(found)


def _imported(root: Path, paths: Iterable[Path]) -> set[Path]:
    """The modules among `paths` that this process has imported, or runs as its script."""
    names = [".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    files = {getattr(sys.modules.get(name), "__file__", None) for name in (*names, "__main__")} - {None}
    resolved = {Path(str(file)).resolve() for file in files}
    return {path for path in paths if path.resolve() in resolved}


def _stamps(root: Path) -> dict[Path, tuple[int, int]]:
    return {path: ((found := path.stat()).st_mtime_ns, found.st_size) for path in modules(root)}


# The modules when this process began. If a file has been written since, it is unknown whether this process imported it
# before or after.
_AT_START = _stamps(ROOT)


def _written_since_start(root: Path) -> list[str]:
    """The imported modules of the project that have been written since this process began."""
    now = _stamps(root)
    changed = [path for path in _AT_START.keys() | now.keys() if _AT_START.get(path) != now.get(path)]
    ours = _imported(root, [path for path in changed if path.is_relative_to(root)])
    return sorted(path.relative_to(root).as_posix() for path in ours)


def fingerprint(root: Path, commit: str | None = None) -> str:
    """sha256 of the names and contents of the project's `modules`, as they are on the disk now."""
    total = hashlib.sha256()
    for path in modules(root, commit):
        content = path.read_bytes()
        total.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return total.hexdigest()


def state(root: Path = ROOT) -> dict:
    """The entries of a record for the code that makes it: `commit`, `dirty`, `uncommitted` and `code`.

    `commit` is None unless `root` is a repository of its own. `uncommitted` is the reason why the code is not that of
    the commit (a module differs, is imported but not committed, or was written after this process began), or None;
    `dirty` is whether there is a reason. `code` is the `fingerprint`.
    """
    commit, reason = None, ""
    try:
        top, head = _git(root, "rev-parse", "--show-toplevel", "HEAD").splitlines()
        if Path(top).resolve() != root.resolve():
            reason = f"{root} lies within another repository, {top}"
        else:
            if differing := _differing(root, head):
                reason = f"differs from commit {head[:7]}: {listed(differing)}"
            commit = head
    except subprocess.CalledProcessError as error:
        reason = f"{root} is not a git repository with a commit"
        if "dubious ownership" in error.stderr:
            reason = f"git refuses a folder of another user; `git config --global --add safe.directory {root}`"
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        reason = f"git does not answer ({type(error).__name__})"
    if not reason and (written := _written_since_start(root)):
        reason = f"written after this process had begun: {', '.join(written)}; restart it"
    return {"commit": commit, "dirty": bool(reason), "uncommitted": reason or None, "code": fingerprint(root, commit)}


def _git(root: Path, *arguments: str, stdin: str | None = None) -> str:
    """The output of git for the repository around `root`, ignoring git's variables in the environment."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")} | {"LC_ALL": "C"}
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(
        command, input=stdin, env=environment, capture_output=True, encoding="utf-8", timeout=30, check=True
    ).stdout  # fmt: skip


@functools.lru_cache(maxsize=4)
def _committed(root: Path, commit: str) -> dict[str, str]:
    """The commit's modules and their hashes."""
    hashes = {}
    for entry in _git(root, "ls-tree", "-r", "-z", commit, "--", ".").split("\0"):
        about, _, path = entry.partition("\t")
        if path.endswith(".py") and ("/" not in path or path.startswith("deepnet/")):
            hashes[path] = about.split()[2]
    return hashes


def _differing(root: Path, commit: str) -> list[str]:
    """The modules that differ from the commit (changed, added or removed), whatever git's index says."""
    committed = _committed(root, commit)
    found = [path.relative_to(root).as_posix() for path in modules(root, commit)]
    # hashed as git would store them, with its own line endings
    hashes = _git(root, "hash-object", "--stdin-paths", stdin="\n".join(found) + "\n").split()
    differing = committed.items() ^ dict(zip(found, hashes, strict=True)).items()
    return sorted({path for path, _ in differing})


def why_not_one_commit(parts: Sequence[dict]) -> str | None:
    """Why a run was not made by one commit, or None if it was.

    `parts`: the provenance of each call that trained a part of it. The last part ends in this process, whose code may
    have changed meanwhile.
    """
    if dirty := next((part for part in parts if part.get("dirty") or not part.get("commit")), None):
        return dirty.get("uncommitted") or "its code was not committed"
    if len(commits := {part["commit"][:7] for part in parts}) > 1:
        return f"its parts were made by several commits, {', '.join(sorted(commits))}"
    if code := parts[-1].get("code"):
        written = _written_since_start(ROOT)
        try:
            now = fingerprint(ROOT, parts[-1]["commit"])
        except (OSError, subprocess.SubprocessError):  # git no longer answers; a finished run is not lost for that
            now = fingerprint(ROOT)
        if written or code != now:
            return f"its code was changed while it ran{': ' * bool(written)}{', '.join(written)}"
    return None
