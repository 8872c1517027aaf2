"""The machinery behind the modules at the top: what they are made of."""
