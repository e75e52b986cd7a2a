"""Gaussian diffusion of token embeddings: everything in `guidance/` and `solvers/` applies; here is what is special."""
