"""Data: the report's three sets, and a reader's own data sets, loaders and labels."""
