"""What is read: figures, verdicts on claims, and the evidence they are drawn from."""
