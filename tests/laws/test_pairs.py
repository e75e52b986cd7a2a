"""Composition: every guidance with every solver, every guidance inside every other, every kernel with every guidance.

Each pair runs jitted and vmapped with finite samples, or raises a one-line `ValueError`. One program holds all partners
of a method, so that this takes a minute or two.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from tests.table import GUIDANCE, MIXTURE, NOISY, NULL, SCHEDULE, SOLVERS, line, log_clean, log_posterior, point, seen

LEVELS, LABELS = SCHEDULE.levels(3), jnp.array([0, 1])
ALL_SOLVERS = {**{c.__name__: row.solver for c, row in SOLVERS.items()}, **NOISY}


def plain(model):
    """The model without a label, as the kernels that bring their own guide take it."""
    return gj.Unconditional(model, NULL)


AROUND = {
    "Recur": lambda m: gj.Recur(gj.Reverse(m, gj.DDIM(0.5)), 2),
    "MeanShift": lambda m: gj.MeanShift(m, gj.DDPM(), log_posterior, 0.5),
    "DPS": lambda m: gj.kernels.DPS(m, gj.DDIM(), line, 0.1, seen),
    "Inpaint": lambda m: gj.Inpaint(gj.Reverse(m, gj.DDIM(0.5)), jnp.array([1, 0]), point),
    "Corrector": lambda m: gj.kernels.Corrector(gj.Reverse(m, gj.DDIM()), m, 0.1),
    "RectifiedCFGPlusPlus": lambda m: gj.kernels.RectifiedCFGPlusPlus(m, NULL, 0.5, SCHEDULE),
    "Split": lambda m: gj.kernels.Split(m, gj.DDIM(), log_posterior, 0.5),
}
MOVES = {
    "Twisted": lambda m: gj.Twisted(m, gj.DDIM(1.0), log_clean, 0.2),
    "CorrectedCFG": lambda m: gj.CorrectedCFG(m, NULL, 1.2, gj.DDIM(1.0)),
    "CorrectedClassifier": lambda m: gj.CorrectedClassifier(m, log_posterior, 0.5, gj.DDIM(1.0)),
    "Annealed": lambda m: gj.Annealed(m, 1.1, gj.DDIM(1.0)),
    "Steered": lambda m: gj.Steered(m, gj.DDIM(1.0), log_clean, 0.1),
    "BestOf": lambda m: gj.BestOf(gj.Reverse(m, gj.DDIM(1.0)), log_clean, 0.1),
}


def run(kernel, shape):
    """Two samples; the point is that it is traced, compiled, batched and finite."""

    def one(key, label):
        return gj.sample(key, kernel, LEVELS, jax.random.normal(key, shape), label).x

    return jax.vmap(one)(gj.keys(0, 2), LABELS)


@pytest.fixture
def every(request):
    """Checks all kernels of a dictionary, in one program."""

    def check(kernels, shape=(2,)):
        program = jax.jit(lambda: {name: run(kernel, shape) for name, kernel in kernels.items()})
        if not request.config.getoption("--all-pairs"):
            for x in jax.eval_shape(program).values():
                assert (x.shape, x.dtype) == ((2, *shape), jnp.float32)
        else:
            assert [name for name, x in program().items() if not np.isfinite(x).all()] == []

    return check


@pytest.mark.parametrize("cls", GUIDANCE, ids=lambda c: c.__name__)
def test_every_guidance_runs_with_every_solver(cls, every):
    row = GUIDANCE[cls]
    every({name: gj.Reverse(row.make(0.5), solver) for name, solver in ALL_SOLVERS.items()})


@pytest.mark.parametrize("outer", GUIDANCE, ids=lambda c: c.__name__)
def test_every_guidance_runs_inside_every_other(outer, every):
    inside = {c.__name__: row.make(0.5) for c, row in GUIDANCE.items()}
    every({name: gj.Reverse(GUIDANCE[outer].make(0.5, model), gj.DDIM(0.5)) for name, model in inside.items()})


@pytest.mark.parametrize("kernel", AROUND)
def test_every_kernel_runs_with_every_guidance(kernel, every):
    every({c.__name__: AROUND[kernel](row.make(0.5)) for c, row in GUIDANCE.items()})


@pytest.mark.parametrize("move", MOVES)
def test_every_particle_method_runs_with_every_guidance(move, every):
    every({c.__name__: gj.SMC(MOVES[move](row.make(0.5))) for c, row in GUIDANCE.items()}, shape=(3, 2))


@pytest.mark.parametrize("solver", ALL_SOLVERS)
def test_moves_take_a_gaussian_solver_or_say_which_to_take(solver):
    """Those that need a Gaussian kernel refuse the others in one line; the rest runs with all."""
    for name, move in {
        "Twisted": gj.Twisted(MIXTURE, ALL_SOLVERS[solver], log_clean, 0.2),
        "CorrectedCFG": gj.CorrectedCFG(MIXTURE, NULL, 1.2, ALL_SOLVERS[solver]),
        "MeanShift": gj.MeanShift(plain(MIXTURE), ALL_SOLVERS[solver], log_posterior, 0.5),
    }.items():
        kernel = move if name == "MeanShift" else gj.SMC(move)
        x = jnp.zeros(2) if name == "MeanShift" else jnp.zeros((3, 2))
        act = partial(jax.eval_shape, lambda k=kernel, x=x: gj.sample(jax.random.key(0), k, LEVELS, x, LABELS[0]).x)
        if solver in ("DDPM", "DDIM(1)"):
            assert act().shape == x.shape
        else:
            with pytest.raises(ValueError, match=r"use DDPM\(\) or DDIM\(1.0\)"):
                act()
