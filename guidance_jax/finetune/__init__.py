"""Tuning a trained model: to rewards, and to steps across noise levels."""
