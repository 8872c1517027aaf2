"""Early stopping."""

from dataclasses import dataclass


@dataclass
class EarlyStopping:
    """The best epoch and the patience counter are tracked separately.

    The counter resets when the accuracy exceeds its reference by more than `min_delta`, and the reference then moves
    to it; `patience` epochs in a row without that end the run. The best epoch is the highest, the earliest of equals.
    """

    patience: int | None
    min_delta: float = 0.0
    reference: float = 0.0
    waited: int = 0
    best: float = -1.0
    best_epoch: int = 0

    def update(self, epoch: int, accuracy: float) -> bool:
        """Take in an epoch; returns whether it is the best so far."""
        if accuracy - self.reference > self.min_delta + 1e-9:  # a gain of exactly min_delta, in binary, is none
            self.reference, self.waited = accuracy, 0
        else:
            self.waited += 1
        if better := accuracy > self.best:
            self.best, self.best_epoch = accuracy, epoch
        return better

    @property
    def over(self) -> bool:
        """Whether the patience is used up."""
        return self.patience is not None and self.waited >= self.patience
