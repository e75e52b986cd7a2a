"""Solvers: how to go from one level to the next, one method a file."""
