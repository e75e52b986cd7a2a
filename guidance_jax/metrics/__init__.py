"""Measures of samples, one a file. Features in float32 at the highest precision, statistics in float64 on the host."""
