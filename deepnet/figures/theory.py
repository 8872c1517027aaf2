"""What mean-field theory says of a signal at initialisation, with no parameter that is fitted."""

from collections.abc import Sequence

import numpy as np


def signal_variance(
    inputs: np.ndarray, fan_ins: Sequence[int], initialisation: str | Sequence[tuple[float, float]] = "default"
) -> np.ndarray:
    """The variance across samples of each layer's outputs, before any ReLU, in a chain of wide random layers.

    The outputs of such a layer are Gaussian with covariance K(x, x') = w E[h h'] + b between two samples, h being the
    ReLU of the layer below, whose E[h h'] = sqrt(K K') / (2 pi) (sin t + (pi - t) cos t) is the arc-cosine kernel at
    the angle t between the two (Cho & Saul 2009, Kernel Methods for Deep Learning). torch's default draws weights and
    biases with variance 1 / (3 fan-in), "he" weights with 2 / fan-in and no biases, so w is 1/3 or 2. He's keeps the
    second moment E[h^2], yet the variance across samples falls, since each ReLU draws the samples' angles together.

    inputs: (N, D) samples, as the first layer reads them. fan_ins: of each weight layer. initialisation: "default",
    "he", or for each layer the variance of its weights times fan-in, and of its biases. Returns one value per layer.
    The recursion is in squared distances, K(x, x) + K(x', x') - 2 K(x, x'), which lose no digits when they get small.

    >>> signal_variance(np.eye(2) * 2**0.5, [2, 100], "he").round(3)
    array([2.   , 1.363])
    """
    count = len(inputs)
    length = (inputs**2).mean(1)  # K(x, x)
    offset = length - length.mean()  # kept apart, since biases make all lengths nearly equal
    distance = np.add.outer(length, length) - 2 * inputs @ inputs.T / inputs.shape[1]
    variances = []
    for layer, fan_in in enumerate(fan_ins):
        if isinstance(initialisation, str):
            weight, bias = (2.0, 0.0) if initialisation == "he" else (1 / 3, 1 / (3 * fan_in))
        else:
            weight, bias = initialisation[layer]
        if layer:
            roots = np.sqrt(length)
            product = np.outer(roots, roots)
            gap = (np.subtract.outer(offset, offset) / np.add.outer(roots, roots)) ** 2  # (|x| - |x'|)^2
            versine = np.clip((distance - gap) / (2 * product), 0, 2)  # 1 - cos t
            angle = 2 * np.arcsin(np.sqrt(versine / 2))
            distance = gap / 2 + product * (versine - (np.sin(angle) - angle * np.cos(angle)) / np.pi)
            length, offset = length / 2, offset / 2
        length, offset, distance = weight * length + bias, weight * offset, weight * distance
        variances.append(distance.sum() / (2 * count * (count - 1)))
    return np.array(variances)


def untrained_mlp(widths: Sequence[int], batch: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """What is expected of a plain MLP with torch's default weights before training, one value per weight layer.

    Each layer's outputs before any ReLU have the second moment q / 3 + 1 / (3 fan-in), q being that of its inputs, and
    a ReLU halves it. An untrained net gives every class the same score, so that the mean error of a batch has the
    variance (1 / C) (1 - 1 / C) / batch per class; on the way back each layer multiplies the error's variance by its
    fan-out / (3 fan-in), and each ReLU halves it. With layers of one width that is a factor of √6 per layer in the
    gradient. widths: from the input's to the number of classes C; inputs have a mean square of 1, as MNIST's have
    after normalization.

    Returns the second moment of each layer's outputs, and log10 of the RMS of its weights' gradient.

    >>> untrained_mlp([784, 1024, 256, 64, 10])[1].round(1)
    array([-3.7, -3.4, -3.1, -2.7])
    """
    moments, read = [], [1.0]  # of the outputs before any ReLU, and of what each layer reads
    for fan_in in widths[:-1]:
        moments.append(read[-1] / 3 + 1 / (3 * fan_in))
        read.append(moments[-1] / 2)
    classes = widths[-1]
    errors = [(1 - 1 / classes) / classes / batch]
    for fan_in, fan_out in zip(widths[-2:0:-1], widths[:1:-1], strict=True):
        errors.append(errors[-1] * fan_out / (3 * fan_in) / 2)
    return np.array(moments), 0.5 * np.log10(np.array(read[:-1]) * errors[::-1])
