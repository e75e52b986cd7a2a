"""What methods of the table are made from in the tests."""

import dataclasses
from typing import Any

from guidance_jax.methods import METHODS


@dataclasses.dataclass(frozen=True)
class Given:
    """As `guidance_jax.methods.Given` says; what is None is not there."""

    model: Any = None
    free: Any = None
    reverse: Any = None
    unguided: Any = None
    solver: Any = None
    schedule: Any = None
    null: Any = None
    classifier: Any = None
    likelihood: Any = None
    neighbours: Any = None
    value: Any = None
    attribute: Any = None
    operator: Any = None
    mask: Any = None
    std: Any = None
    observed: Any = None
    weak: Any = None
    embeddings: Any = None
    scale: Any = None
    weights: Any = None
    per_class: Any = None
    prompt: Any = None

    def part(self, name):
        return METHODS[name].make(self)

    def make(self, name, /, **options):
        """The method of that name from all this, with other options."""
        return METHODS[name].make(self, **options)
