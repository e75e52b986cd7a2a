"""A whole text- or class-conditional model: denoiser, autoencoder, text encoders, grid of timesteps."""

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Level, Refused
from guidance_jax.models.network import Network
from guidance_jax.schedules import dynamic_shift, grid
from guidance_jax.zoo.latent import Autoencoder, TextEncoder
from guidance_jax.zoo.layers import timestep_embedding
from guidance_jax.zoo.mmdit.t5 import T5Encoder
from guidance_jax.zoo.tokenizer import Tokenizer

READS = ("features", "rows", "last", "states")  # see `Pipeline.reads`


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A downloaded model with all its parts. Its `model` is a `Network`, so every method of the library takes it.

        cond, null = pipeline.conditions(["a red cat"] * 4), pipeline.null("blurry")
        guided = CFG(pipeline.model, null, scale=5.0)
        latents = generate(keys(0, 4), Reverse(guided, DDIM()), pipeline.levels(30), pipeline.shape, cond)
        pictures = pipeline.decode(latents)

    Attributes:
      model: the denoiser of latents, or of pictures.
      autoencoder: the part that turns latents into pictures; None for a model of pictures.
      text: the encoders of captions; empty for a model of classes, or for one that encodes captions itself.
      tokenizer: the tokenizer of a denoiser that encodes captions itself (GLIDE); None for others.
      grid: the grid of timesteps for sampling: a function of `schedules` by name, with its options. None for uniform
        levels.
      clip: the radius to which the command line clips the clean estimate; None for no clipping.
      classes: the names of the classes; empty if they are unknown.
      sizes: the number of channels of the embedding of each of six numbers: the picture's sides, its crop and the sides
        wanted. The embeddings join the pooled text (XL). 0 for none.
      reads: how the states of several encoders become one context. "features": side by side. "rows": CLIP's side by
        side, then T5's as further rows (SD3). "last": those of the last encoder alone (FLUX). "states": those of one
        language model, with `real`, which marks the tokens of the caption (Z-Image).
      shift: the options of `dynamic_shift`, if the shift of the grid depends on the size of the pictures; None if not.
      zero_empty: whether an empty negative caption means a condition of zeros (XL).
    """

    model: Network
    autoencoder: Autoencoder | None = None
    text: tuple[TextEncoder, ...] = ()
    tokenizer: Tokenizer | None = None
    grid: Mapping[str, Any] | None = None
    clip: float | None = None
    classes: tuple[str, ...] = ()
    sizes: int = 0
    zero_empty: bool = False
    reads: str = "features"
    shift: Mapping[str, Any] | None = None

    @property
    def domain(self) -> Any:
        """The domain of the denoiser."""
        return self.model.domain

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample of the denoiser."""
        return self.domain.shape

    @property
    def captions(self) -> bool:
        """Whether the model is conditional on captions."""
        return bool(self.text) or self.tokenizer is not None

    def levels(self, steps: int) -> Level:
        """Return the levels of `steps` steps on the model's own grid."""
        return grid(self.domain.schedule, steps, self.grid)

    def resize(self, height: int, width: int) -> "Pipeline":
        """Return the same pipeline for pictures of another size, in pixels.

        Raises:
          Refused: a model that makes pictures of one size only; sides that are not multiples of 8 latents.
        """
        if not self.text or self.autoencoder is None:
            raise Refused("the model makes only pictures of the size it was trained for; remove the size")
        factor = self.autoencoder.factor
        if height % (8 * factor) or width % (8 * factor) or min(height, width) < 1:
            raise Refused(f"height and width must be multiples of {8 * factor}, got {height} x {width}")
        shape = (height // factor, width // factor, self.shape[-1])
        context = tuple((k, (height, width, 3) if k == "image" else v) for k, v in self.domain.context)
        domain = dataclasses.replace(self.domain, shape=shape, context=context)
        model, found = dataclasses.replace(self.model, domain=domain), self.grid
        if self.shift is not None:
            tokens = shape[0] * shape[1] // 4  # a token has 2 x 2 latents
            found = {**(found or {}), "shift": dynamic_shift(tokens, **self.shift)}
        return dataclasses.replace(self, model=model, grid=found)

    def lengthen(self, chunks: int) -> "Pipeline":
        """Return the same pipeline for captions longer than the 75 tokens that CLIP reads at once.

        A caption is cut between words into `chunks` chunks. A shorter one is filled up with empty chunks, and
        cross-attention sees all of them.

        Raises:
          Refused: less than one chunk; a model whose captions other encoders than CLIP read, such as T5.
        """
        if type(chunks) is not int or chunks < 1:
            raise Refused(f"captions need at least one chunk, got {chunks!r}")
        if not self.text or self.reads != "features":
            raise Refused(
                "chunks are for models whose captions only CLIP reads (Stable Diffusion 1, 2 and XL); remove chunks"
            )
        text = tuple(dataclasses.replace(encoder, chunks=chunks) for encoder in self.text)
        own, length = dict(self.domain.context), self.text[0].network.length
        own["context"] = (chunks * length, own["context"][1])
        model = dataclasses.replace(self.model, domain=dataclasses.replace(self.domain, context=tuple(own.items())))
        return dataclasses.replace(self, model=model, text=text)

    def conditions(self, asked: Any, weighted: bool = False) -> Any:
        """Return the conditions of captions, or the labels (n,) of classes.

        Every caption takes one call of each text encoder.

        Args:
          asked: a list of captions, or of classes by number or name. A single one counts as a list of one.
          weighted: whether words of captions may have weights, as in "a (red:1.3) cat". The weight multiplies the
            distance of a token's state from that of the empty caption. If False, brackets have no meaning.

        Raises:
          Refused: a caption for a model of classes; a name that it does not know; a caption that is too long; weights
            that cannot be read or that the model does not take.
        """
        if weighted and (not self.text or self.reads == "states"):
            raise Refused("word weights need CLIP or T5, and this model has neither; remove weighted")
        if isinstance(asked, str) or np.ndim(asked) == 0:  # a single caption
            asked = [asked]
        if not self.captions:
            return np.asarray([self.label(one) for one in asked], np.int32)
        if not all(isinstance(one, str) for one in asked):
            raise Refused(f"the model is conditional on captions, got {asked!r}; write conditions(['a red cat'])")
        if self.tokenizer is not None:
            return self.model.encode(self.tokenizer(asked))
        joint = self.reads != "features" and isinstance(
            self.text[-1].network, T5Encoder
        )  # T5 reads longer captions than CLIP
        states = [encoder(asked, weighted, joint and encoder is not self.text[-1]) for encoder in self.text]
        if self.reads != "features":
            return self.read_jointly(states)
        found = {"context": jnp.concatenate([s["context"] for s in states], -1)}
        if self.sizes:
            pooled = states[-1]["pooled"]
            found["vector"] = jnp.concatenate([pooled, jnp.broadcast_to(self.size(), (len(asked), 6 * self.sizes))], -1)
        return found

    def read_jointly(self, states: Any) -> dict[str, Any]:
        """Return the conditions of SD3, FLUX and Z-Image. Pooled states are CLIP's; zeros replace a missing T5."""
        if self.reads == "states":
            return states[0]
        rows, width = dict(self.domain.context)["context"]
        clips = [s for s in states if "pooled" in s]
        vector = jnp.concatenate([s["pooled"] for s in clips], -1)
        if self.reads == "last":
            return {"context": states[-1]["context"], "vector": vector}
        context = jnp.concatenate([s["context"] for s in clips], -1)
        context = jnp.pad(context, ((0, 0), (0, 0), (0, width - context.shape[-1])))
        below = [s["context"] for s in states if "pooled" not in s]
        below = below or [jnp.zeros((len(context), rows - context.shape[1], width), context.dtype)]
        return {"context": jnp.concatenate([context, *below], 1), "vector": vector}

    def null(self, negative: str = "", weighted: bool = False) -> Any:
        """Return the condition of one sample that means "unconditional", or that of a negative caption.

        Args:
          negative: the negative caption; "" for none.
          weighted: as in `conditions`.

        Raises:
          Refused: a negative caption for a model of classes, or one without a null label.
        """
        if self.captions:
            row = jax.tree.map(lambda a: a[0], self.conditions([negative], weighted and bool(negative)))
            if self.zero_empty and not negative:
                row = jax.tree.map(jnp.zeros_like, row)
                row["vector"] = row["vector"].at[-6 * self.sizes :].set(self.size())
            return row
        if negative:
            raise Refused(
                "a negative caption needs a model conditional on captions, this one is conditional on classes"
            )
        if self.domain.null_label is None:
            raise Refused("the model has no null label: it was trained without conditioning dropout")
        return np.int32(self.domain.null_label)

    def size(self) -> Any:
        """Return the embedded sizes: the sides of the picture, the crop (0, 0), the sides wanted."""
        factor = 1 if self.autoencoder is None else self.autoencoder.factor
        height, width = (factor * n for n in self.shape[:2])
        numbers = jnp.asarray([height, width, 0, 0, height, width], jnp.float32)
        return jax.vmap(lambda n: timestep_embedding(n, self.sizes))(numbers).reshape(-1)

    def label(self, asked: Any) -> int:
        """Return the number of a class from its number or its name.

        Raises:
          Refused: a name or a number that the model does not know.
        """
        if isinstance(asked, str) and asked in self.classes:
            return self.classes.index(asked)
        try:
            number = int(asked) if isinstance(asked, str) else operator.index(asked)
        except (TypeError, ValueError):
            raise Refused(
                f"there is no class called {str(asked)[:40]!r}; the model has {len(self.classes)} names"
            ) from None
        known = self.domain.num_classes
        if isinstance(asked, bool) or (
            known is not None and not 0 <= number <= max(known - 1, self.domain.null_label or 0)
        ):
            raise Refused(f"there is no class called {str(asked)[:40]!r}; they go from 0 to {known - 1}")
        return number

    def decode(self, latents: Any, tile: int | None = None) -> np.ndarray:
        """Return pictures in [-1, 1] from samples of the denoiser. `Autoencoder.decode` explains `tile`."""
        return np.asarray(latents) if self.autoencoder is None else self.autoencoder.decode(latents, tile)
