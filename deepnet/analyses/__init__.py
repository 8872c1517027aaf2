"""Experiments that train no network, and the final test."""
