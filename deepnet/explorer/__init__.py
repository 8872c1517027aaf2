"""One page on which the records and the verdicts are explored: `python -m deepnet.explorer` writes it."""
