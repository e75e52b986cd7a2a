"""Pipelines on disk and in memory: each part is a checkpoint of its own, and `pipeline.json` describes the whole.

DIR/denoiser  DIR/autoencoder  DIR/text  DIR/text_2    checkpoints, which `load` reads
DIR/pipeline.json                                      the other fields of `Pipeline`, such as the grid and class names
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from guidance_jax.checkpoints.config import build, build_parts, check_fields, read_config
from guidance_jax.checkpoints.flat import save_flat
from guidance_jax.checkpoints.store import read_params, save_params
from guidance_jax.core import Refused
from guidance_jax.files import write_whole
from guidance_jax.models.network import Network
from guidance_jax.untrusted import plain_name, read_json, whole_number
from guidance_jax.zoo.glide.network import GLIDEUNet
from guidance_jax.zoo.latent import Autoencoder, TextEncoder
from guidance_jax.zoo.networks import restore
from guidance_jax.zoo.pipeline import READS, Pipeline
from guidance_jax.zoo.tokenizer import Tokenizer

ABOUT = "pipeline.json"
SHIFTS = ("least", "most", "least_tokens", "most_tokens")  # options of dynamic_shift
WRITERS = {"safetensors": save_flat, "orbax": save_params}
PARTS = re.compile(r"denoiser|autoencoder|text(_\d)?")  # folders that are parts; others may lie beside them


@dataclasses.dataclass
class PipelineParts:
    """The parts of a pipeline, before any network is built.

    Attributes:
      pipeline: the fields of `Pipeline` that are not parts.
      parts: (configuration, parameters) by name: denoiser, autoencoder, text, text_2.
      tokenizers: the tokenizers, by the name of the part that they belong to.
    """

    pipeline: dict[str, Any]
    parts: dict[str, tuple[dict[str, Any], Any]] = dataclasses.field(default_factory=dict)
    tokenizers: dict[str, Tokenizer] = dataclasses.field(default_factory=dict)

    def assemble(self, dtype: str | None = None, remat: bool = False) -> Pipeline:
        """Build the pipeline. This works once, since it removes the parts from this object.

        Args:
          dtype: the dtype of parameters and computation in the denoiser and the text encoders; None for float32. The
            autoencoder stays float32, because those of Stable Diffusion overflow in lower precision.
          remat: whether blocks of the denoiser are recomputed in gradients through it, which saves memory.

        Raises:
          Refused: no denoiser among the parts; parts that are not what their names say; a tokenizer with more tokens
            than its encoder knows.
        """
        self.check()
        found: dict[str, Any] = {}
        tokenizer = self.tokenizers.get("denoiser")
        if tokenizer is not None and "denoiser" in self.parts:
            network = build_parts(self.parts["denoiser"][0]).network
            tokenizer = tokenizer.within(network.vocabulary if isinstance(network, GLIDEUNet) else 0, padding=True)
        for name in list(self.parts):
            about, params = self.parts.pop(name)
            found[name] = restore(
                name, about, params, None if name == "autoencoder" else dtype, remat and name == "denoiser", cast=True
            )
        model, autoencoder = found.get("denoiser"), found.get("autoencoder")
        if not isinstance(model, Network) or not isinstance(autoencoder, Autoencoder | None):
            raise Refused(f"a pipeline needs a denoiser, got {', '.join(found) or 'nothing'}")
        text = []
        for name in sorted(n for n in found if n.startswith("text")):
            encoder, own = found[name], self.tokenizers.get(name)
            if not isinstance(encoder, TextEncoder):
                raise Refused(f"{name} holds a {type(encoder).__name__}, expected a text encoder; remove that folder")
            own = own if own is None else own.within(encoder.network.vocabulary)
            text.append(dataclasses.replace(encoder, tokenizer=own))
        pixels = {"clip": 1.0} if autoencoder is None else {}  # pictures lie in [-1, 1]; latents have no range
        about = {**pixels, **self.pipeline, "classes": tuple(self.pipeline.get("classes", ()))}
        return Pipeline(model, autoencoder, tuple(text), tokenizer, **about)

    def check(self) -> None:
        """Raise unless `pipeline` has fields of a `Pipeline`, and the configurations describe objects.

        Raises:
          Refused: the first field or configuration that is wrong.
        """
        about: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.pipeline.items()}
        check_fields(Pipeline, {"model": None, **about}, ("autoencoder", "text", "tokenizer"), unchecked=("model",))
        if "sizes" in about:
            whole_number(about, "sizes", "the pipeline", least=0)
        if (about.get("clip") or 0) < 0:
            raise Refused(f"the pipeline has clip = {about['clip']}, expected a radius that is not negative")
        if about.get("reads", READS[0]) not in READS:
            raise Refused(f"the pipeline has reads = {str(about['reads'])[:80]!r}, expected one of {', '.join(READS)}")
        shift = about.get("shift") or {}
        if set(shift) - set(SHIFTS) or not all(type(v) in (int, float) and v > 0 for v in shift.values()):
            raise Refused(
                f"the pipeline has shift = {str(shift)[:80]}, expected positive numbers of {', '.join(SHIFTS)}"
            )
        if shift.get("least_tokens", 256) >= shift.get("most_tokens", 4096):
            raise Refused(f"the pipeline has shift = {str(shift)[:80]}, whose most_tokens are not above least_tokens")
        for option, value in dict(about.get("grid") or {}).items():
            if not isinstance(build(value), str | int | float | None):
                raise Refused(f"the grid of a pipeline has {option[:80]} = {value!r}, expected a number or a name")
        for name, (about, _) in self.parts.items():
            build_parts(about, plain_name(name, "the pipeline"))

    def write(self, out: Path, to: str = "safetensors") -> None:
        """Write each part into a folder of its own in `out`, and `pipeline.json`.

        Raises:
          Refused: an unknown format, or a wrong name or configuration: nothing is written. A folder that is not empty:
            that part is not written, earlier parts are.
        """
        if to not in WRITERS:
            raise Refused(f"to must be one of {', '.join(WRITERS)}, got {to!r}")
        self.check()
        for name, (about, params) in self.parts.items():
            WRITERS[to](out / name, params, about)
            if name in self.tokenizers:
                self.tokenizers[name].save(out / name)
        write_whole(out / ABOUT, lambda file: file.write(json.dumps(self.pipeline, indent=1).encode()))

    @classmethod
    def read(cls, folder: Path) -> "PipelineParts":
        """Read the parts that `write` wrote.

        Raises:
          Refused: a missing or damaged part.
        """
        about = folder / ABOUT
        own = cls(read_json(about) if about.exists() else {})
        for path in sorted(p for p in folder.iterdir() if (p / "config.json").exists()):
            if PARTS.fullmatch(path.name):
                found = read_config(path)
                own.parts[path.name] = found, read_params(path)
                if (path / "tokenizer.json").exists():
                    length = {"length": found["network"].get("length") or (found["domain"] or {}).get("text_length")}
                    own.tokenizers[path.name] = Tokenizer.clip(path, whole_number(length, "length", path))
        return own
