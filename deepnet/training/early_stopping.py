"""Early stopping."""

from dataclasses import dataclass


@dataclass
class EarlyStopping:
    """Tracks the best epoch and, separately, the patience.

    When the accuracy exceeds the reference by more than `min_delta`, it becomes the new reference and the counter
    resets; after `patience` epochs in a row without this, the run is over. The best epoch is that of the highest
    accuracy, the earliest of equals.
    """

    patience: int | None
    min_delta: float = 0.0
    reference: float = 0.0
    waited: int = 0
    best: float = -1.0
    best_epoch: int = 0

    def update(self, epoch: int, accuracy: float) -> bool:
        """Take in an epoch; returns whether it is the best so far."""
        if accuracy - self.reference > self.min_delta + 1e-9:  # so that rounding makes no gain of exactly min_delta
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
