"""Every guidance method, solver and kernel with a small constructor: the laws run over all rows.

Adding a method is adding its row here; `test_table.py` fails until it is there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import guidance_jax as gj
from guidance_jax.oracles.gaussian import CLEAN

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


def log_clean(x0, level, label):
    """The same classifier asked about clean samples."""
    return MIXTURE.log_posterior(x0, CLEAN, label)


def counting_log_posterior():
    """(the exact classifier, a count of its evaluations under "runs"), which skipped branches leave alone."""
    count = {"runs": 0}

    def tick():
        count["runs"] += 1

    def log_prob(x, level, label):
        jax.debug.callback(tick)
        return log_posterior(x, level, label)

    return log_prob, count


def line(x):
    """A linear operator on the plane: one measurement."""
    return 0.8 * x[:1] - 0.5 * x[1:]


def seen(label):
    """What was measured, by label, so that the rows of inverse problems take labels like all others."""
    return jnp.stack([1.0 - 0.7 * label], -1)


def two(label):
    """Two conditions from one label."""
    return jnp.stack([label, (label + 1) % 3], -1)


def point(label):
    """A sample whose first entry is known, by label."""
    return jnp.stack([0.5 - 0.2 * label, 0.0 * label], -1)


def another(label):
    """A wrong label, whose model is a weak one."""
    return (label + 1) % 3


def mean(x):
    """A low-pass filter on vectors."""
    return jnp.full_like(x, jnp.mean(x))


class Guide(NamedTuple):
    """A guidance method. `make(strength, model)` at `off` is `identity(model)`; `keeps_x`: alpha x0 + sigma eps = x.

    `strong` is a strength that must change something.
    """

    make: Callable[..., Any]
    off: Any
    identity: Callable[[Any], Any]
    keeps_x: bool = True
    strong: Any = 3.0


def same(model):
    return model


def null(model):
    return gj.Unconditional(model, NULL)


GUIDANCE = {
    gj.CFG: Guide(lambda w, m=MIXTURE: gj.CFG(m, NULL, w), 1.0, same),
    gj.guidance.Rescale: Guide(lambda w, m=MIXTURE: gj.guidance.Rescale(m, NULL, w, 0.5), 1.0, same),
    gj.guidance.APG: Guide(lambda w, m=MIXTURE: gj.guidance.APG(m, NULL, w, 0.3, -0.5, 2.0), 1.0, same),
    gj.guidance.CFGPlusPlus: Guide(lambda w, m=MIXTURE: gj.guidance.CFGPlusPlus(m, NULL, w), 0.0, null, keeps_x=False),
    gj.guidance.CFGZeroStar: Guide(lambda w, m=MIXTURE: gj.guidance.CFGZeroStar(m, NULL, w), 1.0, same),
    gj.guidance.TCFG: Guide(lambda w, m=MIXTURE: gj.guidance.TCFG(m, NULL, w), 1.0, same),
    gj.guidance.FDG: Guide(lambda w, m=MIXTURE: gj.guidance.FDG(m, NULL, w, low=(1 + w) / 2, lowpass=mean), 1.0, same),
    gj.guidance.MAMBOG: Guide(lambda w, m=MIXTURE: gj.guidance.MAMBOG(m, NULL, w, 0.3), 1.0, same),
    gj.guidance.Compose: Guide(
        lambda w, m=MIXTURE: gj.Conditioned(gj.guidance.Compose(m, NULL, w * jnp.array([1.0, -0.3])), two), 0.0, null
    ),
    gj.guidance.DynamicNegative: Guide(lambda w, m=MIXTURE: gj.guidance.DynamicNegative(m, NULL, w, prior=0.4), 0.0, null),
    gj.guidance.AdaptiveGuidance: Guide(lambda w, m=MIXTURE: gj.guidance.AdaptiveGuidance(m, NULL, w, threshold=0.9999), 1.0, same),
    gj.guidance.Perturbed: Guide(
        lambda w, m=MIXTURE: gj.guidance.Perturbed(m, NULL, w, weak=gj.Conditioned(m, another), weak_scale=w - 1),
        1.0,
        same,
    ),
    gj.Autoguidance: Guide(lambda w, m=MIXTURE: gj.Autoguidance(m, null(m), w), 1.0, same),
    gj.Classifier: Guide(lambda w, m=MIXTURE: gj.Classifier(null(m), log_posterior, w), 0.0, null),
    gj.guidance.Reuse: Guide(lambda w, m=MIXTURE: gj.guidance.Reuse(gj.Classifier(null(m), log_posterior, w), 2), 0.0, null),
    gj.Reconstruction: Guide(lambda w, m=MIXTURE: gj.Reconstruction(null(m), log_clean, w), 0.0, null),
    gj.guidance.LGD: Guide(lambda w, m=MIXTURE: gj.guidance.LGD(null(m), log_clean, w, draws=3), 0.0, null),
    gj.guidance.MPGD: Guide(lambda w, m=MIXTURE: gj.guidance.MPGD(null(m), log_clean, w), 0.0, null, keeps_x=False),
    gj.guidance.Universal: Guide(lambda w, m=MIXTURE: gj.guidance.Universal(null(m), log_clean, w, steps=2, rate=0.1 * w), 0.0, null),
    gj.guidance.TFG: Guide(
        lambda w, m=MIXTURE: gj.guidance.TFG(null(m), log_clean, 0.1 * w, 0.1 * w, 0.1, iters=2, draws=2),
        0.0,
        null,
        keeps_x=False,
    ),
    gj.guidance.PiGDM: Guide(lambda w, m=MIXTURE: gj.guidance.PiGDM(null(m), line, 0.3, w, seen), 0.0, null),
    gj.guidance.TMPD: Guide(lambda w, m=MIXTURE: gj.guidance.TMPD(null(m), line, 0.3, w, seen), 0.0, null),
    gj.guidance.MMPS: Guide(lambda w, m=MIXTURE: gj.guidance.MMPS(null(m), line, 0.3, w, seen, iterations=2), 0.0, null),
    gj.Clip: Guide(lambda w, m=MIXTURE: gj.Clip(m, w), 1e6, same, strong=0.01),
    gj.guidance.DynamicClip: Guide(lambda w, m=MIXTURE: gj.guidance.DynamicClip(m, 90.0, w), 1e6, same, strong=0.01),
}


class Order(NamedTuple):
    """A solver, its order of convergence on the ODE (None: tested only as the SDE it is), and whether it draws."""

    solver: Any
    order: int | None
    draws: bool = False


SOLVERS = {
    gj.DDIM: Order(gj.DDIM(), 1),
    gj.DDPM: Order(gj.DDPM(gj.solvers.fixed_large), None, True),
    gj.Heun: Order(gj.Heun(), 2),
    gj.solvers.DPM2: Order(gj.solvers.DPM2(SCHEDULE), 2),
    gj.DPMSolver2M: Order(gj.DPMSolver2M(), 2),
    gj.solvers.DPMSolver2S: Order(gj.solvers.DPMSolver2S(SCHEDULE), 2),
    gj.solvers.LMS: Order(gj.solvers.LMS(), 2),  # fourth order but for its first step, which is Euler's
}

# Stochastic settings of solvers that also have deterministic ones
NOISY = {"DDIM(1)": gj.DDIM(1.0), "2M SDE": gj.DPMSolver2M(1.0), "2S ancestral": gj.solvers.DPMSolver2S(SCHEDULE, 1.0)}

KERNELS = {
    gj.Reverse: lambda w: gj.Reverse(gj.CFG(MIXTURE, NULL, w), gj.DDIM(0.5)),
    gj.MeanShift: lambda w: gj.MeanShift(UNCONDITIONAL, gj.DDPM(), log_posterior, w),
    gj.Recur: lambda w: gj.Recur(gj.Reverse(gj.CFG(MIXTURE, NULL, w), gj.DDIM(0.5)), 2),
    gj.kernels.Padded: lambda w: gj.kernels.Padded(gj.Reverse(gj.CFG(MIXTURE, NULL, w), gj.DDIM(0.5))),
    gj.kernels.DPS: lambda w: gj.kernels.DPS(UNCONDITIONAL, gj.DDIM(0.5), line, 0.1 * w, seen),
    gj.Inpaint: lambda w: gj.Inpaint(gj.Reverse(gj.CFG(MIXTURE, NULL, w), gj.DDIM(0.5)), jnp.array([1, 0]), point),
    gj.kernels.Corrector: lambda w: gj.kernels.Corrector(gj.Reverse(MIXTURE, gj.DDIM()), gj.CFG(MIXTURE, NULL, w), 0.3),
    gj.kernels.RectifiedCFGPlusPlus: lambda w: gj.kernels.RectifiedCFGPlusPlus(MIXTURE, NULL, w, SCHEDULE),
    gj.kernels.Split: lambda w: gj.kernels.Split(UNCONDITIONAL, gj.DPMSolver2M(), log_posterior, w, strang=True),
}

# Moves of a population
PARTICLES = {
    gj.Twisted: lambda w: gj.Twisted(UNCONDITIONAL, gj.DDIM(1.0), log_clean, w),
    gj.CorrectedCFG: lambda w: gj.CorrectedCFG(MIXTURE, NULL, w, gj.DDIM(1.0)),
    gj.CorrectedClassifier: lambda w: gj.CorrectedClassifier(UNCONDITIONAL, log_posterior, w, gj.DDIM(1.0)),
    gj.Annealed: lambda w: gj.Annealed(MIXTURE, w, gj.DDIM(1.0)),
    gj.Steered: lambda w: gj.Steered(UNCONDITIONAL, gj.DDIM(1.0), log_clean, w),
    gj.BestOf: lambda w: gj.BestOf(gj.Reverse(UNCONDITIONAL, gj.DDIM(1.0)), log_clean, w),
}
POPULATIONS = {
    **{c: (lambda w, make=make: gj.SMC(make(w), threshold=0.7)) for c, make in PARTICLES.items()},
    gj.particles.ParticleGuidance: lambda w: gj.particles.ParticleGuidance(MIXTURE, gj.DDIM(1.0), w),
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
    rows["Ramp"] = gj.Reverse(gj.CFG(MIXTURE, NULL, gj.guidance.Ramp(strength)), gj.DDIM())
    rows["PerClass"] = gj.Reverse(gj.CFG(MIXTURE, NULL, gj.PerClass(strength * jnp.arange(1.0, 4.0))), gj.DDIM())
    return rows
