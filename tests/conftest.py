"""What holds for every test: its own runs folder, no W&B, one thread, one cache of decoded sets for the whole session."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the processes that tests start

import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of the user's is read or written, in fixtures of any scope either; `DATA_DIR` alone is let through."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("EVIDENCE", "PROFILE", "CHECKPOINT_SECONDS", "WANDB_API_KEY"):
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
def tiny() -> Iterator[None]:
    """Runs of the sample profile take two steps."""
    from helpers import tiny_sample

    with tiny_sample():
        yield
