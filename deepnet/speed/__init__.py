"""The faster implementations; they change results by rounding only."""
