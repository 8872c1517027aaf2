"""A diagnosis as a reader sees it: as text, as tables, as a figure, and for programs."""

import math
import textwrap
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from deepnet.diagnosis.findings import CAUSE, Finding, power
from deepnet.diagnosis.measure import Measurements
from deepnet.diagnosis.trials import Trial
from deepnet.text import Table, counted

if TYPE_CHECKING:
    from deepnet.figures.plots import Sheet

WIDTH = 100  # letters in a line
MOST_ROWS = 16  # of the table; of a deeper model the layers are evenly spaced


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What `diagnose` has found, most likely first, and what came of each cure.

    >>> print(diagnose(model, train_set))  # text
    >>> diagnose(model, train_set).figure()  # signal, updates and losses
    """

    measurements: Measurements
    findings: tuple[Finding, ...]
    trials: tuple[Trial, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether no cause was found, and the loss falls, in the first steps or in those that followed."""
        m = self.measurements
        return bool(m.losses) and not self.causes and (m.learns or m.fitted or self._falls_later)

    @property
    def causes(self) -> tuple[Finding, ...]:
        """The findings that are likely enough to be called a cause."""
        return tuple(finding for finding in self.findings if finding.confidence >= CAUSE)

    @property
    def _falls_later(self) -> bool:
        return bool(self.trials) and self.trials[0].left_at is not None

    @property
    def text(self) -> str:
        """All of it in plain words."""
        m = self.measurements
        lines = [self._verdict(), ""]
        for number, finding in enumerate(self.causes, 1):
            where = f" (layer {finding.layer})" if finding.layer else ""
            lines += [f"{number}. {finding.code}{where}", f"   {finding.words}", f"   What to do: {finding.cure}", ""]
        remarks = [finding for finding in self.findings if finding.confidence < CAUSE]
        if remarks:
            lines += ["Also seen, and less likely to be the cause:"]
            lines += [f"- {finding.code}: {finding.words}" for finding in remarks] + [""]
        if self.trials:
            most = max(len(trial.losses) for trial in self.trials)
            lines += [f"Tried on copies, {counted(most, 'step')} at most:" if most else "Tried on copies:"]
            lines += [f"- {_outcome(trial, m)}" for trial in self.trials] + [""]
        return "\n".join(_wrapped(line) for line in lines).rstrip()

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def _verdict(self) -> str:
        m = self.measurements
        if not m.losses:
            return "No step could be taken" + (f": {m.failure}" if m.failure else ".")
        rate = f" with a learning rate of {power(m.options['lr'])}" if "lr" in m.options else ""
        moved = (
            f"In {counted(len(m.losses), 'step')} of {m.optimizer}{rate} "
            f"the loss went from {_loss(m.first_loss)} to {_loss(m.last_loss)}"
            + (f"; a guess has ln({m.outputs}) = {m.chance:.3f}." if m.is_cross_entropy else ".")
        )
        if m.items < m.available:
            moved += f" Of {m.available:,} items {m.items:,} were read."
        if self.causes:
            return f"{counted(len(self.causes), 'likely cause')} found. {moved}"
        if m.fitted:
            return f"Nothing wrong was found: the model is fitted to these data already. {moved}"
        if m.learns:
            return f"Nothing wrong was found. {moved}"
        if not self.trials:
            return f"No cause was found, but these steps do not show that it learns; more are taken with cures. {moved}"
        if self._falls_later:
            below = f"below {power(m.guess)}, which a guess by the labels' frequencies has"
            return f"Nothing wrong was found. {moved} From step {self.trials[0].left_at} on it stays {below}."
        return f"It does not learn, and no rule says why. {moved}"

    @property
    def table(self) -> Table:
        """What was measured of each layer; of many layers, some evenly spaced ones."""
        layers = [layer for layer in self.measurements.layers if layer.ran or layer.learns]
        step = max(1, math.ceil((len(layers) - 1) / (MOST_ROWS - 1)))
        chosen = layers[::step] + ([layers[-1]] if layers and (len(layers) - 1) % step else [])
        rows = [
            (
                layer.name, layer.kind, f"{layer.gain:.2f}", _number(layer.before.variance), _number(layer.expected),
                _number(layer.after.variance), str(layer.before.distinct), _number(layer.dead),
                _number(layer.gradient), _number(layer.update),
            )
            for layer in chosen
        ]  # fmt: skip
        head = (
            "layer", "kind", "gain", "variance", "in theory", "after", "distinct", "dead", "gradient", "update",
        )  # fmt: skip
        return Table(
            head, rows, f"{counted(len(layers), 'layer')}: signal before and after the steps, and how it moves"
        )

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.text)}</pre>{self.table._repr_html_()}"

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON holds it; NaN and infinity are None."""
        return _plain({
            "healthy": self.healthy,
            "text": self.text,
            "findings": [asdict(finding) for finding in self.findings],
            "trials": [asdict(trial) | {"last_loss": trial.last_loss} for trial in self.trials],
            "measurements": asdict(self.measurements) | {"operations": sorted(self.measurements.operations)},
        })  # fmt: skip

    def figure(self) -> "Sheet":
        """Each layer's signal with what theory expects, its updates and gradients, and the loss with each cure."""
        from deepnet.diagnosis.picture import picture

        return picture(self.measurements, self.trials)


def _wrapped(line: str) -> str:
    """The line in several, all of which are indented as it is or as the text of a list's item is."""
    indent = " " * (len(line) - len(line.lstrip("- ")))
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _outcome(trial: Trial, m: Measurements) -> str:
    if trial.name == "as it is":
        if not trial.losses:
            return "as it is: no step can be taken"
        later = f", and below that of a guess from step {trial.left_at} on" if trial.left_at else ""
        return f"as it is: loss {_loss(trial.last_loss)}{later}"
    if trial.helped is None:
        return f"{trial.words} (not tried)"
    if trial.failure:
        return f"{trial.words}: did not help, step {len(trial.losses) + 1} fails ({trial.failure.rstrip('.')})"
    verdict = "helped" if trial.helped else "did not help"
    steps = f" after {counted(len(trial.losses), 'step')}"
    return f"{trial.words}: {verdict}, loss {_loss(trial.last_loss)}{steps}"


def _loss(value: float) -> str:
    return "NaN or infinity" if not math.isfinite(value) else f"{value:.3f}" if value < 1e4 else power(value)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else power(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
