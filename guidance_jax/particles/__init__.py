"""Populations: guided samples reweighted until they are those of the target, and the evidence for it."""
