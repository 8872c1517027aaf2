"""Records of runs: writing and reading them, their provenance, and publishing them as evidence."""
