"""What a notebook calls around training: seeds and device, Weights & Biases, figures and verdicts.

W&B mirrors the records: a run's rows while it trains, its result when it ends, any record afterwards, and the figures.
"""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from secrets import token_hex
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from deepnet.account import complaint, print_once, wandb_mode, wandb_state
from deepnet.claims.ledger import check, ledger
from deepnet.data.sets import CLASS_NAMES, ImageSet, is_available_locally, known_fingerprint, load_images
from deepnet.diagnosis.diagnosing import diagnose
from deepnet.machine import device
from deepnet.progress import bar
from deepnet.records.reading import PREDICTIONS, WEIGHTS, Record, runs_dir
from deepnet.seeds import seed_everything
from deepnet.text import counted, listed
from experimentTable import CLASSES, PROJECT, Experiment, UsageError
from myModel import MODELS, count_modules, count_parameters, replace_head

if TYPE_CHECKING:
    from deepnet.figures.registry import curves, draw, save, show

__all__ = [
    "check", "curves", "device", "diagnose", "draw", "ledger", "mirror", "save", "seed_everything", "show", "sync",
]  # fmt: skip

# ---------------------------------------------------------------- Weights & Biases

MAX_MISCLASSIFIED = 32  # images in the table of misclassified ones


class Mirror:
    """Writes a run to W&B, row by row, while it trains or afterwards. The record does not depend on it.

    It writes online if wandb knows a key, else offline to `<runs>/wandb`, and nothing with `WANDB_MODE=disabled`. If
    W&B fails, the reason is printed once, training continues, and `complete` is False. Use it within `closing`.
    """

    open: ClassVar[list["Mirror"]] = []
    reachable = True  # False once a run could not be opened: each further try could wait half a minute

    def __init__(self, record: Record, wandb_run: Any = None, model: nn.Module | None = None) -> None:
        """`wandb_run`: an open W&B run to write to, which stays open. `model`: its size is written to the config."""
        self._run, self._rows, self.complete, self._stays_open = None, 0, False, wandb_run is not None
        if Mirror.reachable and self._quietly(wandb_mode) in ("online", "offline"):
            self.complete = True
            self._run = self._quietly(_open_run, record, wandb_run, model)
            Mirror.reachable = self._run is not None
            Mirror.open += [self] if self._run else []
        for row in record.rows:  # a resumed run is written from its beginning, since offline runs cannot be continued
            self.log(row)

    def log(self, row: dict) -> None:
        """Write one row as one step; a list, which has one entry per layer, becomes one metric per layer."""
        if self._run:
            self._quietly(self._run.log, _flat(row), step=self._rows)
            self._rows += 1

    def finish(self, record: Record, weights: bool = False) -> None:
        """Write the record's result, its tables and, with `weights`, its weights, and close the run."""
        if not self._run:
            return
        if self._rows:
            last = self._rows - 1
            self._quietly(self._run.log, self._quietly(_tables, record) or {}, step=last)
            self._quietly(self._run.log, {}, step=last, commit=True)  # else the last row would overwrite the summary
        self._quietly(self._run.summary.update, _summary(record))
        if weights:
            self._quietly(_log_weights, self._run, record)
        self.close(0 if record.finished else 1)

    def close(self, exit_code: int) -> None:
        """Close the run; W&B derives its state from `exit_code`."""
        Mirror.open.remove(self)
        if self._run and not self._stays_open:
            self._quietly(self._run.finish, exit_code)

    def _quietly(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        """The call's result, or None after printing what W&B could not do: training must not depend on it."""
        try:
            return call(*args, **kwargs)
        except Exception as error:
            self.complete = False
            print_once(f"{complaint(error)}; the records are complete.")
            return None


@contextmanager
def closing() -> Iterator[None]:
    """Close mirrors opened in the block if it raises: as failed, or after Ctrl-C as killed.

    Otherwise W&B would show the run as running until the process ends, and then as finished.
    """
    before = [*Mirror.open]
    try:
        yield
    except BaseException as error:
        for mirrored in [mirrored for mirrored in Mirror.open if mirrored not in before]:
            mirrored.close(255 if isinstance(error, KeyboardInterrupt) else 1)  # W&B's own codes
        raise


@closing()
def mirror(record: Record, weights: bool = False) -> bool:
    """Write any record to W&B, each time as a new run; returns whether all of it was written.

    `weights`: write its weights too, as an artifact of type "model". Raises UsageError if it has none.

    Example::

        mirror(run("MLP_4"))
    """
    if weights:
        record.weights()
    opened = Mirror(record)
    opened.finish(record, weights)
    return opened.complete


def sync(records: list[Record], profile: str, weights: bool = False) -> str:
    """Mirror `records`, with `weights` also their weights, and the profile's figures; returns a line that says where.

    Raises UsageError if nothing can be uploaded, and at the end if something was not.
    """
    if obstacle := wandb_state()[1]:
        remedy = "`wandb login` first, or set WANDB_MODE=offline to write runs for later"
        raise UsageError(f"nothing was uploaded: {obstacle}; {remedy}")
    missed, line = [], bar(len(records) + 1, "to W&B", unit="run")
    try:
        for record in records:
            missed += [] if mirror(record, weights and record.has_weights) else [f"{record.name} (seed {record.seed})"]
            line.update(1)
        figures = _log_figures(profile)
        line.update(1)
    finally:
        line.close()
    missed += [] if figures else ["the figures"]
    if missed:
        raise UsageError(f"incomplete in W&B: {listed(missed)}; the same command writes everything again")
    there = f"in project {PROJECT}"
    if wandb_mode() == "offline":
        folder = (runs_dir() / "wandb").resolve()
        there = f"written to {folder}; `wandb sync {folder}/offline-run-*` uploads them"
    return f"W&B: {counted(len(records), 'run')} and {counted(figures, 'figure')} {there}"


# ---------------------------------------------------------------- what a run holds


def _init(name: str | None, profile: str, **options: Any) -> Any:
    import wandb

    folder = runs_dir()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("WANDB_DATA_DIR", str((folder / "wandb").resolve()))  # for the images of offline runs
    # WANDB_RUN_ID and WANDB_RESUME would make all runs one run; an agent sets the first for the run that it expects.
    own: Any = {"id": token_hex(8), "resume": "never"} if name else {}
    settings = wandb.Settings(
        init_timeout=30, silent=True, console="off", x_disable_stats=True, x_disable_meta=True, disable_git=True,
        disable_code=True,
    )  # fmt: skip
    return wandb.init(
        project=PROJECT, name=name, tags=[profile], dir=folder, mode=wandb_mode(), reinit="create_new",
        settings=settings, **own, **options,
    )  # fmt: skip


def _open_run(record: Record, wandb_run: Any = None, model: nn.Module | None = None) -> Any:
    """`wandb_run`, or a new W&B run, under the record's name and seed, with the record's settings as its config."""
    exp = record.settings["experiment"]
    places = {key: exp[key] for key in ("name", "profile", "seed")}
    group = f"chapter {exp['chapter']}" if exp["chapter"] else None  # a reader's own run has no chapter
    model = model or _model_of(record)
    size = {"deep": count_modules(model), "parameters": count_parameters(model)} if model else {}
    config = record.settings["identity"] | record.settings["provenance"] | places | size
    name = f"{exp['name']}-seed{exp['seed']}"
    if wandb_run:
        wandb_run.name = name
        wandb_run.config.update(config)  # keeps what the sweep has set
    run = wandb_run or _init(name, exp["profile"], group=group, config=config)
    if exp["kind"] == "training":
        run.define_metric("epoch")
        run.define_metric("*", step_metric="epoch")
    return run


def _model_of(record: Record) -> nn.Module | None:
    """The record's model on the meta device; None for a reader's own model and for an analysis."""
    made = record.settings["identity"]
    if record.settings["experiment"]["kind"] != "training" or made["model"] not in MODELS or "image_size" not in made:
        return None
    with torch.device("meta"):
        model = MODELS[made["model"]](image_size=made["image_size"])
        return replace_head(model, CLASSES[made["dataset"]]) if made["model"] == "resnet18" else model


@contextmanager
def open_for_sweep(exp: Experiment) -> Iterator[Any]:
    """The W&B run of a sweep's agent, with the trial's values as its config; failed if no record has finished."""
    run = _init(None, str(exp.profile), group=f"chapter {exp.chapter}")
    try:
        yield run
    finally:
        run.finish(0 if run.summary.get("status") == "finished" else 1)


def _flat(row: dict) -> dict:
    """A row without missing values, each list as one metric per layer."""
    lists = {key: value for key, value in row.items() if isinstance(value, list)}
    layers = {f"{key}/layer_{i:02d}": value for key, values in lists.items() for i, value in enumerate(values)}
    return {key: value for key, value in (row | layers).items() if key not in lists and value is not None}


def _summary(record: Record) -> dict:
    """The result, and the row of its epoch, which is the restored or the last one."""
    row = next((row for row in record.rows if "epoch" in row and row["epoch"] == record.result.get("epoch")), {})
    return _flat(row) | record.result


def _tables(record: Record) -> dict:
    """The confusion matrix of the record's predictions and, if the images are at hand, the first misclassified ones."""
    import wandb

    if PREDICTIONS not in record.result.get("sha256", {}):
        return {}
    targets, predictions = record.predictions().astype(int)
    outputs = max(record.result["classes"], targets.max() + 1, predictions.max() + 1)  # a model may have more outputs
    names = CLASS_NAMES.get(record.settings["experiment"]["dataset"]) or [*map(str, record.settings.get("classes", []))]
    names = [*names, *map(str, range(len(names), outputs))]
    pairs, counts = np.unique(np.stack([targets, predictions]), axis=1, return_counts=True)
    columns = ("Actual", "Predicted", "nPredictions")
    cells = zip(*pairs.tolist(), counts.tolist(), strict=True)
    rows: list[list[Any]] = [[names[actual], names[predicted], count] for actual, predicted, count in cells]
    # As wandb.plot.confusion_matrix does it, without the empty cells: most of 100 x 100, which took seconds per run.
    tables: dict[str, Any] = {
        "confusion_matrix": wandb.plot_table(
            "wandb/confusion_matrix/v1",
            wandb.Table([*columns], rows),
            {column: column for column in columns},
            {"title": f"{record.name}, seed {record.seed}: {record.result['split']} images"},
        )
    }
    wrong = np.flatnonzero(targets != predictions)[:MAX_MISCLASSIFIED].tolist()
    if wrong and (eval_set := _eval_set(record)):
        pixels = eval_set.images[wrong].permute(0, 2, 3, 1).numpy()
        rows = [
            [i, wandb.Image(image), names[targets[i]], names[predictions[i]]]
            for i, image in zip(wrong, pixels, strict=True)
        ]
        tables["misclassified"] = wandb.Table(["number", "image", "class", "prediction"], rows)
    return tables


def _eval_set(record: Record) -> ImageSet | None:
    """The record's evaluation set; None for a reader's own data, and if the images would have to be downloaded."""
    name, part = record.settings["experiment"]["dataset"], record.result["split"]
    if name not in CLASS_NAMES:
        return None
    if record.settings["identity"]["data"] != {name: known_fingerprint(name, record.profile)}:
        return None
    return load_images(name, part, record.profile) if is_available_locally(name, part, record.profile) else None


def _log_weights(run: Any, record: Record) -> None:
    import wandb

    artifact = wandb.Artifact(
        f"{record.name}-seed{record.seed}-{record.profile}", "model", metadata=record.result["sha256"]
    )
    artifact.add_file(str(record.path / WEIGHTS))
    run.log_artifact(artifact)


def _log_figures(profile: str) -> int:
    """Write every figure that the profile has records for as one run; returns how many, 0 if W&B failed."""
    import wandb
    from PIL import Image

    from deepnet.figures.registry import FIGURES, draw

    images = {}
    for number, entry in FIGURES.items():
        with suppress(UsageError):  # no records for it
            png = BytesIO(draw(number, profile).png)
            images[f"figure_{number.replace('.', '_')}"] = wandb.Image(
                Image.open(png), caption=f"{number}  {entry.caption}"
            )
    try:
        run = _init(f"figures-{profile}", profile)
        run.log(images)
        run.finish()
        return len(images)
    except Exception as error:
        print_once(f"{complaint(error)}; the records are complete.")
        return 0


# ---------------------------------------------------------------- figures

_FIGURES = ("curves", "draw", "save", "show")


def __getattr__(name: str) -> Any:
    """Import `draw`, `curves`, `show` or `save` at its first use, since they need matplotlib."""
    if name in _FIGURES:
        return getattr(importlib.import_module("deepnet.figures.registry"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_FIGURES])
