"""The classical baseline: a linear SVM and a logistic regression on extracted features."""

import warnings
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch

CS = {
    "svm": (1e-5, 1e-4, 1e-3),
    "logistic_regression": (1e-4, 1e-3, 1e-2, 1e-1),
}  # the inverse regularization strengths tried


def linear(state: dict) -> Callable[[np.ndarray], np.ndarray]:
    """The predictions of a fitted classifier, from its tensors: a function of features (N, F) to classes (N,)."""
    arrays = {key: tensor.numpy() for key, tensor in state.items()}
    return lambda x: arrays["classes"][
        (((x - arrays["mean"]) / arrays["scale"]) @ arrays["coef"].T + arrays["intercept"]).argmax(1)
    ]


def joined(states: dict[str, dict]) -> dict:
    """The tensors of several classifiers as one state dict, with keys such as "svm.coef"."""
    return {f"{name}.{key}": tensor for name, state in states.items() for key, tensor in state.items()}


def separated(weights: dict) -> dict[str, dict]:
    """The inverse of `joined`."""
    states: dict[str, dict] = {}
    for key, tensor in weights.items():
        name, _, part = key.partition(".")
        states.setdefault(name, {})[part] = tensor
    return states


def best_row(rows: list[dict], classifier: str | None = None) -> dict:
    """The row with the highest held-out accuracy, of all or one classifier; of equals, the one with the smallest C."""
    rows = [row for row in rows if classifier in (None, row["classifier"])]
    return max(rows, key=lambda row: row["held_out_accuracy"])


def classical_baseline(
    train: tuple[np.ndarray, np.ndarray], held_out: tuple[np.ndarray, np.ndarray], defects: Collection[str] = ()
) -> tuple[list[dict], dict[str, dict]]:
    """Fit a linear SVM and a logistic regression on standardized (features, labels), with C chosen on `held_out`.

    defects: "unscaled" does not standardize the features, "untuned" leaves C at scikit-learn's default of 1; the
    original program has both.

    Returns:
        One row per classifier and C (`classifier`, `C`, `held_out_accuracy`, `converged`), and for each classifier the
        tensors (see `linear`) of a fit on both parts with its best C. In the best row, `refit_converged` is whether
        that fit has converged.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    makers = {
        # At C = 1, liblinear needs hours for the dual problem, and minutes for the primal one, which has the same
        # solution. The values of tol are its defaults for the two.
        "svm": lambda c: LinearSVC(C=c, dual=c < 1, tol=0.1 if c < 1 else 1e-4, max_iter=2000, random_state=0),
        "logistic_regression": lambda c: LogisticRegression(C=c, tol=1e-3, max_iter=2000),
    }

    def fit(name: str, c: float, inputs: np.ndarray, labels: np.ndarray) -> tuple[dict, bool]:
        scaler = StandardScaler().fit(inputs)
        if "unscaled" in defects:
            scaler.mean_, scaler.scale_ = np.zeros_like(scaler.mean_), np.ones_like(scaler.scale_)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            fitted = makers[name](c).fit(scaler.transform(inputs), labels)
        # for two classes scikit-learn keeps one row
        signs = np.array([[-1.0], [1.0]]) if len(fitted.classes_) == 2 else np.ones((1, 1))
        coef, intercept = signs * fitted.coef_, np.ravel(signs * fitted.intercept_)
        arrays = {"coef": coef, "intercept": intercept, "mean": scaler.mean_, "scale": scaler.scale_}
        state = {key: torch.from_numpy(np.asarray(value, np.float64)) for key, value in arrays.items()}
        state["classes"] = torch.from_numpy(fitted.classes_.astype(np.int64))  # a small part may lack some
        return state, not any(issubclass(w.category, ConvergenceWarning) for w in caught)

    rows: list[dict[str, Any]] = []
    states = {}
    everything = tuple(np.concatenate(pair) for pair in zip(train, held_out, strict=True))
    for name in makers:
        for c in CS[name] if "untuned" not in defects else (1.0,):
            state, converged = fit(name, c, *train)
            accuracy = float((linear(state)(held_out[0]) == held_out[1]).mean())
            rows.append({"classifier": name, "C": c, "held_out_accuracy": accuracy, "converged": converged})
        best = best_row(rows, name)
        states[name], best["refit_converged"] = fit(name, best["C"], *everything)
    return rows, states
