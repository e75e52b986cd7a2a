"""DiffusionGemma: text written a canvas at a time, by uniform diffusion given the keys and values of what precedes."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import FAILED, Refused, pytree, static
from guidance_jax.discrete.entropy_bound import EntropyBound
from guidance_jax.discrete.network import ALL, TokenModel
from guidance_jax.discrete.process import Uniform
from guidance_jax.kernels.reverse import Reverse
from guidance_jax.models.domain import Domain
from guidance_jax.sample import generate
from guidance_jax.schedules import RectifiedFlow
from guidance_jax.zoo.rotary.gemma import GemmaCanvas
from guidance_jax.zoo.rotary.prompts import BUCKET, LONGEST, encode_prompt

NULL = {"is_other": True}  # the null condition of `CFG`: the prompt `other` is read


@pytree
class Cooling:
    """A temperature that falls linearly from `first` at t = 1 towards `last` at t = 0; a function of the level."""

    first: Any = 0.8
    last: Any = 0.4

    def __call__(self, level: Any) -> Any:
        return self.last + (self.first - self.last) * level.t


@pytree
class CanvasNetwork(TokenModel):
    """DiffusionGemma as a denoiser of one canvas (L,) of uniform noise. Its state is the last step's prediction.

    The condition is a dictionary: `cache` and `padding` from `CanvasPipeline.conditions`, and, for classifier-free
    guidance, those of another prompt as `other`. The null condition `{"is_other": True}` selects the other prompt.

    Attributes:
      params: the parameters of the network.
      network: a `GemmaCanvas`.
      process: `Uniform(V)`.
      temperature: the number, or function of the level, that divides the logits before their expected embedding is
        passed to the next step.
      domain: as in `TokenNetwork`.
      given: always "all", since the network was trained by plain cross-entropy.
    """

    functions = ()

    params: Any
    network: GemmaCanvas = static()
    process: Uniform = static()
    temperature: Any = 1.0
    domain: Domain | None = static(default=None)
    given: str | None = static(default=ALL)

    def init(self, x):
        return jnp.zeros((*x.shape, self.network.width), self.network.dtype or jnp.float32)

    def __call__(self, x, level, cond, state, key):
        cache, padding = cond["cache"], cond["padding"]
        if "other" in cond:
            own, other = (cache, padding), (cond["other"]["cache"], cond["other"]["padding"])
            cache, padding = jax.tree.map(lambda a, b: jnp.where(cond["is_other"], b, a), own, other)
        logits = self.network.decode(self.params, x, cache, padding, state)
        heat = self.temperature(level) if callable(self.temperature) else self.temperature
        thought = self.network.expect(self.params, jax.nn.log_softmax(logits / heat))
        return self.read(logits, x, level), thought.astype(state.dtype)


@dataclasses.dataclass(frozen=True)
class CanvasPipeline:
    """DiffusionGemma as published: `model` is a denoiser of a canvas for every method of uniform diffusion.

        pipeline = gj.load(folder)
        texts = pipeline.decode(pipeline.write(keys(0, 2), ["Once upon a time"] * 2, length=256))
        guided = gj.CFG(pipeline.model, {"is_other": True}, 1.5)
        x = pipeline.write(keys(0, 2), prompts, length=256, model=guided, other="")

    Attributes:
      model: the denoiser, a `CanvasNetwork`.
      network: the network inside `model`.
      tokenizer: a tokenizer of the package `tokenizers`.
      length: the number of tokens of a canvas.
      end: the token that ends a text; None if none does.
      pad: the token of padding.
      begin: the token before every prompt; None for none.
      steps: the default number of network calls per canvas.
      solver: `EntropyBound` with the settings of the folder.
    """

    model: CanvasNetwork
    network: GemmaCanvas
    tokenizer: Any
    length: int
    end: int | None
    pad: int
    begin: int | None
    steps: int
    solver: EntropyBound

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of prompts.

        Raises:
          Refused: no prompt, or one with tokens that the network does not know.
        """
        if not prompts:
            raise Refused('a text needs a prompt, which may be empty: write [""]')
        first = [] if self.begin is None else [self.begin]
        return [first + encode_prompt(self.tokenizer, prompt, self.network.vocabulary) for prompt in prompts]

    def conditions(self, rows: Sequence[Sequence[int]], size: int, other: Sequence[Sequence[int]] | None = None) -> Any:
        """Return the keys and values that the canvas attends to, of tokens padded on the left; a row per sample.

        Args:
          rows: the tokens before the canvas, for each sample.
          size: the number of tokens with padding; at least that of the longest row.
          other: the tokens that the null condition reads instead, for each sample; None for no null condition.

        Raises:
          Refused: a row longer than `size`, or none.
        """
        longest = max(map(len, [*rows, *(other or ())]), default=0)
        if not longest <= size <= LONGEST:
            raise Refused(f"prompts of up to {longest:,} tokens do not fit {size:,} (at most {LONGEST:,})")

        def read(rows):
            tokens = np.full((len(rows), size), self.pad, np.int32)
            padding = np.array([size - len(row) for row in rows], np.int32)
            for line, row, pad in zip(tokens, rows, padding, strict=True):
                line[pad:] = row
            return {"cache": encode_rows(self.network, self.model.params, tokens, padding), "padding": padding}

        cond = read(rows)
        return cond if other is None else cond | {"other": read(other), "is_other": np.zeros(len(rows), bool)}

    def levels(self, steps: int | None = None) -> Any:
        """Return levels whose clock t falls linearly. The temperature follows t; the network does not get it."""
        return RectifiedFlow().levels(steps or self.steps)

    def write(
        self,
        keys: Any,
        prompts: Sequence[str],
        length: int,
        *,
        model: Any = None,
        other: str | None = None,
        steps: int | None = None,
        solver: Any = None,
    ) -> np.ndarray:
        """Return tokens (n, length) that follow the prompts, written canvas by canvas, each given all before it.

        Padding follows the token that ends a text. A sample that failed is `FAILED` everywhere.

        Args:
          keys: (n,), one per prompt.
          prompts: n texts.
          length: the number of tokens. Whole canvases are sampled and then cut.
          model: a guided version of `self.model`; None for `self.model` itself.
          other: the prompt that the null condition reads; None for no null condition.
          steps: the network calls per canvas; None for the default of the folder.
          solver: a solver of uniform noise; None for the default of the folder.

        Raises:
          Refused: no prompt, a number of keys that is not n, tokens that the network does not know, a length below 1.
        """
        rows = self.encode(prompts)
        count = -(-length // self.length)
        null = None if other is None else self.encode([other])[0]
        longest = max(map(len, [*rows, null or (), (self.pad,)]))
        size = -(-longest // BUCKET) * BUCKET + (count - 1) * self.length
        if len(keys) != len(rows) or count < 1:
            raise Refused(f"{len(rows)} prompts take as many keys and one token or more, got {len(keys)}, {length}")
        kernel = Reverse(self.model if model is None else model, self.solver if solver is None else solver)
        written = np.zeros((len(rows), 0), np.int32)
        for i in range(count):
            before = [row + new.tolist() for row, new in zip(rows, written, strict=True)]
            others = None if null is None else [null + new.tolist() for new in written]
            cond = self.conditions(before, size, others)
            own_keys = jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys)
            x = np.asarray(generate(own_keys, kernel, self.levels(steps), (self.length,), cond))
            written = np.concatenate([written, x], 1)
            if self.end is not None and np.all(np.any((written == self.end) | (written == FAILED), 1)):
                break
        written = np.pad(written, ((0, 0), (0, count * self.length - written.shape[1])), constant_values=self.pad)
        failed = np.any(written == FAILED, 1, keepdims=True)
        if self.end is not None:
            ended = np.cumsum(written == self.end, 1) - (written == self.end) > 0
            written = np.where(ended, self.pad, written)
        return np.where(failed, FAILED, written)[:, :length]

    def decode(self, x: Any) -> list[str]:
        """Return the texts of tokens (n, L), each up to the token that ends it; "" for a sample that failed."""
        texts = []
        for row in np.asarray(x).tolist():
            row = [] if FAILED in row else row[: row.index(self.end)] if self.end in row else row
            texts.append(self.tokenizer.decode(row, skip_special_tokens=True))
        return texts


@partial(jax.jit, static_argnums=0)
def encode_rows(network: GemmaCanvas, params: Any, tokens: Any, padding: Any) -> Any:
    """Return keys and values of rows of tokens (n, P), computed one row after the other."""
    return jax.lax.map(lambda row: network.encode(params, *row), (tokens, padding))
