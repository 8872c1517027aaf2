"""The training loop's parts: checks beforehand, steps, metrics, optimizers and the frozen prefix."""
