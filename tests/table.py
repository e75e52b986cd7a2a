"""Every row of `guidance_jax.methods` on an exact mixture in the plane: the laws run over all rows."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import guidance_jax as gj
from guidance_jax.core import CLEAN
from guidance_jax.guidance import Ramp, Reuse, Tempered
from guidance_jax.methods import CONTRAST, GRADIENT, KERNEL, MACHINERY, METHODS
from guidance_jax.methods import PARTICLES as PARTICLE_METHODS
from guidance_jax.methods import SOLVERS as TABLED
from guidance_jax.particles import ParticleGuidance
from guidance_jax.solvers import DPM2, GLASS, LMS, DPMSolver2S, DPMSolver3M, FreshNoise, SASolver, UniPC
from tests.given import Given

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


LINE = gj.operators.Matrix(jnp.array([[0.8, -0.5]]))  # the same, with its singular values


def turn(x):
    """A decoder of latents."""
    return jnp.stack([x[1], -x[0]])


def turn_back(x):
    return jnp.stack([-x[1], x[0]])


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


def plane(strength, model=MIXTURE):
    """What there is on the plane: `model`, all guides exact."""
    return Given(
        model=model,
        free=null(model),
        reverse=gj.Reverse(gj.CFG(model, NULL, strength), gj.DDIM(0.5)),
        unguided=gj.Reverse(null(model), gj.DDIM(1.0)),
        solver=gj.DDIM(1.0),
        schedule=SCHEDULE,
        null=NULL,
        classifier=log_posterior,
        likelihood=log_clean,
        operator=line,
        mask=jnp.array([1, 0]),
        std=0.3,
        observed=seen,
        weak=gj.Conditioned(model, another),
        scale=strength,
    )


# options of a method at a strength, where its defaults would hide it, or need more than a network can do in a test
OPTIONS = {
    "Rescale": lambda w, m: {"phi": 0.5},
    "APG": lambda w, m: {"eta": 0.3, "momentum": -0.5, "radius": 2.0},
    "FDG": lambda w, m: {"low": (1 + w) / 2, "lowpass": mean},
    "MAMBOG": lambda w, m: {"damping": 0.3},
    "DynamicNegative": lambda w, m: {"prior": 0.4},
    "AdaptiveGuidance": lambda w, m: {"threshold": 0.9999},
    "Compose": lambda w, m: {"weights": w * jnp.array([1.0, -0.3])},
    "Perturbed": lambda w, m: {"weak_scale": w - 1},
    "Autoguidance": lambda w, m: {"weak": null(m)},
    "Internal": lambda w, m: {"inner": Early((), drift, gj.parameterizations.v, inner=m, batched=False)},
    "Learned": lambda w, m: {"inner": Taught(m)},
    "Reuse": lambda w, m: {"every": 2},
    "LGD": lambda w, m: {"draws": 3},
    "Universal": lambda w, m: {"steps": 2, "rate": 0.1 * w},
    "TFG": lambda w, m: {"rho": 0.1 * w, "mu": 0.1 * w, "spread": 0.1, "steps": 2, "draws": 2},
    "MMPS": lambda w, m: {"steps": 2},
    "DPG": lambda w, m: {"draws": 3},
    "PosteriorMean": lambda w, m: {"draws": 3, "steps": 2},
    "PSLD": lambda w, m: {"solver": gj.DDIM(0.5), "scale": 0.1 * w, "decode": turn, "encode": turn_back},
    "ReSample": lambda w, m: {
        "solver": gj.DDIM(0.5),
        "strength": w,
        "every": 2,
        "fits": 3,
        "decode": turn,
        "encode": turn_back,
    },
    "DDRM": lambda w, m: {"operator": LINE, "std": 0.1 * w},
    "DDNM": lambda w, m: {"operator": LINE, "std": 0.1 * w},
    "DAPS": lambda w, m: {"likelihood": gj.inverse.ExactStep(line, 0.1 * w, seen), "steps": 2},
    "SplitGibbs": lambda w, m: {"likelihood": gj.inverse.ExactStep(line, 0.1 * w, seen), "steps": 2},
    "FPS": lambda w, m: {"operator": LINE, "std": 0.1 * w},
    "REDdiff": lambda w, m: {"weight": 0.25 * w},
    "EnKG": lambda w, m: {"scale": 0.1 * w, "steps": 2},
    "Clip": lambda w, m: {"inner": m, "radius": w},
    "DynamicClip": lambda w, m: {"inner": m, "radius": w, "percentile": 90.0},
    "MeanShift": lambda w, m: {"solver": gj.DDPM()},
    "DPS": lambda w, m: {"solver": gj.DDIM(0.5), "scale": 0.1 * w},
    "Inpaint": lambda w, m: {"observed": point},
    "Edit": lambda w, m: {"picture": jnp.array([0.3, -0.2])},
    "Corrector": lambda w, m: {"inner": gj.Reverse(m, gj.DDIM()), "model": gj.CFG(m, NULL, w), "step": 0.3},
    "MapSteps": lambda w, m: {"model": gj.models.FlowMap(w, drift)},
    "SVDD": lambda w, m: {"children": 3},
    "Split": lambda w, m: {"solver": gj.DPMSolver2M(), "strang": True},
    "Reverse": lambda w, m: {"model": gj.CFG(m, NULL, w), "solver": gj.DDIM(0.5)},
}


def made(name, strength, model=MIXTURE):
    """The method of that name on the plane."""
    options = OPTIONS.get(name, lambda w, m: {})(strength, model)
    part = plane(strength, model).make(name, **options)
    return gj.Conditioned(part, two) if name == "Compose" else part


def rows_of(*families):
    return [row for row in METHODS.values() if row.family in families]


MOVES_X = ("CFGPlusPlus", "MPGD", "TFG")  # whose x is not alpha x0 + sigma eps
BOUNDS = ("Clip", "DynamicClip")  # the smaller, the stronger
GUIDANCE = {
    row.cls: Guide(
        partial(made, row.name),
        0.0 if row.off is None else next(iter(row.off.values())),
        null if row.same == "unconditional" or row.cls is Reuse else same,
        keeps_x=row.name not in MOVES_X,
        strong=0.01 if row.name in BOUNDS else 3.0,
    )
    for row in rows_of(CONTRAST, GRADIENT)
}


CORE = [gj.CFG, gj.guidance.APG, gj.guidance.Compose, gj.Classifier, gj.guidance.TFG, gj.inverse.MMPS]


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
    UniPC: Order(UniPC(2), 3),  # with its corrector
    FreshNoise: Order(FreshNoise(0.0), 1),
    LMS: Order(LMS(), 2),  # fourth order but for its first step, which is Euler's
}
SOLVERS |= {
    row.cls: Order(row.make(plane(0.5)), None, issubclass(row.cls, gj.core.Stochastic))
    for row in TABLED.values()
    if row.cls.takes is gj.core.GaussianDiffusion and row.cls not in SOLVERS
}

# Stochastic settings of solvers that also have deterministic ones
NOISY = {"DDIM(1)": gj.DDIM(1.0), "2M SDE": gj.DPMSolver2M(1.0), "2S ancestral": DPMSolver2S(SCHEDULE, 1.0)}
NOISY |= {"3M SDE": DPMSolver3M(1.0), "SA-Solver": SASolver(1.0), "half fresh": FreshNoise(0.5)}

KERNELS = {row.cls: partial(made, row.name) for row in rows_of(KERNEL, MACHINERY) if row.cls is not gj.SMC}

# Moves of a population
PARTICLES = {
    **{row.cls: partial(made, row.name) for row in rows_of(PARTICLE_METHODS) if issubclass(row.cls, gj.Move)},
    "Corrected classifier": lambda w: gj.Corrected(gj.Classifier(UNCONDITIONAL, log_posterior, w), gj.DDIM(1.0)),
    "Corrected tempering": lambda w: gj.Corrected(Tempered(MIXTURE, w), gj.DDIM(1.0)),
}
POPULATIONS = {
    **{c: (lambda w, make=make: gj.SMC(make(w), threshold=0.7)) for c, make in PARTICLES.items()},
    ParticleGuidance: partial(made, "ParticleGuidance"),
    gj.inverse.EnKG: partial(made, "EnKG"),
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
