"""Adapters of low rank (LoRA, Hu et al. 2021, arXiv 2106.09685), merged into the weights as they are read.

    W' = W + scale (alpha / r) B A

Files may have the names of diffusers and PEFT (`unet.mid_block.attentions.0....to_q.lora_A.weight`), or those of kohya
(`lora_unet_mid_block_attentions_0_..._to_q.lora_down.weight`). In kohya's files the U-Net may have the names of single
files.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from guidance_jax.checkpoints.safetensors_file import Lazy, Tensors, package, shapes_of
from guidance_jax.core import Refused
from guidance_jax.untrusted import read_json, reading

KOHYA = {"lora_unet": "unet", "lora_transformer": "transformer", "lora_te": "text_encoder"}
LEAVES = {
    **{
        f"{name}.weight": "A"
        for name in ("lora_A", "lora_A.default", "lora_down", "lora.down", "lora_linear_layer.down")
    },
    **{f"{name}.weight": "B" for name in ("lora_B", "lora_B.default", "lora_up", "lora.up", "lora_linear_layer.up")},
    "alpha": "alpha",
}
LEAF = re.compile(rf"^(.+?)\.({'|'.join(re.escape(leaf) for leaf in LEAVES)})$")
UNKNOWN = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "lora_bias", "fan_in_fan_out", "modules_to_save")
FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")


class Adapter:
    """The changes of one LoRA file: A (r, in), B (out, r) and alpha for each module of a part.

    Attributes:
      where: the file.
      scale: the strength, a factor of all changes.
      modules: maps (part, name of the module) to {"A": array, "B": array, "alpha": array, which may be missing}.
      alphas: alpha by part, where the file gives one number per part; "" is for all parts.
    """

    def __init__(self, path: str | Path, scale: float = 1.0):
        self.where, self.scale = file_in(Path(path)), float(scale)
        if not np.isfinite(self.scale):
            raise Refused(f"the scale of {self.where} is {scale}, expected a finite number")
        self.modules: dict[tuple[str, str], dict[str, np.ndarray]] = {}
        tensors = Tensors(self.where)
        self.alphas = read_alphas(self.where)
        for key in tensors:
            found = LEAF.match(key)
            if found is None:
                raise Refused(
                    f"{self.where} holds {key[:120]}, which is not part of a LoRA (A, B, alpha); other adapters cannot "
                    "be merged"
                )
            self.modules.setdefault(place_of(found[1], self.where), {})[LEAVES[found[2]]] = tensors[key]

    def take(self, part: str, names: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Return the change of each weight of a part, and remove the part's modules from this adapter.

        `names` maps the names of modules, with underscores, to names of weights.

        Raises:
          Refused: a module that the part does not have; a module without A or B, or with shapes that do not fit.
        """
        found = {}
        for place in [place for place in self.modules if place[0] == part]:
            module, own = place[1], self.modules.pop(place)
            key = names.get(module.replace(".", "_"))
            if key is None:
                raise Refused(f"{self.where} changes {module[:120]}, which this {part} does not have")
            if "A" not in own or "B" not in own:
                raise Refused(f"{self.where} has only one of A and B of {module[:120]}; fetch it again")
            found[key] = self.product(own, part, module)
        return found

    def product(self, own: Mapping[str, np.ndarray], part: str, module: str) -> np.ndarray:
        """Return scale (alpha / r) B A, for dense layers and convolutions."""
        a, b = (np.asarray(own[name], np.float32) for name in ("A", "B"))
        if a.ndim not in (2, 4) or b.ndim != a.ndim or b.shape[1] != len(a) or b.shape[2:] not in ((), (1, 1)):
            raise Refused(f"{self.where} has A of shape {a.shape} and B of shape {b.shape} for {module[:120]}")
        alpha = own["alpha"].item() if "alpha" in own else self.alphas.get(part, self.alphas.get("", len(a)))
        flat = b.reshape(len(b), -1) @ a.reshape(len(a), -1)
        return (self.scale * float(alpha) / len(a)) * flat.reshape(len(b), *a.shape[1:])


class Merged(Lazy):
    """The tensors of `state` plus the changes that `added` has for some; each sum is computed when it is read."""

    def __init__(self, state: Mapping[str, Any], added: Mapping[str, np.ndarray], where: Any):
        self.state, self.added, self.where = state, added, where

    def __getitem__(self, name):
        value = self.state[name]
        if name not in self.added:
            return value
        value, added = np.asarray(value), self.added[name]
        if added.size != value.size or added.shape[:2] != value.shape[:2]:
            raise Refused(f"{self.where} adds {added.shape} to {name}, which has shape {value.shape}")
        return value.astype(np.float32) + added.reshape(value.shape)

    def __iter__(self):
        return iter(self.state)

    def __len__(self):
        return len(self.state)

    def shapes(self):
        return shapes_of(self.state)


def merge(state: Mapping[str, Any], part: str, adapters: list[Adapter], other: Any = None) -> Mapping[str, Any]:
    """Return the tensors of a part with the changes of all adapters; `other` gives a second name of a tensor."""
    names = {}
    for key in shapes_of(state) if adapters else ():
        if key.endswith(".weight"):
            for name in (key, *((other(key),) if other is not None else ())):
                names[name.removesuffix(".weight").replace(".", "_")] = key
    for adapter in adapters:
        state = Merged(state, adapter.take(part, names), adapter.where)
    return state


def check_used(adapters: list[Adapter]) -> None:
    """Raise `Refused` if an adapter has modules that no part took."""
    for adapter in adapters:
        if adapter.modules:
            part, module = next(iter(adapter.modules))
            raise Refused(f"{adapter.where} changes {part}.{module[:120]}, and this model has no such part")


def place_of(name: str, where: Any) -> tuple[str, str]:
    """Return the part that a module belongs to, and its name in the part."""
    head, _, rest = name.partition(".")
    if re.fullmatch(r"(unet|transformer|text_encoder(_\d)?)", head) and rest:
        return head, rest
    if (found := re.match(r"lora_(unet|transformer|te)(\d?)_(.+)$", name)) is not None:
        part = KOHYA[f"lora_{found[1]}"]
        number = "" if found[2] in ("", "1") else f"_{found[2]}"
        return part + number, found[3]
    raise Refused(f"{where} changes {name[:120]}; known are unet., transformer., text_encoder. and kohya's lora_unet_")


def file_in(path: Path) -> Path:
    """Return the file of an adapter: the path itself, or the one file in that folder."""
    if not path.is_dir():
        return path
    found = [path / name for name in FILES if (path / name).exists()] or sorted(path.glob("*lora*.safetensors"))
    if len(found) != 1:
        raise Refused(f"{path} holds {len(found)} files of a LoRA, expected one; name the file")
    return found[0]


def read_alphas(file: Path) -> dict[str, float]:
    """Return alpha by part, from the file's metadata or PEFT's `adapter_config.json` beside it; "" is for all parts.

    Raises:
      Refused: a form of LoRA that cannot be merged, or an alpha that is not a positive number.
    """
    told: dict[str, Any] = {}
    with reading(file):
        stored = (package().safe_open(file, framework="flax").metadata() or {}).get("lora_adapter_metadata")
        told |= json.loads(stored) if stored else {}
    about = file.with_name("adapter_config.json")
    told |= read_json(about) if about.exists() else {}
    found = {}
    for key, value in told.items():
        part, _, option = key.rpartition(".")
        if option in UNKNOWN and value:
            raise Refused(f"{file} has {option} = {str(value)[:60]}, which cannot be merged here")
        if option == "lora_alpha":
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise Refused(f"{file} has lora_alpha = {str(value)[:60]}, expected a positive number")
            found[part] = float(value)
    return found
