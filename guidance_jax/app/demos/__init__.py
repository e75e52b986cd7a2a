"""What `guidance-jax demo` runs: train on real data, guide in several ways, measure against the truth."""
