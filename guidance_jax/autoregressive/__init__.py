"""Autoregressive models through the same `sample`: a level is a position, the cache is threaded state."""
