"""Every guidance method, solver and kernel with a small constructor: the laws run over all rows.

Adding a method is adding its row here; `test_table.py` fails until it is there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import guidance_jax as gj
from guidance_jax.core import CLEAN
from guidance_jax.guidance import (
    APG,
    FDG,
    LGD,
    MAMBOG,
    MMPS,
    MPGD,
    TCFG,
    TFG,
    TMPD,
    AdaptiveGuidance,
    CFGPlusPlus,
    CFGZeroStar,
    Compose,
    DynamicClip,
    DynamicNegative,
    Internal,
    Learned,
    Perturbed,
    PiGDM,
    Ramp,
    Rescale,
    Reuse,
    Tempered,
    Universal,
)
from guidance_jax.kernels import DPS, SVDD, Corrector, MapSteps, Padded, RectifiedCFGPlusPlus, Split
from guidance_jax.particles import ParticleGuidance
from guidance_jax.solvers import DPM2, GLASS, LMS, DPMSolver2S

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


def drift(params, x, t, s, cond):
    """An average velocity that depends on everything."""
    return x * (1 + t - s) - params * (1 + cond) / 3


@gj.core.pytree
class Outside(gj.guidance.Scale):
    """A window's strength outside it, with the arithmetic that rows of the table do with strengths."""

    def active(self, level):
        return level.ratio < 0

    def strength(self, level, cond, off):
        return jnp.asarray(off)

    def __add__(self, other):
        return self

    __radd__ = __sub__ = __rmul__ = __mul__ = __truediv__ = __add__


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


@gj.core.pytree
class Early(gj.models.TwoHeaded):
    """`inner` as a network with a second head, which says what the unconditional model says."""

    inner: Any = None

    @property
    def space(self):
        return self.inner.space

    def heads(self, x, level, cond):
        return tuple(m(x, level, cond, (), None)[0] for m in (self.inner, null(self.inner)))


@gj.core.pytree
class Taught(gj.core.Wrapper, gj.core.Denoiser):
    """What a network that has learned guidance perfectly says: CFG at the scale which is its input."""

    inner: Any
    scale: Any = 1.0
    wrong: Any = 1.0  # asked at so many times the scale
    params: Any = None

    def __call__(self, x, level, cond, state, key):
        guided = gj.CFG(self.inner, NULL, self.wrong * self.scale)
        return guided(x, level, cond, guided.init(x), key)[0], state


GUIDANCE = {
    gj.CFG: Guide(lambda w, m=MIXTURE: gj.CFG(m, NULL, w), 1.0, same),
    Rescale: Guide(lambda w, m=MIXTURE: Rescale(m, NULL, w, 0.5), 1.0, same),
    APG: Guide(lambda w, m=MIXTURE: APG(m, NULL, w, 0.3, -0.5, 2.0), 1.0, same),
    CFGPlusPlus: Guide(lambda w, m=MIXTURE: CFGPlusPlus(m, NULL, w), 0.0, null, keeps_x=False),
    CFGZeroStar: Guide(lambda w, m=MIXTURE: CFGZeroStar(m, NULL, w), 1.0, same),
    TCFG: Guide(lambda w, m=MIXTURE: TCFG(m, NULL, w), 1.0, same),
    FDG: Guide(lambda w, m=MIXTURE: FDG(m, NULL, w, low=(1 + w) / 2, lowpass=mean), 1.0, same),
    MAMBOG: Guide(lambda w, m=MIXTURE: MAMBOG(m, NULL, w, 0.3), 1.0, same),
    Compose: Guide(lambda w, m=MIXTURE: gj.Conditioned(Compose(m, NULL, w * jnp.array([1.0, -0.3])), two), 0.0, null),
    DynamicNegative: Guide(lambda w, m=MIXTURE: DynamicNegative(m, NULL, w, prior=0.4), 0.0, null),
    AdaptiveGuidance: Guide(lambda w, m=MIXTURE: AdaptiveGuidance(m, NULL, w, threshold=0.9999), 1.0, same),
    Perturbed: Guide(
        lambda w, m=MIXTURE: Perturbed(m, NULL, w, weak=gj.Conditioned(m, another), weak_scale=w - 1),
        1.0,
        same,
    ),
    Internal: Guide(lambda w, m=MIXTURE: Internal(Early((), drift, gj.parameterizations.v, inner=m), w), 1.0, same),
    Learned: Guide(lambda w, m=MIXTURE: Learned(Taught(m), w), 1.0, same),
    gj.Autoguidance: Guide(lambda w, m=MIXTURE: gj.Autoguidance(m, null(m), w), 1.0, same),
    gj.Classifier: Guide(lambda w, m=MIXTURE: gj.Classifier(null(m), log_posterior, w), 0.0, null),
    Reuse: Guide(lambda w, m=MIXTURE: Reuse(gj.Classifier(null(m), log_posterior, w), 2), 0.0, null),
    gj.Reconstruction: Guide(lambda w, m=MIXTURE: gj.Reconstruction(null(m), log_clean, w), 0.0, null),
    LGD: Guide(lambda w, m=MIXTURE: LGD(null(m), log_clean, w, draws=3), 0.0, null),
    MPGD: Guide(lambda w, m=MIXTURE: MPGD(null(m), log_clean, w), 0.0, null, keeps_x=False),
    Universal: Guide(lambda w, m=MIXTURE: Universal(null(m), log_clean, w, steps=2, rate=0.1 * w), 0.0, null),
    TFG: Guide(
        lambda w, m=MIXTURE: TFG(null(m), log_clean, 0.1 * w, 0.1 * w, 0.1, iters=2, draws=2),
        0.0,
        null,
        keeps_x=False,
    ),
    PiGDM: Guide(lambda w, m=MIXTURE: PiGDM(null(m), line, 0.3, w, seen), 0.0, null),
    TMPD: Guide(lambda w, m=MIXTURE: TMPD(null(m), line, 0.3, w, seen), 0.0, null),
    MMPS: Guide(lambda w, m=MIXTURE: MMPS(null(m), line, 0.3, w, seen, iterations=2), 0.0, null),
    Tempered: Guide(lambda w, m=MIXTURE: Tempered(m, w), 1.0, same),
    gj.Clip: Guide(lambda w, m=MIXTURE: gj.Clip(m, w), 1e6, same, strong=0.01),
    DynamicClip: Guide(lambda w, m=MIXTURE: DynamicClip(m, 90.0, w), 1e6, same, strong=0.01),
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
    DPM2: Order(DPM2(SCHEDULE), 2),
    gj.DPMSolver2M: Order(gj.DPMSolver2M(), 2),
    DPMSolver2S: Order(DPMSolver2S(SCHEDULE), 2),
    GLASS: Order(GLASS(SCHEDULE, 3), None, True),
    LMS: Order(LMS(), 2),  # fourth order but for its first step, which is Euler's
}

# Stochastic settings of solvers that also have deterministic ones
NOISY = {"DDIM(1)": gj.DDIM(1.0), "2M SDE": gj.DPMSolver2M(1.0), "2S ancestral": DPMSolver2S(SCHEDULE, 1.0)}

KERNELS = {
    gj.Reverse: lambda w: gj.Reverse(gj.CFG(MIXTURE, NULL, w), gj.DDIM(0.5)),
    gj.MeanShift: lambda w: gj.MeanShift(UNCONDITIONAL, gj.DDPM(), log_posterior, w),
    gj.Recur: lambda w: gj.Recur(gj.Reverse(gj.CFG(MIXTURE, NULL, w), gj.DDIM(0.5)), 2),
    Padded: lambda w: Padded(gj.Reverse(gj.CFG(MIXTURE, NULL, w), gj.DDIM(0.5))),
    DPS: lambda w: DPS(UNCONDITIONAL, gj.DDIM(0.5), line, 0.1 * w, seen),
    gj.Inpaint: lambda w: gj.Inpaint(gj.Reverse(gj.CFG(MIXTURE, NULL, w), gj.DDIM(0.5)), jnp.array([1, 0]), point),
    Corrector: lambda w: Corrector(gj.Reverse(MIXTURE, gj.DDIM()), gj.CFG(MIXTURE, NULL, w), 0.3),
    RectifiedCFGPlusPlus: lambda w: RectifiedCFGPlusPlus(MIXTURE, NULL, w, SCHEDULE),
    MapSteps: lambda w: MapSteps(gj.models.FlowMap(w, drift)),
    SVDD: lambda w: SVDD(UNCONDITIONAL, gj.DDIM(1.0), log_clean, w, children=3),
    Split: lambda w: Split(UNCONDITIONAL, gj.DPMSolver2M(), log_posterior, w, strang=True),
}

# Moves of a population
PARTICLES = {
    gj.Twisted: lambda w: gj.Twisted(UNCONDITIONAL, gj.DDIM(1.0), log_clean, w),
    gj.Corrected: lambda w: gj.Corrected(gj.CFG(MIXTURE, NULL, w), gj.DDIM(1.0)),
    "Corrected classifier": lambda w: gj.Corrected(gj.Classifier(UNCONDITIONAL, log_posterior, w), gj.DDIM(1.0)),
    "Corrected tempering": lambda w: gj.Corrected(Tempered(MIXTURE, w), gj.DDIM(1.0)),
    gj.Steered: lambda w: gj.Steered(UNCONDITIONAL, gj.DDIM(1.0), log_clean, w),
    gj.BestOf: lambda w: gj.BestOf(gj.Reverse(UNCONDITIONAL, gj.DDIM(1.0)), log_clean, w),
}
POPULATIONS = {
    **{c: (lambda w, make=make: gj.SMC(make(w), threshold=0.7)) for c, make in PARTICLES.items()},
    ParticleGuidance: lambda w: ParticleGuidance(MIXTURE, gj.DDIM(1.0), w),
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
    rows["Ramp"] = gj.Reverse(gj.CFG(MIXTURE, NULL, Ramp(strength)), gj.DDIM())
    rows["PerClass"] = gj.Reverse(gj.CFG(MIXTURE, NULL, gj.PerClass(strength * jnp.arange(1.0, 4.0))), gj.DDIM())
    return rows
