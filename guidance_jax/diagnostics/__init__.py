"""What a guided sampler does: its cost, its bias, and what its guide is worth level by level."""
