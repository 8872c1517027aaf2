"""The hyperparameter search: sweep configurations and trials."""
