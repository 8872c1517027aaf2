"""What holds for every test (its own runs folder, no W&B, one thread, one cache of decoded sets), and what several
files share.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# before torch is imported, and for processes that tests start
os.environ["OMP_NUM_THREADS"] = os.environ.get("TEST_THREADS", "1")

import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of the user's is read or written, in fixtures of any scope either; a test sets DATA_DIR itself."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("EVIDENCE", "PROFILE", "CHECKPOINT_SECONDS", "WANDB_API_KEY", "DATA_DIR"):
            patch.delenv(name, raising=False)
        patch.setenv("WANDB_MODE", "disabled")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("RUNS_DIR", str(tmp_path_factory.mktemp("runs")))
        yield


@pytest.fixture(autouse=True)
def runs_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own `RUNS_DIR`."""
    path = tmp_path / "runs"
    monkeypatch.setenv("RUNS_DIR", str(path))
    return path


@pytest.fixture
def evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An evidence folder of the test's own, which holds nothing yet."""
    from deepnet.records import reading

    monkeypatch.setattr(reading, "EVIDENCE", tmp_path / "evidence")
    return tmp_path / "evidence"


@pytest.fixture
def with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 is not refused on any processor; one without it emulates it."""
    monkeypatch.setattr("deepnet.training.precision.has_bfloat16", lambda: True)


# ---------------------------------------------------------------- runs of the table's rows


@pytest.fixture
def tiny() -> Iterator[None]:
    """Runs of the sample profile take two steps."""
    from helpers import tiny_sample

    with tiny_sample():
        yield


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every kind, made once by one call that names children before parents: the folder they lie in; not to be
    changed.
    """
    from helpers import ANALYSES, TRAININGS, tiny_sample

    from coreFunction import run_all

    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch, tiny_sample():
        patch.setenv("RUNS_DIR", str(folder))
        names = [*reversed(TRAININGS), *ANALYSES]
        assert [record.name for record in run_all(*names)] == names
    return folder


# ---------------------------------------------------------------- copies of the sets


@pytest.fixture(scope="session")
def few() -> dict[str, dict]:
    """Set -> part -> a few hundred of its rows, in canonical order."""
    from copies import COUNTS, sample_rows

    return {
        name: {part: sample_rows(name, part, n) for part, n in zip(("train", "test"), counts, strict=True)}
        for name, counts in COUNTS.items()
    }


@pytest.fixture(scope="session")
def written(few: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good copy of all three sets; not to be changed."""
    from copies import write_copy

    folder = tmp_path_factory.mktemp("written")
    for name, parts in few.items():
        write_copy(folder / name, name, parts)
    return folder


@pytest.fixture
def published(few: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict]:
    """The sets as if no more than these few images had ever been published, and an empty cache."""
    from deepnet.data import sets

    for name, parts in few.items():
        known = {part: (len(rows), sets.fingerprint(rows)) for part, rows in parts.items()}
        monkeypatch.setitem(sets.FINGERPRINTS, (name, "complete"), known)
    monkeypatch.setitem(sets.VALIDATION, "complete", 100)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield few
    sets._tensors.cache_clear()


@pytest.fixture
def data_dir(published: dict, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DATA_DIR with a good copy of all three sets, to be damaged."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    return shutil.copytree(written, tmp_path / "data")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """`call("list", "--json")` gives exit status, standard output and standard error of run.py."""
    import run

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        try:
            status = run.main()
        except SystemExit as end:  # argparse's own
            status = end.code
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """W&B not turned off, but no account, no key, no files of the user's; and nothing remembered of earlier tests."""
    from offline import forget

    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    forget()
    yield
    monkeypatch.undo()
    forget()
