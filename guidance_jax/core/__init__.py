"""The shared types, and the contracts between the parts.

Everything is written for ONE sample `x` of shape `event_shape` and one scalar level; batches come from `jax.vmap`.

    Space     what a sample is, what a level means, where sampling starts
    Denoiser  (x, level, cond, state, key) -> (prediction, state)     predicts the clean sample
    Guide     log_prob(x, level, cond), and its gradient `score`      steers towards a condition
    Solver    step(pred, t, s, evaluate, state, key) -> (x, state)    moves to the next level
    Kernel    (carry, t, s, cond, key) -> carry                       one reverse transition
    Move      potential, propose, final_potential                     one particle of a population

A guidance method is a denoiser made from another denoiser. A method that changes the transition is a kernel made from
another kernel. Every object is a frozen dataclass and a pytree. Its numbers are leaves, so changing a number
recompiles nothing.
"""

from guidance_jax.core.arithmetic import float_type, kl_divergence, log, log_softmax, norm, normal, quotient, scalar
from guidance_jax.core.contracts import (
    Denoiser,
    Guide,
    HiddenStates,
    Kernel,
    KernelWrapper,
    Move,
    Solver,
    Stochastic,
    Wrapper,
    as_guide,
    check_arguments,
    check_space,
    innermost,
    need,
)
from guidance_jax.core.distributions import Categorical, Distribution, Normal
from guidance_jax.core.edges import (
    FAILED,
    add_logs,
    argmax_token,
    count_failed,
    draw_token,
    is_sound,
    keep_failed,
    nan_unless,
    read_entry,
)
from guidance_jax.core.levels import (
    CLEAN,
    Level,
    Refused,
    check_levels,
    check_signal,
    first_line,
    fresh_share,
    posterior_variance,
)
from guidance_jax.core.pytrees import Bound, Rows, concrete, converted, function, known_zero, pytree, rows, static
from guidance_jax.core.spaces import Composable, GaussianDiffusion, Prediction, Space

__all__ = [
    "Bound",
    "CLEAN",
    "Composable",
    "Categorical",
    "Denoiser",
    "Distribution",
    "FAILED",
    "GaussianDiffusion",
    "Guide",
    "HiddenStates",
    "Kernel",
    "KernelWrapper",
    "Level",
    "Move",
    "Normal",
    "Prediction",
    "Refused",
    "Rows",
    "Solver",
    "Space",
    "Stochastic",
    "Wrapper",
    "add_logs",
    "argmax_token",
    "as_guide",
    "check_arguments",
    "check_levels",
    "check_signal",
    "check_space",
    "concrete",
    "converted",
    "count_failed",
    "draw_token",
    "first_line",
    "float_type",
    "fresh_share",
    "function",
    "innermost",
    "is_sound",
    "keep_failed",
    "known_zero",
    "kl_divergence",
    "log",
    "log_softmax",
    "nan_unless",
    "need",
    "norm",
    "normal",
    "posterior_variance",
    "pytree",
    "quotient",
    "read_entry",
    "rows",
    "scalar",
    "static",
]
