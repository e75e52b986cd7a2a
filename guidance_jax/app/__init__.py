"""The command line `guidance-jax`; the rest of the package does not import it."""
