"""Read GPT-2 weights in the Hugging Face layout: a folder with `config.json` and `model.safetensors`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.checkpoints.flat import WEIGHTS
from guidance_jax.checkpoints.safetensors_file import Tensors
from guidance_jax.checkpoints.tensors import numbers
from guidance_jax.core import Refused
from guidance_jax.text.language_model import LanguageModel
from guidance_jax.untrusted import folder_at, read_json, reading, whole_number
from guidance_jax.zoo.sequence_models import language_model
from guidance_jax.zoo.transformer import GPT2


def gpt2_params(tensors: Mapping[str, Any], network: GPT2) -> dict:
    """Return the parameters of `network` from a state dict with GPT-2's names, with or without `transformer.` in front.

    GPT-2's "Conv1D" weights are (in, out) already. Attention masks and the tied output are skipped.

    Raises:
      Refused: a tensor that is missing, left over, or of the wrong shape, with its name; numbers that are not finite.
    """
    blocks = len({number[1] for k in tensors if (number := re.search(r"(?:^|\.)h\.(\d+)\.", k))})
    if network.depth > blocks:  # check first: tracing the network takes time for each block
        raise Refused(
            f"the configuration has {network.depth:,} layers, the checkpoint tensors of {blocks}; compare them"
        )
    rest = {k.removeprefix("transformer."): v for k, v in tensors.items()}
    rest = {
        k: v for k, v in rest.items() if not k.endswith((".attn.bias", ".attn.masked_bias")) and k != "lm_head.weight"
    }
    expected = jax.eval_shape(lambda: network.init(jax.random.key(0), np.zeros(2, np.int32)))["params"]
    found: dict = {}

    def take(name: str, shape: tuple[int, ...]) -> Any:
        if name not in rest:
            raise Refused(f"the checkpoint has no tensor {name}; check that it is a GPT-2")
        value = jnp.asarray(numbers(rest.pop(name), name))
        if value.shape != shape:
            raise Refused(
                f"{name} has shape {value.shape}, expected {shape}; the configuration belongs to another model"
            )
        return value

    for module, leaves in expected.items():
        if module in ("wte", "wpe"):
            found[module] = take(f"{module}.weight", leaves.shape)
        elif module == "ln_f":
            found[module] = _norm(take, module, leaves)
        else:
            block = module.replace("_", ".")
            found[module] = {}
            for part, inner in leaves.items():
                name = f"{block}.{part.replace('attn_', 'attn.').replace('mlp_', 'mlp.')}"
                if part.startswith("ln_"):
                    found[module][part] = _norm(take, name, inner)
                else:
                    kernel, bias = inner["kernel"].shape, inner["bias"].shape
                    found[module][part] = {"kernel": take(f"{name}.weight", kernel), "bias": take(f"{name}.bias", bias)}
    if rest:
        raise Refused(f"the checkpoint has a tensor that GPT-2 does not have: {sorted(rest)[0]}")
    return {"params": found}


def _norm(take, name, leaves):
    return {"scale": take(f"{name}.weight", leaves["scale"].shape), "bias": take(f"{name}.bias", leaves["bias"].shape)}


def load_gpt2(folder: str | Path, first: int | None = None) -> LanguageModel:
    """Load the language model of a folder with `config.json` and `model.safetensors`. Reading executes no code.

    `first` is the token that starts every sequence; None for the configuration's `bos_token_id`, or 0 without one.

    Raises:
      Refused: missing files, another architecture, tensors that do not fit, or a first token beyond the vocabulary.
    """
    folder = folder_at(folder)
    for name in ("config.json", WEIGHTS):
        if not (folder / name).exists():
            raise Refused(f"{folder} has no {name}; save one with save_pretrained(folder, safe_serialization=True)")
    config = read_json(folder / "config.json")
    if config.get("model_type") != "gpt2" or config.get("activation_function", "gelu_new") != "gelu_new":
        raise Refused(f"{folder}/config.json is for a {config.get('model_type')!r} model, expected gpt2 with gelu_new")
    fields = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
    with reading(folder / "config.json", "it lacks that entry"):
        network = GPT2(*(whole_number(config, name, folder / "config.json") for name in fields))
    given = {"first": config.get("bos_token_id") or 0 if first is None else first}
    start = whole_number(given, "first", folder, 0, network.vocabulary - 1)
    with reading(folder):
        params = gpt2_params(Tensors(folder / WEIGHTS), network)
    return language_model(network, params, start)
