"""Trying cures: a training of a copy with each of them, and whether it helped."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from deepnet.diagnosis.cures import UnfitError, together
from deepnet.diagnosis.measure import SMOOTHED, Measurements, mean_loss, take_steps
from deepnet.diagnosis.setup import Setup
from deepnet.records.files import first_line
from experimentTable import UsageError

CLEARLY = 0.05  # of the loss of a guess: by so much a cure must do better


@dataclass(frozen=True)
class Trial:
    """What came of a cure. `helped` is None where it could not be tried, and `words` then say why.

    `left_at` is the step from which on the loss stays clearly below that of a guess; None where it does not.
    """

    name: str
    words: str
    losses: tuple[float, ...] = ()
    helped: bool | None = None
    left_at: int | None = None
    failure: str = ""  # what torch said where a step could not be taken

    @property
    def last_loss(self) -> float:
        """The mean over the last losses; infinite where one is not finite."""
        return _smoothed(self.losses, len(self.losses))


def train_as_it_is(setup: Setup, steps: int, seconds: float) -> Trial:
    """Train a copy of the setup without any change, which the cures are compared with."""
    torch.manual_seed(0)
    return _train("as it is", "as it is", setup.copied(), steps, seconds, 0.0)


def try_cures(
    setup: Setup, m: Measurements, as_it_is: Trial, names: Sequence[str], steps: int, seconds: float
) -> list[Trial]:
    """Train a copy of the setup with each cure, on the same batches as `as_it_is`.

    A cure has helped where its loss at its end lies clearly below that of a guess and that of the model as it is after
    as many steps. Its training ends once the loss has fallen by half. One that gives the very losses of the model as it
    is has changed nothing, and so was not tried. A name may join several cures by " + ", which are then made together.
    """
    trials = []
    for name in names:
        cure = together(name.split(" + "))
        torch.manual_seed(0)  # of what is drawn anew, and of dropout
        try:
            changed = cure.change(setup.copied(), m)
            words = cure.words + _rate_of(changed, m)
            done = _train(name, words, changed, steps, seconds, setup.guess / 2)
            same = len(done.losses) > 1 and done.losses == as_it_is.losses[: len(done.losses)]
            if same and changed.options == setup.options:  # a change of these may be rounded away
                raise UnfitError("it changes nothing in this model")
            helped = not done.failure and _has_helped(done, as_it_is, setup.guess)
            trials.append(replace(done, helped=helped))
        except (UnfitError, UsageError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            trials.append(Trial(name, f"{cure.words}: {first_line(error) or type(error).__name__}"))
    return trials


def _rate_of(setup: Setup, m: Measurements) -> str:
    rate = setup.options.get("lr")
    return f" ({rate:.0e} in place of {m.options['lr']:.0e})" if rate else ""


def _train(name: str, words: str, setup: Setup, steps: int, seconds: float, goal: float) -> Trial:
    losses, _, failure = take_steps(setup, steps, seconds, meter=False, goal=goal)
    means = (_smoothed(losses, step) for step in range(10, len(losses) + 1))
    above = [10 + i for i, mean in enumerate(means) if not mean < (1 - CLEARLY) * setup.guess]
    left = max(above, default=9) + 1  # for good, and not in a dip that passes
    return Trial(name, words, tuple(losses), None, left if left <= len(losses) else None, failure)


def _smoothed(losses: Sequence[float], end: int) -> float:
    """The mean of the losses up to step `end`, of the last `SMOOTHED` of them."""
    return mean_loss(losses[max(0, end - SMOOTHED) : end])


def _has_helped(trial: Trial, as_it_is: Trial, guess: float) -> bool:
    before = _smoothed(as_it_is.losses, min(len(trial.losses), len(as_it_is.losses)))
    if as_it_is.losses and not math.isfinite(as_it_is.losses[-1]):  # it ended there
        before = math.inf
    return trial.last_loss < (1 - CLEARLY) * guess and trial.last_loss < before - CLEARLY * guess
