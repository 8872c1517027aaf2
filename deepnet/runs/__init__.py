"""One run and many runs: arguments, order, processes, missing evidence, and verification."""
