"""From networks (any pure functions) to token denoisers."""

from collections.abc import Callable
from typing import Any

from guidance_jax.core import Denoiser, HiddenStates, Refused, log_softmax, pytree, static
from guidance_jax.discrete.prediction import TokenPrediction
from guidance_jax.discrete.process import Process, Uniform
from guidance_jax.models.batching import call_network, require_form
from guidance_jax.models.domain import Domain, network_condition, unless_unknown
from guidance_jax.models.network import Parametrized

OTHERS, ALL = "others", "all"  # tokens that the logits of a position are given


class TokenModel(Parametrized, Denoiser):
    """A denoiser of tokens: subclasses say what the logits are, and of which `process`."""

    process: Process
    given: str | None = None

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
        log_p = self.process.without_mask(log_softmax(logits))
        log_p = self.process.leave_one_out(log_p, x, level) if self.given == ALL else log_p
        return TokenPrediction(x, log_p, self.process)

    def require_given(self) -> None:
        """Raise `Refused` unless it was said what the logits of uniform noise are given: no network tells."""
        if self.given not in (None, OTHERS, ALL):
            raise Refused(f'logits are given "{OTHERS}" or "{ALL}" tokens, got {self.given!r}; write one of the two')
        if isinstance(self.process, Uniform) and self.given is None:
            raise Refused(
                f'a network of uniform noise says what its logits mean; write given="{ALL}" after plain cross-entropy, '
                f'which fits p(x0_l | x_t), or given="{OTHERS}" for p(x0_l | x_t without l), as UDLM\'s bound does'
            )


@pytree
class TokenNetwork(TokenModel):
    """A token denoiser from a pure function `apply(params, x, t, cond) -> logits (L, V)`, of one sequence or a batch.

    Attributes:
      params: a pytree of arrays.
      apply: the function; x (L,) integers of the states of the process, t the clock of the schedule. See
        `given`.
      process: `Absorbing(V)` or `Uniform(V)`.
      domain: what it was trained for; without one, nothing is checked.
      batched: as in `Network`.
      given: of `Uniform`, which tokens the logits of a position are given. "all": they mean p(x0_l | x_t), which plain
        cross-entropy fits; the token's own evidence is divided out exactly. "others": they mean p(x0_l | x_t without
        l), which UDLM's bound fits (`TokenDenoising`), and are used as they are; so are those of `SUNDAE`. Masks make
        no difference.

    Raises:
      Refused: logits of another shape; samples, labels or levels that `domain` does not allow; a network of uniform
        noise that does not say what its logits are given.
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
    """A token denoiser whose hidden states can be guided (`NOS`, `LaMBO`): decode(encode(x)).

    The two may be cut at any layer: what is optimised is always decoded by the rest of the same network.

    Attributes:
      params: a pytree of arrays.
      encode: `encode(params, x, t, cond) -> h`, hidden states, usually (L, width).
      decode: `decode(params, h, t, cond) -> logits (L, V)`.
      process: `Absorbing(V)` or `Uniform(V)`.
      domain: what it was trained for; without one, nothing is checked.
      given: as in `TokenNetwork`.

    Raises:
      Refused: as `TokenNetwork`.
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
        """The hidden states of one sequence, usually (L, width)."""
        return self.encode(self.params, x, level.t, network_condition(self.domain, cond))

    def logits_of(self, h: Any, level: Any, cond: Any) -> Any:
        """The logits (L, V) that hidden states lead to."""
        logits = self.decode(self.params, h, level.t, network_condition(self.domain, cond))
        return unless_unknown(self.domain, cond, logits)

    def logits(self, x, level, cond):
        return self.logits_of(self.hidden(x, level, cond), level, cond)
