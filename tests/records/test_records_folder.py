"""A records folder that another process holds, that cannot be written, or whose disk is full: one line, no loss."""

import io
import resource
import subprocess
import sys

import pytest
import torch
from helpers import digits, held, mlp, refused, same, state, untimed

from coreFunction import pipeline
from deepnet.records.files import atomic
from deepnet.records.folder import RunFolder
from experimentTable import UsageError

HOLD = """
import sys, filelock
with filelock.FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_run_that_another_process_trains(runs_dir):
    lock = runs_dir / "own" / "held" / ".seed-0.lock"
    lock.parent.mkdir(parents=True)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, lock], **pipes) as other:
        assert other.stdout.readline() == "held\n"
        busy = "held (seed 0) is being trained by another process; wait for it"
        refused(lambda: pipeline(mlp(), digits(), held(), name="held"), busy)
        assert pipeline(mlp(), digits(), held(), name="held", seed=1, epochs=1).finished  # another seed is another run
        other.stdin.close()
        other.wait()
    assert pipeline(mlp(), digits(), held(), name="held", epochs=1).finished


def test_read_only_folder(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "file" / "runs"))
    message = refused(lambda: pipeline(mlp(), digits(), held(), name="x"), "cannot write records to", "Not a directory")
    assert message.endswith("set RUNS_DIR to a folder you can write to")
    assert pipeline(mlp(), digits(), held(), name="x", epochs=1, record=False).finished  # it needs none


class Full:
    """No file can grow beyond this size, as on a full disk."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __enter__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@pytest.mark.parametrize("file", ["settings.json", "rows.jsonl", "checkpoint.pt", "weights.pt"])
def test_full_disk(runs_dir, monkeypatch, file):
    """The run is refused, and can be made later. Limits are such that `file` is the first that does not fit."""
    monkeypatch.setenv("CHECKPOINT_SECONDS", "3600" if file == "weights.pt" else "0")
    epochs = 30 if file == "rows.jsonl" else 2
    if file == "rows.jsonl":  # a checkpoint would not fit either
        monkeypatch.setattr(RunFolder, "checkpoint", lambda self, state: None)

    def train(name):
        model = mlp()
        return pipeline(model, digits(), held(), name=name, epochs=epochs, resume=True, keep_weights=True), state(model)

    straight, expected = train("straight")
    size = 100 if file == "settings.json" else 500 + (straight.path / "settings.json").stat().st_size
    with Full(size):
        refused(lambda: train("full"), "cannot write records to", file, "File too large", "make room")
    assert {path.name for path in (runs_dir / "own" / "full").rglob("*")} == {".seed-0.lock"}
    if file == "rows.jsonl":
        monkeypatch.undo()
    record, weights = train("full")
    assert untimed(record.rows) == untimed(straight.rows)
    assert same(weights, expected)


def test_other_errors_pass(tmp_path):
    with pytest.raises(RuntimeError, match="something else"), atomic(tmp_path / "file"):
        raise RuntimeError("something else")
    with pytest.raises(UsageError, match="No space left on device"), atomic(tmp_path / "file"):
        raise OSError(28, "No space left on device")


class Interrupted(io.BytesIO):
    """Ctrl-C comes in the n-th writing to this file."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.left = n

    def write(self, data: object) -> int:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return super().write(data)


def test_ctrl_c_while_torch_writes(tmp_path):
    whole = Interrupted(0)
    torch.save({"weights": torch.zeros(10)}, whole)
    assert -whole.left > 10
    for n in range(1, 1 - whole.left):
        with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "file") as part:
            part.touch()
            torch.save({"weights": torch.zeros(10)}, Interrupted(n))
    assert not list(tmp_path.iterdir())
