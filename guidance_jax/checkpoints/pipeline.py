"""Pipelines on disk and in memory: their parts, each a checkpoint of its own, and what holds them together.

DIR/denoiser  DIR/autoencoder  DIR/text  DIR/text_2    checkpoints, as `load` reads them
DIR/pipeline.json                                      the grid, the names of classes, what negatives mean
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from guidance_jax.checkpoints.config import read_config
from guidance_jax.checkpoints.flat import save_flat
from guidance_jax.checkpoints.load import restored
from guidance_jax.checkpoints.store import read_params, save_params
from guidance_jax.core import Refused
from guidance_jax.files import write_whole
from guidance_jax.models.network import Network
from guidance_jax.pipelines.latent import Autoencoder, TextEncoder
from guidance_jax.pipelines.pipeline import Pipeline
from guidance_jax.pipelines.tokenizer import Tokenizer

ABOUT = "pipeline.json"
WRITERS = {"safetensors": save_flat, "orbax": save_params}


@dataclasses.dataclass
class Parts:
    """What a pipeline is made of, before anything is built.

    Attributes:
      pipeline: fields of `Pipeline` that are no parts.
      parts: (configuration, parameters) by name: denoiser, autoencoder, text, text_2.
      tokenizers: by the name of the part that they belong to.
    """

    pipeline: dict[str, Any]
    parts: dict[str, tuple[dict[str, Any], Any]] = dataclasses.field(default_factory=dict)
    tokenizers: dict[str, Tokenizer] = dataclasses.field(default_factory=dict)

    def assembled(self, dtype: str | None = None, remat: bool = False) -> Pipeline:
        """The pipeline, once: the arrays of the parts are used up.

        Args:
          dtype: the type of the denoiser and of the text encoders, parameters and computation; None for float32. The
            autoencoder stays float32: those of Stable Diffusion overflow in less.
          remat: blocks of the denoiser are computed again in gradients through it.

        Raises:
          Refused: no denoiser among the parts.
        """
        found: dict[str, Any] = {}
        for name in list(self.parts):
            about, params = self.parts.pop(name)
            own = None if name == "autoencoder" else dtype
            found[name] = restored(name, about, params, own, remat and name == "denoiser", cast=True)
        model, autoencoder = found.get("denoiser"), found.get("autoencoder")
        if not isinstance(model, Network) or not isinstance(autoencoder, Autoencoder | None):
            raise Refused(f"a pipeline has a denoiser, got {', '.join(found) or 'nothing'}")
        text = []
        for name in sorted(n for n in found if n.startswith("text")):
            encoder = found[name]
            assert isinstance(encoder, TextEncoder)
            text.append(dataclasses.replace(encoder, tokenizer=self.tokenizers.get(name)))
        pixels = {"clip": 1.0} if autoencoder is None else {}  # pictures fill [-1, 1]; latents do not say
        about = {**pixels, **self.pipeline, "classes": tuple(self.pipeline.get("classes", ()))}
        return Pipeline(model, autoencoder, tuple(text), self.tokenizers.get("denoiser"), **about)

    def write(self, out: Path, to: str = "safetensors") -> None:
        """Each part into a folder of `out`.

        Raises:
          Refused: a folder that is not empty, an unknown format; nothing of that part is written then.
        """
        if to not in WRITERS:
            raise Refused(f"to is one of {', '.join(WRITERS)}, got {to!r}")
        for name, (about, params) in self.parts.items():
            WRITERS[to](out / name, params, about)
            if name in self.tokenizers:
                self.tokenizers[name].save(out / name)
        write_whole(out / ABOUT, lambda file: file.write(json.dumps(self.pipeline, indent=1).encode()))

    @classmethod
    def read(cls, folder: Path) -> "Parts":
        """What `write` wrote.

        Raises:
          Refused: a missing or damaged part.
        """
        about = folder / ABOUT
        own = cls(json.loads(about.read_text()) if about.exists() else {})
        for path in sorted(p for p in folder.iterdir() if (p / "config.json").exists()):
            if path.name in ("denoiser", "autoencoder") or path.name.startswith("text"):
                found = read_config(path)
                own.parts[path.name] = found, read_params(path)
                if (path / "tokenizer.json").exists():
                    length = found["network"].get("length") or found["domain"]["text_length"]
                    own.tokenizers[path.name] = Tokenizer.clip(path, length)
        return own
