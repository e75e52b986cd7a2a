"""Rules on sequences of tokens as finite automata: regular expressions, counts, and their combinations."""

from guidance_jax.automata.automaton import Automaton

__all__ = ["Automaton"]
