"""The machinery behind the modules at the top."""
