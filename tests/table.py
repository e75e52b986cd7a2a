"""Every guidance method, solver and kernel with a small constructor: the laws run over all rows.

Adding a method is adding its row here; `test_table.py` fails until it is there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

import guidance_jax as gj

# An asymmetric target: three classes of four components, nothing mirrored.
MIXTURE = gj.GaussianMixture(
    means=jnp.array([[2.0, 0.3], [-1.0, 1.5], [-1.2, -2.0], [0.4, 2.2]]),
    std=jnp.array([0.5, 0.4, 0.6, 0.3]),
    weights=jnp.array([0.4, 0.25, 0.2, 0.15]),
    classes=jnp.array([0, 1, 2, 1]),
)
NULL = 3
UNCONDITIONAL = gj.Unconditional(MIXTURE, NULL)
SCHEDULE = gj.Cosine()


def log_posterior(x, level, label):
    """The exact classifier, defined once so that nothing retraces."""
    return MIXTURE.log_posterior(x, level, label)


class Guide(NamedTuple):
    """A guidance method. `make(strength)` at `off` is the same as `identity`; `keeps_x`: alpha x0 + sigma eps = x."""

    make: Callable[[Any], Any]
    off: Any
    identity: Any
    keeps_x: bool = True


GUIDANCE = {
    gj.CFG: Guide(lambda w: gj.CFG(MIXTURE, NULL, w), 1.0, MIXTURE),
    gj.Rescale: Guide(lambda w: gj.Rescale(MIXTURE, NULL, w, 0.5), 1.0, MIXTURE),
    gj.Autoguidance: Guide(lambda w: gj.Autoguidance(MIXTURE, UNCONDITIONAL, w), 1.0, MIXTURE),
    gj.Classifier: Guide(lambda w: gj.Classifier(UNCONDITIONAL, log_posterior, w), 0.0, UNCONDITIONAL),
    gj.Clip: Guide(lambda w: gj.Clip(MIXTURE, w), 1e6, MIXTURE),
    gj.DynamicClip: Guide(lambda w: gj.DynamicClip(MIXTURE, 90.0, w), 1e6, MIXTURE),
}


class Order(NamedTuple):
    """A solver, its order of convergence on the ODE (None: tested only as the SDE it is), and whether it draws."""

    solver: Any
    order: int | None
    draws: bool = False


SOLVERS = {
    gj.DDIM: Order(gj.DDIM(), 1),
    gj.DDPM: Order(gj.DDPM(gj.fixed_large), None, True),
    gj.Heun: Order(gj.Heun(), 2),
    gj.DPM2: Order(gj.DPM2(SCHEDULE), 2),
    gj.DPMSolver2M: Order(gj.DPMSolver2M(), 2),
    gj.DPMSolver2S: Order(gj.DPMSolver2S(SCHEDULE), 2),
    gj.LMS: Order(gj.LMS(), 2),  # fourth order but for its first step, which is Euler's
}

# Stochastic settings of solvers that also have deterministic ones
NOISY = {"DDIM(1)": gj.DDIM(1.0), "2M SDE": gj.DPMSolver2M(1.0), "2S ancestral": gj.DPMSolver2S(SCHEDULE, 1.0)}

KERNELS = {
    gj.Reverse: lambda w: gj.Reverse(gj.CFG(MIXTURE, NULL, w), gj.DDIM(0.5)),
    gj.MeanShift: lambda w: gj.MeanShift(UNCONDITIONAL, gj.DDPM(), log_posterior, w),
    gj.Recur: lambda w: gj.Recur(gj.Reverse(gj.CFG(MIXTURE, NULL, w), gj.DDIM(0.5)), 2),
}


def all_kernels(strength):
    """Every row as a kernel: each guidance with a solver, each solver with a guidance, each kernel."""
    rows = {f"{c.__name__}": gj.Reverse(g.make(strength), gj.DDIM(0.5)) for c, g in GUIDANCE.items()}
    rows |= {f"{c.__name__}": gj.Reverse(gj.CFG(MIXTURE, NULL, strength), s.solver) for c, s in SOLVERS.items()}
    rows |= {name: gj.Reverse(gj.CFG(MIXTURE, NULL, strength), s) for name, s in NOISY.items()}
    rows |= {f"kernel {c.__name__}": make(strength) for c, make in KERNELS.items()}
    rows["Window"] = gj.Reverse(gj.CFG(MIXTURE, NULL, gj.Window(strength, 0.3, 3.0)), gj.DDIM())
    rows["Window classifier"] = gj.Reverse(
        gj.Classifier(UNCONDITIONAL, log_posterior, gj.Window(strength, 0.3, 3.0)), gj.Heun()
    )
    rows["PerClass"] = gj.Reverse(gj.CFG(MIXTURE, NULL, gj.PerClass(strength * jnp.arange(1.0, 4.0))), gj.DDIM())
    return rows
