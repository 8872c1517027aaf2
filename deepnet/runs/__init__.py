"""One run and many runs: requests, order, processes, missing evidence, and verification."""
