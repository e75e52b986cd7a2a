"""Training: losses for one sample, the loop, and checkpoints that carry their configuration."""
