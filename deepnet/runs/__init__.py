"""Which runs are asked for, and what of them is there already."""
