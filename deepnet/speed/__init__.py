"""What only makes training faster; results differ from those without it by rounding alone."""
