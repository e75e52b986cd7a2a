"""From networks (any pure functions) to token denoisers."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from guidance_jax.core import check, pytree, static
from guidance_jax.discrete.prediction import TokenPrediction
from guidance_jax.discrete.process import Process
from guidance_jax.domain import Domain, told
from guidance_jax.network import log_softmax


class TokenModel:
    """A denoiser of tokens: subclasses say what the logits are, and of which `process`."""

    params: Any
    process: Process
    domain: Domain | None

    def __repr__(self):
        size = sum(np.size(a) for a in jax.tree.leaves(self.params))
        return f"{type(self).__name__}({size:,} parameters, {self.process}, {self.domain})"

    def init(self, x):
        return ()

    def start(self, key, levels, shape):
        return self.process.start(key, levels, shape)

    def check(self, levels, shape, cond):
        check(self.domain, levels, shape, cond)

    def logits(self, x: Any, level: Any, cond: Any) -> Any:
        """(L, V)."""
        raise NotImplementedError

    def __call__(self, x, level, cond, state, key):
        return self.read(self.logits(x, level, cond), x, level), state

    def read(self, logits: Any, x: Any, level: Any) -> TokenPrediction:
        """The prediction that `logits` mean."""
        if logits.shape != (*x.shape, self.process.vocabulary):
            raise ValueError(
                f"the network must give logits of shape {(*x.shape, self.process.vocabulary)}, got {logits.shape}; the "
                "mask is no token to predict"
            )
        return TokenPrediction(x, log_softmax(logits), self.process)


@pytree
class TokenNetwork(TokenModel):
    """A token denoiser from a pure function `apply(params, x, t, cond) -> logits (L, V)`, written for one sequence."""

    params: Any
    apply: Callable = static()
    process: Process = static()
    domain: Domain | None = static(default=None)

    def logits(self, x, level, cond):
        return self.apply(self.params, x, level.t, told(self.domain, cond))


@pytree
class HiddenNetwork(TokenModel):
    """A token denoiser whose hidden states can be guided (`NOS`, `LaMBO`): decode(encode(x)).

    `encode(params, x, t, cond) -> h` and `decode(params, h, t, cond) -> logits (L, V)` may be cut at any layer: what is
    optimised is always decoded by the rest of the same network.
    """

    params: Any
    encode: Callable = static()
    decode: Callable = static()
    process: Process = static()
    domain: Domain | None = static(default=None)

    def hidden(self, x: Any, level: Any, cond: Any) -> Any:
        """The hidden states of one sequence, usually (L, width)."""
        return self.encode(self.params, x, level.t, told(self.domain, cond))

    def decoded(self, h: Any, level: Any, cond: Any) -> Any:
        """The logits (L, V) that hidden states lead to."""
        return self.decode(self.params, h, level.t, told(self.domain, cond))

    def logits(self, x, level, cond):
        return self.decoded(self.hidden(x, level, cond), level, cond)
