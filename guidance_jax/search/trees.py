"""Diffusion tree sampling (Jain et al. 2025, arXiv 2506.20701): every chain decides where the next one branches.

    a node is x_t, its children are draws of p(x_s | x_t), the root's are starts
    v(x_0) = scale r(x_0),   v(x_t) = log mean over children of exp v       (the soft Bellman backup)
    down:  a new child while there are fewer than width visits^growth, else a child with probability ~ exp v

Going down without new children draws leaf x_0 with weight exp(scale r(x_0)) / (product of its ancestors' numbers of
children). In the limit this samples p(x) exp(scale r(x)), but convergence is slow. A branch whose first leaves are bad
is seldom visited again, so that its value stays too low. So, unlike that of populations, the evidence is biased, and
the bias grows with the sharpness of r.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from guidance_jax._typing import Array
from guidance_jax.core import Level, Refused, float_type, rows
from guidance_jax.particles.populations import Particles, not_lost
from guidance_jax.search.asked import check_search


class Tree(NamedTuple):
    """Nodes by (depth, rollout that made them). Depth d is level d; a rollout makes at most one node per depth."""

    carry: Any  # (depths, n, ...)
    parent: Any  # (depths, n): the slot of depth - 1
    value: Any  # (depths, n)
    visits: Any  # (depths, n): 0 where there is no node

    def exists(self, depth: Any) -> Any:
        """Return (n,), whether there is a node at `depth`."""
        return self.visits[depth] > 0


def chosen(mask: Any, value: Any, key: Any) -> Any:
    """Draw the index of one node of `mask`, with probability ~ exp(value)."""
    return jax.random.categorical(key, jnp.where(mask, jnp.maximum(value, -1e30), -jnp.inf))


def back_up(mask: Any, value: Any) -> Any:
    """Return log mean exp(value) over `mask`."""
    return jax.nn.logsumexp(jnp.where(mask, value, -jnp.inf)) - jnp.log(jnp.sum(mask))


def rollout(move, tree, i, key, levels, shape, cond, width, growth):
    """Go from the root down to a leaf and pass its reward back up. Return (tree, (leaf, whether it was dropped))."""
    descend_key, finish_key = jax.random.split(key)
    path, parents, new, visits, states = descend(move, tree, i, descend_key, levels, shape, cond, width, growth)
    clean = levels.at(-1)
    leaf = move.kernel.finish(jax.tree.map(lambda a: a[-1], states), clean, cond, finish_key)
    reward = move.final_potential(leaf.x, (), clean, cond, key)
    lost = ~(reward < jnp.inf)
    tree = tree._replace(
        carry=jax.tree.map(lambda every, own: every.at[:, i].set(own), tree.carry, states),
        parent=tree.parent.at[:, i].set(parents),
        visits=tree.visits.at[jnp.arange(len(path)), path].set(visits),
    )
    return ascend(tree, path, jnp.where(lost, -jnp.inf, reward)), (leaf.x, lost & new[-1])


def descend(move, tree, i, key, levels, shape, cond, width, growth):
    """Return (depths,) slots from the root down, their parents, whether each is new, visits with this one, carries."""

    def make(carry, depth, key):
        t, s = levels.at(depth - 1), levels.at(depth)
        return jax.lax.cond(
            depth == 0,
            lambda: move.kernel.init(move.start(key, levels, (1, *shape))[0]),
            lambda: move.kernel(carry, t, s, cond, key),
        )

    def down(above, inputs):
        parent, visits, carry = above
        depth, key = inputs
        choice_key, kernel_key = jax.random.split(key)
        mask = tree.exists(depth) & (tree.parent[depth] == parent)
        new = jnp.sum(mask) < width * visits**growth
        slot = jnp.where(new, i, chosen(mask, tree.value[depth], choice_key)).astype(jnp.int32)

        def known():
            return jax.tree.map(lambda a: a[depth, slot], tree.carry)

        carry = jax.lax.cond(new, lambda: make(carry, depth, kernel_key), known)
        visits = jnp.where(new, 0, tree.visits[depth, slot]) + 1.0
        return (slot, visits, carry), (slot, parent, new, visits, carry)

    depths = len(levels.t)
    nothing = jax.tree.map(lambda a: a[0, 0], tree.carry)
    root = jnp.int32(-1), i + 1.0, nothing
    return jax.lax.scan(down, root, (jnp.arange(depths), jax.random.split(key, depths)))[1]


def ascend(tree, path, reward):
    """Return the tree with new values of the nodes on `path`, which ends at a leaf with this `reward`."""

    def up(below, inputs):
        depth, slot = inputs
        mask = tree.exists(depth + 1) & (tree.parent[depth + 1] == slot)
        value = back_up(mask, tree.value[depth + 1].at[path[depth + 1]].set(below))
        return value, value

    at = jnp.arange(len(path))
    _, values = jax.lax.scan(up, reward, (at[:-1], path[:-1]), reverse=True)
    return tree._replace(value=tree.value.at[at, path].set(jnp.append(values, reward)))


def leaves(tree: Tree) -> Any:
    """Return (n,) log-weights of the leaves, going down without new children; their logsumexp is the root's value."""

    def down(paid, depth):
        above = jnp.where(depth == 0, -1, tree.parent[depth])
        same = tree.exists(depth) & (above[:, None] == above[None, :])
        paid = jnp.where(depth == 0, 0.0, paid[above]) + jnp.log(jnp.sum(same, 1))
        return paid, None

    paid, _ = jax.lax.scan(down, jnp.zeros(tree.visits.shape[1]), jnp.arange(len(tree.visits)))
    return jnp.where(tree.exists(-1), tree.value[-1] - paid, -jnp.inf)


@partial(jax.jit, static_argnames=("shape", "n"))
def _trees(keys, move, levels, shape, n, cond, width, growth):
    def one(key, move, cond):
        depths = len(levels.t)
        x = jax.eval_shape(lambda: move.kernel.init(move.start(key, levels, (1, *shape))[0]))
        tree = Tree(
            jax.tree.map(lambda a: jnp.zeros((depths, n, *a.shape), a.dtype), x),
            jnp.zeros((depths, n), jnp.int32),
            jnp.full((depths, n), -jnp.inf, float_type(x.x)),
            jnp.zeros((depths, n)),
        )
        tree, (x, dropped) = jax.lax.scan(
            lambda tree, one: rollout(move, tree, one[0], one[1], levels, shape, cond, width, growth),
            tree,
            (jnp.arange(n), jax.random.split(key, n)),
        )
        log_w = leaves(tree)
        evidence = jax.nn.logsumexp(log_w)
        alive = evidence > -jnp.inf
        log_w = jnp.where(alive, log_w - jnp.where(alive, evidence, 0) + jnp.log(n), 0)
        ess = jnp.sum(jnp.exp(log_w)) ** 2 / jnp.sum(jnp.exp(2 * log_w))
        clean = levels.at(-1)
        failed = jnp.where(alive, jnp.nan, clean.sigma / clean.alpha)
        return Particles(x, log_w, evidence, ess[None], jnp.sum(dropped)), failed

    return jax.vmap(one, in_axes=(0, rows(move), 0))(keys, move, cond)


def trees(
    keys: Array,
    move: Any,
    levels: Level,
    shape: tuple[int, ...],
    n: int,
    cond: Any = None,
    *,
    width: float = 1.0,
    growth: float = 0.8,
) -> Particles:
    """Build one tree of `n` rollouts per key, in one compiled program; each rollout learns from those before it.

    A rollout needs the kernel only at levels where its node is new. But many keys in one program compute it at all
    levels, so that the cost is that of n samples of `BestOf`. All nodes are stored: n samples at every level.
    `.draw(key)` goes down the tree once more, `.best()` finds the leaf of largest weight. Several draws from one tree
    are not independent; trees of several keys are.

    Args:
      keys: `(runs,)` keys.
      move: `BestOf(kernel, reward, scale)` with a random kernel of one sample; with a deterministic one only starts
        differ.
      levels: as in `sample`.
      shape: the shape of one sample.
      n: the number of rollouts, at least two.
      cond: the condition of each run, a pytree whose leaves have leading axis `runs`, or None.
      width: at least 1; a node visited N times has up to width N^growth children.
      growth: that exponent, from 0 to 1; 1 is importance sampling.

    Returns:
      `Particles` with the leaves; a leaf that was not new has weight zero.

    Raises:
      Refused: a move other than `BestOf`; fewer than two rollouts; a width below one or a growth outside [0, 1]; what
        the move refuses; a run whose leaves all have the reward -inf.
    """
    keys, move, levels, shape, cond = check_search("trees", keys, move, levels, shape, cond)
    if n < 2 or width < 1 or not 0 <= growth <= 1:
        raise Refused(f"a tree needs n >= 2, width >= 1, 0 <= growth <= 1, got n={n}, width={width}, growth={growth}")
    return not_lost(n, *_trees(keys, move, levels, shape, n, cond, jnp.float32(width), jnp.float32(growth)))
