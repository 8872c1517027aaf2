"""What is computed without training a network, and the final test."""
