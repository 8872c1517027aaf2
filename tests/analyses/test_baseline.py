"""The classical baseline: linear classifiers on features, C chosen on the held-out part."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from deepnet.analyses import baseline
from deepnet.analyses.baseline import best_row, classical_baseline, linear


def digit_pixels():
    data = load_digits()
    return data.data.astype(np.float32), data.target


def test_choice_of_c():
    x, y = digit_pixels()
    train, out = (x[:400], y[:400]), (x[400:700], y[400:700])
    rows, states = classical_baseline(train, out)
    assert [(row["classifier"], row["C"]) for row in rows] == [
        (name, c) for name in ("svm", "logistic_regression") for c in baseline.CS[name]
    ]
    assert all(row["converged"] is True for row in rows)
    logistic = [row for row in rows if row["classifier"] == "logistic_regression"]
    for row in logistic:
        scaler = StandardScaler().fit(train[0])
        plain = LogisticRegression(C=row["C"], tol=1e-3, max_iter=2000).fit(scaler.transform(train[0]), train[1])
        assert row["held_out_accuracy"] == pytest.approx(plain.score(scaler.transform(out[0]), out[1]), abs=1e-9)
    best = best_row(rows, "logistic_regression")
    assert best["held_out_accuracy"] == max(row["held_out_accuracy"] for row in logistic)
    both = np.concatenate([train[0], out[0]]), np.concatenate([train[1], out[1]])
    scaler = StandardScaler().fit(both[0])
    plain = LogisticRegression(C=best["C"], tol=1e-3, max_iter=2000).fit(scaler.transform(both[0]), both[1])
    given = linear(states["logistic_regression"])(x[700:])
    assert (given == plain.predict(scaler.transform(x[700:]))).mean() > 0.999


def test_smallest_c_among_equals(monkeypatch):
    """Two classes far apart, which every C gets right."""
    x = np.concatenate([np.full((10, 2), -1.0), np.full((10, 2), 1.0)])
    y = np.repeat([0, 1], 10)
    fits = []
    original = LogisticRegression.fit
    monkeypatch.setattr(LogisticRegression, "fit", lambda self, *a: fits.append(self.C) or original(self, *a))
    rows, states = classical_baseline((x, y), (x, y))
    assert [row["held_out_accuracy"] for row in rows] == [1.0] * len(rows)
    assert fits == [*baseline.CS["logistic_regression"], min(baseline.CS["logistic_regression"])]
    assert all(linear(state)(x).tolist() == y.tolist() for state in states.values())


def test_missing_classes():
    x, y = digit_pixels()
    some = np.isin(y, (2, 5, 7))
    x, y = x[some][:200], y[some][:200]
    _, states = classical_baseline((x, y), (x, y))
    assert all(set(linear(state)(x)) == {2, 5, 7} for state in states.values())


def test_unconverged_fit(monkeypatch):
    import sklearn.linear_model
    import sklearn.svm

    for module, name in ((sklearn.svm, "LinearSVC"), (sklearn.linear_model, "LogisticRegression")):
        made = getattr(module, name)
        monkeypatch.setattr(module, name, lambda made=made, **options: made(**options | {"max_iter": 1}))
    x, y = digit_pixels()
    rows, _ = classical_baseline((x[:300], y[:300]), (x[300:400], y[300:400]))
    assert {(row["classifier"], row["converged"]) for row in rows} == {("svm", False), ("logistic_regression", False)}


def test_classifiers_of_the_original():
    x, y = digit_pixels()
    rows, states = classical_baseline((x[:300], y[:300]), (x[300:400], y[300:400]), ("unscaled", "untuned"))
    assert [(row["classifier"], row["C"]) for row in rows] == [("svm", 1.0), ("logistic_regression", 1.0)]
    plain = LogisticRegression(tol=1e-3, max_iter=2000).fit(x[:400], y[:400])
    assert (linear(states["logistic_regression"])(x[400:]) == plain.predict(x[400:])).mean() > 0.999
    scaled, _ = classical_baseline((x[:300], y[:300]), (x[300:400], y[300:400]), ("untuned",))
    assert scaled[1]["held_out_accuracy"] != rows[1]["held_out_accuracy"]
    dual = LinearSVC(C=1.0, dual=True, tol=1e-4, max_iter=100_000, random_state=0).fit(x[:400] / 16, y[:400])
    _, states = classical_baseline((x[:300] / 16, y[:300]), (x[300:400] / 16, y[300:400]), ("unscaled", "untuned"))
    assert np.abs(states["svm"]["coef"].numpy() - dual.coef_).max() < 1e-2 * np.abs(dual.coef_).max()
