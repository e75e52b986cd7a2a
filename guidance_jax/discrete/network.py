"""Make token denoisers from networks, which are any pure functions."""

from collections.abc import Callable
from typing import Any

from guidance_jax.core import Denoiser, HiddenStates, Refused, log_softmax, pytree, static
from guidance_jax.discrete.prediction import TokenPrediction
from guidance_jax.discrete.process import Process, Uniform
from guidance_jax.models.batching import call_network, require_form
from guidance_jax.models.domain import Domain, network_condition, unless_unknown
from guidance_jax.models.network import Parametrized

OTHERS, ALL = "others", "all"  # the tokens that the logits of a position depend on


class TokenModel(Parametrized, Denoiser):
    """A denoiser of tokens. Subclasses compute the logits and have the field `process`."""

    process: Process
    given: str | None = None

    @property
    def space(self):
        return self.process

    def logits(self, x: Any, level: Any, cond: Any) -> Any:
        """Return the logits, (L, V)."""
        raise NotImplementedError

    def __call__(self, x, level, cond, state, key):
        return self.read(self.logits(x, level, cond), x, level), state

    def read(self, logits: Any, x: Any, level: Any) -> TokenPrediction:
        """Return the prediction that `logits` mean."""
        if logits.shape != (*x.shape, self.process.vocabulary):
            raise Refused(
                f"the network must return logits of shape {(*x.shape, self.process.vocabulary)}, got {logits.shape}; "
                "the mask is not predicted, so it has no logit"
            )
        log_p = self.process.without_mask(log_softmax(logits))
        log_p = self.process.leave_one_out(log_p, x, level) if self.given == ALL else log_p
        return TokenPrediction(x, log_p, self.process)

    def require_given(self) -> None:
        """Raise `Refused` if `given` is unknown, or missing for uniform noise, where the network does not reveal it."""
        if self.given not in (None, OTHERS, ALL):
            raise Refused(f'logits are given "{OTHERS}" or "{ALL}" tokens, got {self.given!r}; write one of the two')
        if isinstance(self.process, Uniform) and self.given is None:
            raise Refused(
                f'a network for uniform noise needs `given`, the meaning of its logits; write given="{ALL}" after '
                f'plain cross-entropy, which fits p(x0_l | x_t), or given="{OTHERS}" for p(x0_l | x_t without l), as '
                "UDLM's bound does"
            )


@pytree
class TokenNetwork(TokenModel):
    """A token denoiser from a pure function `apply(params, x, t, cond) -> logits (L, V)`, of one sequence or a batch.

    Attributes:
      params: a pytree of arrays.
      apply: the function; x (L,) are integers below `process.states`, t is the clock of the schedule. For the meaning
        of the logits see `given`.
      process: `Absorbing(V)` or `Uniform(V)`.
      domain: what the network was trained for; None checks nothing.
      batched: as in `Network`.
      given: which tokens the logits of a position depend on, required for `Uniform`. "all" means p(x0_l | x_t), which
        plain cross-entropy fits; the evidence of token l itself is divided out exactly. "others" means p(x0_l | x_t
        without l), which UDLM's bound fits (`TokenDenoising`); these logits are used unchanged. Write "others" for
        `SUNDAE` too. For masks both mean the same, and None is allowed.

    Raises:
      Refused: logits of another shape; samples, labels or levels that `domain` does not allow; uniform noise without
        `given`.
    """

    params: Any
    apply: Callable = static()
    process: Process = static()
    domain: Domain | None = static(default=None)
    batched: bool = static(default=None)
    given: str | None = static(default=None)

    def __post_init__(self):
        require_form(self, self.batched)
        self.require_given()

    def logits(self, x, level, cond):
        logits = call_network(self.apply, self.batched, self.params, x, level.t, network_condition(self.domain, cond))
        return unless_unknown(self.domain, cond, logits)


@pytree
class HiddenNetwork(TokenModel, HiddenStates):
    """A token denoiser decode(encode(x)) whose hidden states can be guided, by `NOS` or `LaMBO`.

    A network may be split into `encode` and `decode` at any layer. Guided hidden states always pass through the
    remaining layers of the same network.

    Attributes:
      params: a pytree of arrays.
      encode: `encode(params, x, t, cond) -> h`, hidden states, usually (L, width).
      decode: `decode(params, h, t, cond) -> logits (L, V)`.
      process: `Absorbing(V)` or `Uniform(V)`.
      domain: what the network was trained for; None checks nothing.
      given: as in `TokenNetwork`.

    Raises:
      Refused: logits of another shape; samples, labels or levels that `domain` does not allow; uniform noise without
        `given`.
    """

    functions = ("decode",)

    params: Any
    encode: Callable = static()
    decode: Callable = static()
    process: Process = static()
    domain: Domain | None = static(default=None)
    given: str | None = static(default=None)

    def __post_init__(self):
        self.require_given()

    def hidden(self, x: Any, level: Any, cond: Any) -> Any:
        """Return the hidden states of one sequence, usually (L, width)."""
        return self.encode(self.params, x, level.t, network_condition(self.domain, cond))

    def logits_of(self, h: Any, level: Any, cond: Any) -> Any:
        """Return the logits (L, V) that the hidden states h lead to."""
        logits = self.decode(self.params, h, level.t, network_condition(self.domain, cond))
        return unless_unknown(self.domain, cond, logits)

    def logits(self, x, level, cond):
        return self.logits_of(self.hidden(x, level, cond), level, cond)
