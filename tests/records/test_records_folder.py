"""A records folder that another process holds, that cannot be written, or whose disk is full: one line, and the run
goes on later.
"""

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


def test_a_run_that_another_process_holds_is_said_in_one_line(runs_dir):
    lock = runs_dir / "own" / "held" / ".seed-0.lock"
    lock.parent.mkdir(parents=True)
    code = "import sys, filelock as f; lock = f.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        refused(
            lambda: pipeline(mlp(), digits(), held(), name="held"),
            "held (seed 0) is being trained by another process",
            "wait for it",
        )
        assert pipeline(mlp(), digits(), held(), name="held", seed=1, epochs=1).finished  # another seed is another run
        other.stdin.close()
        other.wait()
    assert pipeline(mlp(), digits(), held(), name="held", epochs=1).finished


def test_a_records_folder_that_cannot_be_written_is_said_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "file" / "runs"))
    message = refused(lambda: pipeline(mlp(), digits(), held(), name="x"), "cannot write records to", "Not a directory")
    assert message.endswith("set RUNS_DIR to a folder you can write to")
    assert pipeline(mlp(), digits(), held(), name="x", epochs=1, record=False).finished  # it needs none


class Full:
    """No file grows beyond so many bytes, as on a full disk."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __enter__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@pytest.mark.parametrize("file", ["settings.json", "rows.jsonl", "checkpoint.pt", "weights.pt"])
def test_a_full_disk_is_said_in_one_line_and_the_run_goes_on_later(runs_dir, monkeypatch, file):
    """Limits are chosen so that each file in turn is the first that does not fit; a checkpoint that was there still
    counts.
    """
    monkeypatch.setenv("CHECKPOINT_SECONDS", "3600" if file == "weights.pt" else "0")
    epochs = 30 if file == "rows.jsonl" else 2
    if file == "rows.jsonl":  # the other files are not in the way of the rows
        monkeypatch.setattr(RunFolder, "checkpoint", lambda self, state: None)

    def train(name):
        model = mlp()
        return pipeline(model, digits(), held(), name=name, epochs=epochs, resume=True, keep_weights=True), state(model)

    straight, expected = train("straight")
    size = 100 if file == "settings.json" else 500 + (straight.path / "settings.json").stat().st_size
    with Full(size):
        message = refused(lambda: train("full"), "cannot write records to", file, "File too large")
        assert "make room" in message
    left = {path.name for path in (runs_dir / "own" / "full").rglob("*")}
    assert left == {".seed-0.lock"}  # without a checkpoint there is nothing to go on from
    if file == "rows.jsonl":
        monkeypatch.undo()
    record, weights = train("full")
    assert untimed(record.rows) == untimed(straight.rows)
    assert same(weights, expected)


def test_an_error_that_is_not_the_disk_s_is_not_explained_away(tmp_path):
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


def test_ctrl_c_while_torch_writes_stays_ctrl_c(tmp_path):
    whole = Interrupted(0)
    torch.save({"weights": torch.zeros(10)}, whole)
    assert -whole.left > 10
    for n in range(1, 1 - whole.left):
        with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "file") as part:
            part.touch()
            torch.save({"weights": torch.zeros(10)}, Interrupted(n))
    assert not list(tmp_path.iterdir())
