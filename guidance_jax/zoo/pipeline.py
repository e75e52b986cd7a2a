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
    """What a downloaded model consists of; `model` is a `Network`, so every method of the library takes it.

        cond, null = pipeline.conditions(["a red cat"] * 4), pipeline.null("blurry")
        guided = CFG(pipeline.model, null, scale=5.0)
        latents = generate(keys(0, 4), Reverse(guided, DDIM()), pipeline.levels(30), pipeline.shape, cond)
        pictures = pipeline.decode(latents)

    Attributes:
      model: the denoiser of latents.
      autoencoder: pictures of them; None for a model of pictures.
      text: the encoders of captions, none for a model of classes, or one that encodes captions itself.
      tokenizer: of a denoiser that encodes captions itself, GLIDE's.
      grid: the timesteps it is sampled at, a table of a function of `schedules`; None for uniform levels.
      clip: the radius of the clean estimate, None for no clipping.
      classes: the names of the classes, where they are known.
      sizes: how many numbers (sides of the picture, crop, sides wanted) are embedded and join the pooled text, each as
        so many entries; 0 for none.
      reads: how the states of several encoders become one context: "features" side by side; "rows" those of CLIP side
        by side, then those of T5 below (SD3); "last" those of the last alone (FLUX); "states" those of one language
        model, and which of its tokens are real (Z-Image).
      shift: how the shift of the grid follows the size of the pictures, options of `dynamic_shift`; None: not at all.
      zero_empty: an empty negative caption is a condition of zeros (XL).
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
        """That of the denoiser."""
        return self.model.domain

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample of the denoiser."""
        return self.domain.shape

    @property
    def captions(self) -> bool:
        """Whether it is conditional on captions."""
        return bool(self.text) or self.tokenizer is not None

    def levels(self, steps: int) -> Level:
        """The levels of `steps` steps on the model's own grid."""
        return grid(self.domain.schedule, steps, self.grid)

    def resize(self, height: int, width: int) -> "Pipeline":
        """The same for pictures of another size, in pixels.

        Raises:
          Refused: a model of one size alone, sides that its U-Net cannot halve.
        """
        if not self.text or self.autoencoder is None:
            raise Refused("the model makes pictures of the size it was trained for; leave the size out")
        factor = self.autoencoder.factor
        if height % (8 * factor) or width % (8 * factor) or min(height, width) < 1:
            raise Refused(f"height and width are multiples of {8 * factor}, got {height} x {width}")
        shape = (height // factor, width // factor, self.shape[-1])
        context = tuple((k, (height, width, 3) if k == "image" else v) for k, v in self.domain.context)
        domain = dataclasses.replace(self.domain, shape=shape, context=context)
        model, found = dataclasses.replace(self.model, domain=domain), self.grid
        if self.shift is not None:
            tokens = shape[0] * shape[1] // 4  # of 2 x 2 latents
            found = {**(found or {}), "shift": dynamic_shift(tokens, **self.shift)}
        return dataclasses.replace(self, model=model, grid=found)

    def lengthen(self, chunks: int) -> "Pipeline":
        """The same for captions longer than what CLIP reads at once, 75 tokens: in so many chunks, cut between words.

        Every caption then is as long, filled up with empty chunks, and cross-attention sees all of them.

        Raises:
          Refused: less than one chunk; a model without CLIP, or one with a T5, which reads more by itself.
        """
        if type(chunks) is not int or chunks < 1:
            raise Refused(f"captions are read in one chunk or more, got {chunks!r}")
        if not self.text or self.reads != "features":
            raise Refused(
                "chunks are for captions that CLIP alone reads (Stable Diffusion 1, 2 and XL); leave them out"
            )
        text = tuple(dataclasses.replace(encoder, chunks=chunks) for encoder in self.text)
        own, length = dict(self.domain.context), self.text[0].network.length
        own["context"] = (chunks * length, own["context"][1])
        model = dataclasses.replace(self.model, domain=dataclasses.replace(self.domain, context=tuple(own.items())))
        return dataclasses.replace(self, model=model, text=text)

    def conditions(self, asked: Any, weighted: bool = False) -> Any:
        """The conditions of captions, one call of the text encoders for each; of classes by number or name, (n,).

        Args:
          asked: a list of captions, or of classes; one alone is a list of one.
          weighted: whether words of captions may have weights, "a (red:1.3) cat": the states of their tokens then lie
            that much further from those of the empty caption. Brackets mean nothing otherwise.

        Raises:
          Refused: a caption for a model of classes, a name that it does not know, a caption that is too long, weights
            that cannot be read or that the model does not take.
        """
        if weighted and (not self.text or self.reads == "states"):
            raise Refused("words have weights where CLIP or T5 reads them; this model has neither, leave weighted out")
        if isinstance(asked, str) or np.ndim(asked) == 0:  # a caption is no list of letters
            asked = [asked]
        if not self.captions:
            return np.asarray([self.label(one) for one in asked], np.int32)
        if not all(isinstance(one, str) for one in asked):
            raise Refused(f"the model is conditional on captions, got {asked!r}; write conditions(['a red cat'])")
        if self.tokenizer is not None:
            return self.model.encode(self.tokenizer(asked))
        joint = self.reads != "features" and isinstance(
            self.text[-1].network, T5Encoder
        )  # which reads what CLIP cannot
        states = [encoder(asked, weighted, joint and encoder is not self.text[-1]) for encoder in self.text]
        if self.reads != "features":
            return self.read_jointly(states)
        found = {"context": jnp.concatenate([s["context"] for s in states], -1)}
        if self.sizes:
            pooled = states[-1]["pooled"]
            found["vector"] = jnp.concatenate([pooled, jnp.broadcast_to(self.size(), (len(asked), 6 * self.sizes))], -1)
        return found

    def read_jointly(self, states: Any) -> dict[str, Any]:
        """The conditions of SD3 and FLUX: of the pooled states those of CLIP, of a T5 that is missing zeros."""
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
        """The condition that means "unconditional", of one sample: a negative caption may stand in its place.

        Args:
          negative: the caption.
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
            raise Refused("a negative caption needs a model of captions, this one is conditional on classes")
        if self.domain.null_label is None:
            raise Refused("the model has no null label: it was trained without conditioning dropout")
        return np.int32(self.domain.null_label)

    def size(self) -> Any:
        """The embedded sizes: sides of the picture, crop at (0, 0), sides wanted."""
        factor = 1 if self.autoencoder is None else self.autoencoder.factor
        height, width = (factor * n for n in self.shape[:2])
        numbers = jnp.asarray([height, width, 0, 0, height, width], jnp.float32)
        return jax.vmap(lambda n: timestep_embedding(n, self.sizes))(numbers).reshape(-1)

    def label(self, asked: Any) -> int:
        """A class by its number or its name.

        Raises:
          Refused: a name or a number that the model does not know.
        """
        if isinstance(asked, str) and asked in self.classes:
            return self.classes.index(asked)
        try:
            number = int(asked) if isinstance(asked, str) else operator.index(asked)
        except (TypeError, ValueError):
            raise Refused(
                f"there is no class called {str(asked)[:40]!r}; the model knows {len(self.classes)} names"
            ) from None
        known = self.domain.num_classes
        if isinstance(asked, bool) or (
            known is not None and not 0 <= number <= max(known - 1, self.domain.null_label or 0)
        ):
            raise Refused(f"there is no class called {str(asked)[:40]!r}; they go from 0 to {known - 1}")
        return number

    def decode(self, latents: Any, tile: int | None = None) -> np.ndarray:
        """Pictures in [-1, 1] of what the denoiser makes; `tile` as in `Autoencoder.decode`."""
        return np.asarray(latents) if self.autoencoder is None else self.autoencoder.decode(latents, tile)
