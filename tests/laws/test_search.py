"""Search among children: with the exact value and many children it samples the tilted distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.kernels import SVDD
from guidance_jax.metrics.energy import energy_distance
from guidance_jax.oracles import monte_carlo_floor as floor
from tests.table import MIXTURE, SCHEDULE, UNCONDITIONAL, log_clean, log_posterior
from tests.token_table import FLOW, LENGTH, MASKED, log_masked, unconditional

N, LABEL = 20_000, 1


def masks(children, scale=1.0):
    kernel = SVDD(unconditional(MASKED), gj.Ancestral(), log_masked, scale, children, noisy=True)
    return gj.generate(gj.keys(0, N), kernel, FLOW.levels(80), (LENGTH,), jnp.full(N, LABEL))


def test_many_children_with_the_exact_value_sample_the_posterior():
    """Masks, the exact p(y | x_t) for value: total variation falls with the children, to the floor."""
    target = MASKED.target(LABEL)
    found = {m: MASKED.total_variation(masks(m), target) for m in (2, 4, 32)}
    print(f"total variation {found}, floor {floor(target, N):.4f}, no search "
          f"{MASKED.total_variation(masks(2, 0.0), target):.4f}")  # fmt: skip
    assert found[2] > found[4] > found[32]
    assert found[32] < 2 * floor(target, N)
    assert found[2] < 0.7 * MASKED.total_variation(masks(2, 0.0), target)


def test_in_the_plane_the_exact_value_beats_the_reward_of_the_clean_estimate():
    """Energy distance to p(x | y): the noisy classifier with 16 children is nearer than r(E[x_0 | x_s])."""
    n, levels = 4000, gj.schedules.log_snr_uniform(SCHEDULE, 40, lo=0.02)
    exact = np.asarray(MIXTURE.sample(gj.keys(5, 1)[0], n, LABEL))

    def distance(**options):
        kernel = SVDD(UNCONDITIONAL, gj.DDIM(1.0), children=16, **options)
        x = gj.generate(gj.keys(1, n), kernel, levels, (2,), jnp.full(n, LABEL))
        return float(energy_distance(exact, x))

    found = {
        "noisy classifier": distance(reward=log_posterior, noisy=True),
        "clean estimate": distance(reward=log_clean),
        "no search": distance(reward=log_clean, scale=0.0),
    }
    print(found)
    assert found["noisy classifier"] < found["clean estimate"] < found["no search"]


def ring(x, level, cond):
    """A reward with its best, 0, on a circle."""
    return -jnp.abs(jnp.linalg.norm(x) - 3.0)


def searched(width, n=8, runs=400):
    """The best particle's reward in each run, and the particles, by beam search of the width or, None, best-of-n."""
    levels = gj.schedules.log_snr_uniform(SCHEDULE, 12, lo=0.02)
    how = {"threshold": 0.0} if width is None else {"resample": gj.resampling.Beam(width), "threshold": 1.0}
    found = gj.populations(
        gj.keys(0, runs), gj.SMC(gj.Steered(UNCONDITIONAL, gj.DDIM(1.0), ring, 1.0), **how), levels, (2,), n,
        jnp.zeros(runs, int),
    )  # fmt: skip
    return np.asarray(jax.vmap(lambda x: ring(x, None, None))(found.best())), found


def test_beam_search_finds_more_than_best_of_n_and_claims_no_evidence():
    """A beam as wide as the population only sorts it, so it is best-of-n; narrower ones find better at equal calls."""
    alone, all_kept = searched(None), searched(8)
    beam = {width: searched(width)[0].mean() for width in (1, 2, 4)}
    print(f"mean reward of the best: best of 8 {alone[0].mean():.3f}, beams {beam}")
    assert abs(all_kept[0].mean() - alone[0].mean()) < 4 * alone[0].std() / 20
    assert min(beam.values()) > 0.5 * alone[0].mean()
    kept = all_kept[1]
    assert np.isnan(kept.log_evidence).all()
    assert np.isfinite(alone[1].log_evidence).all()
    # the weights that are kept are those of the rewards found
    rewards = np.asarray(jax.vmap(jax.vmap(lambda x: ring(x, None, None)))(kept.x[:3]))
    np.testing.assert_allclose(kept.log_w[:3] - kept.log_w[:3, :1], rewards - rewards[:, :1], atol=1e-4)
    with pytest.raises(gj.Refused, match="a beam keeps 1 to 8 particles, got 9"):
        searched(9)


def test_a_search_without_children_is_refused():
    kernel = SVDD(UNCONDITIONAL, gj.DDIM(), log_clean)
    with pytest.raises(gj.Refused, match="proportion to the solver's variance"):
        gj.generate(gj.keys(0, 2), kernel, SCHEDULE.levels(3), (2,), jnp.zeros(2, int))
