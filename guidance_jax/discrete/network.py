"""From networks (any pure functions) to token denoisers."""

from collections.abc import Callable
from typing import Any

from guidance_jax.core import Denoiser, HiddenStates, Refused, log_softmax, pytree, static
from guidance_jax.discrete.prediction import TokenPrediction
from guidance_jax.discrete.process import Process
from guidance_jax.models.batching import call_network, require_form
from guidance_jax.models.domain import Domain, network_condition, unless_unknown
from guidance_jax.models.network import Parametrized


class TokenModel(Parametrized, Denoiser):
    """A denoiser of tokens: subclasses say what the logits are, and of which `process`."""

    process: Process

    @property
    def space(self):
        return self.process

    def logits(self, x: Any, level: Any, cond: Any) -> Any:
        """(L, V)."""
        raise NotImplementedError

    def __call__(self, x, level, cond, state, key):
        return self.read(self.logits(x, level, cond), x, level), state

    def read(self, logits: Any, x: Any, level: Any) -> TokenPrediction:
        """The prediction that `logits` mean."""
        if logits.shape != (*x.shape, self.process.vocabulary):
            raise Refused(
                f"the network must give logits of shape {(*x.shape, self.process.vocabulary)}, got {logits.shape}; the "
                "mask is no token to predict"
            )
        return TokenPrediction(x, self.process.without_mask(log_softmax(logits)), self.process)


@pytree
class TokenNetwork(TokenModel):
    """A token denoiser from a pure function `apply(params, x, t, cond) -> logits (L, V)`, of one sequence or a batch.

    Attributes:
      params: a pytree of arrays.
      apply: the function; x (L,) integers of the states of the process, t the clock of the schedule. Of `Uniform` its
        logits mean p(x0_l | the other tokens), which the UDLM loss trains (`NoisyTokens`). A network trained by plain
        cross-entropy gives p(x0_l | x_t) instead and samples another law; `SUNDAE` is the solver for such a network.
      process: `Absorbing(V)` or `Uniform(V)`.
      domain: what it was trained for; without one, nothing is checked.
      batched: as in `Network`.

    Raises:
      Refused: logits of another shape; samples, labels or levels that `domain` does not allow.
    """

    params: Any
    apply: Callable = static()
    process: Process = static()
    domain: Domain | None = static(default=None)
    batched: bool = static(default=None)

    def __post_init__(self):
        require_form(self, self.batched)

    def logits(self, x, level, cond):
        logits = call_network(self.apply, self.batched, self.params, x, level.t, network_condition(self.domain, cond))
        return unless_unknown(self.domain, cond, logits)


@pytree
class HiddenNetwork(TokenModel, HiddenStates):
    """A token denoiser whose hidden states can be guided (`NOS`, `LaMBO`): decode(encode(x)).

    The two may be cut at any layer: what is optimised is always decoded by the rest of the same network.

    Attributes:
      params: a pytree of arrays.
      encode: `encode(params, x, t, cond) -> h`, hidden states, usually (L, width).
      decode: `decode(params, h, t, cond) -> logits (L, V)`.
      process: `Absorbing(V)` or `Uniform(V)`.
      domain: what it was trained for; without one, nothing is checked.

    Raises:
      Refused: logits of another shape; samples, labels or levels that `domain` does not allow.
    """

    functions = ("decode",)

    params: Any
    encode: Callable = static()
    decode: Callable = static()
    process: Process = static()
    domain: Domain | None = static(default=None)

    def hidden(self, x: Any, level: Any, cond: Any) -> Any:
        """The hidden states of one sequence, usually (L, width)."""
        return self.encode(self.params, x, level.t, network_condition(self.domain, cond))

    def logits_of(self, h: Any, level: Any, cond: Any) -> Any:
        """The logits (L, V) that hidden states lead to."""
        logits = self.decode(self.params, h, level.t, network_condition(self.domain, cond))
        return unless_unknown(self.domain, cond, logits)

    def logits(self, x, level, cond):
        return self.logits_of(self.hidden(x, level, cond), level, cond)
