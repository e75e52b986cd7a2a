"""Guidance methods: denoisers made from denoisers, one method a file."""
