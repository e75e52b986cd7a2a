"""Token sequences: absorbing and uniform diffusion, their solvers, and guidance by rates and hidden states."""
