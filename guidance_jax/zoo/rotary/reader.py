"""Read published masked language models: folders with `config.json` and one or several safetensors files.

Each row of `FAMILIES` belongs to one `model_type`: it interprets the configuration and maps our names to its tensors.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.checkpoints.safetensors_file import Lazy, Tensors
from guidance_jax.checkpoints.tensors import numbers
from guidance_jax.core import Refused
from guidance_jax.untrusted import check_size, plain_name, read_json, reading, whole_number
from guidance_jax.zoo.rotary.network import RotaryTransformer

LLAMA = {
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "layers": "model.layers",
    "norm_1": "input_layernorm",
    "norm_2": "post_attention_layernorm",
    **{name: f"self_attn.{name}_proj" for name in "qkvo"},
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    **{name: f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}
LLADA = {
    "embed": "model.transformer.wte",
    "norm": "model.transformer.ln_f",
    "head": "model.transformer.ff_out",
    "layers": "model.transformer.blocks",
    "norm_1": "attn_norm",
    "norm_2": "ff_norm",
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "o": "attn_out",
    "gate": "ff_proj",
    "up": "up_proj",
    "down": "ff_out",
}
MODERNBERT = {
    "embed": "model.embeddings.tok_embeddings",
    "embed_norm": "model.embeddings.norm",
    "norm": "model.final_norm",
    "layers": "model.layers",
    "norm_1": "attn_norm",
    "norm_2": "mlp_norm",
    "o": "attn.Wo",
    "down": "mlp.Wo",
    "qkv": "attn.Wqkv",
    "gate_up": "mlp.Wi",
    "dense": "head.dense",
    "dense_norm": "head.norm",
    "head": "decoder",
}
ESM2 = {
    "embed": "esm.embeddings.word_embeddings",
    "norm": "esm.encoder.emb_layer_norm_after",
    "layers": "esm.encoder.layer",
    "norm_1": "attention.LayerNorm",
    "norm_2": "LayerNorm",
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
    "dense": "lm_head.dense",
    "dense_norm": "lm_head.layer_norm",
    "head": "lm_head.decoder",
}
ESMC = {
    **{name: value.replace("model.", "esmc.") for name, value in LLAMA.items()},
    "dense": "lm_head.dense",
    "dense_norm": "lm_head.layer_norm",
    "head": "lm_head.decoder",
}
DDIT = {
    "embed": "backbone.vocab_embed",
    "time_0": "backbone.sigma_map.mlp.0",
    "time_1": "backbone.sigma_map.mlp.2",
    "layers": "backbone.blocks",
    "norm_1": "norm1",
    "norm_2": "norm2",
    "qkv": "attn_qkv",
    "o": "attn_out",
    "up": "mlp.0",
    "down": "mlp.2",
    "modulation": "adaLN_modulation",
    "norm": "backbone.output_layer.norm_final",
    "head": "backbone.output_layer.linear",
    "final_modulation": "backbone.output_layer.adaLN_modulation",
}
PASSED: tuple[str, ...] = (
    ".rotary_emb.inv_freq",
    ".rotary_embeddings.inv_freq",
    ".position_ids",
    "contact_head.regression.weight",
)
PASSED += ("contact_head.regression.bias", ".position_embeddings.weight")


def theta_of(config: Mapping[str, Any], default: float, kind: str | None = None) -> float:
    """Return the base of the rotary frequencies, from whichever entry of the configuration holds it.

    Raises:
      Refused: the configuration scales its rotary frequencies, or the base is not a number above 1.
    """
    table = config.get("rope_parameters") or config.get("rope_scaling") or {}
    table = table.get(kind, {}) if kind is not None and kind in table else table
    rule = table.get("rope_type", table.get("type", "default")) if isinstance(table, dict) else "unknown"
    if rule != "default":
        raise Refused(f"the configuration scales its rotary positions ({str(rule)[:40]!r}), which is not supported")
    names = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}
    found = table.get("rope_theta", config.get(names.get(kind or "", "rope_theta"), default))
    if type(found) not in (int, float) or not 1 < found < 1e12:
        raise Refused(f"the base of the rotary positions is {str(found)[:40]!r}, expected a number above 1")
    return float(found)


class Sizes(NamedTuple):
    """The sizes that every configuration holds; the names are fields of `RotaryTransformer`."""

    vocabulary: int
    width: int
    hidden: int
    layers: int
    heads: int


def read_share(config: Mapping[str, Any], name: str, default: float) -> float:
    """Return a number of a configuration that must lie between 0 and 1."""
    value = config.get(name, default)
    if type(value) not in (int, float) or not 0 < value < 1:
        raise Refused(f"config.json: {name} is {str(value)[:40]!r}, expected a number between 0 and 1")
    return float(value)


def llama(config: Mapping[str, Any], sizes: Sizes, where: Any, **more: Any) -> RotaryTransformer:
    """Return the network of a Llama, Qwen2 or Qwen3. Diffusion trains these with full attention, so no mask is set."""
    if config.get("hidden_act", "silu") != "silu" or config.get("mlp_bias"):
        raise Refused(f"{where}: an MLP of {str(config.get('hidden_act'))[:40]!r}, or with biases, is not supported")
    if config.get("use_sliding_window") or "sliding_attention" in (config.get("layer_types") or ()):
        raise Refused(f"{where}: attention within a sliding window is not supported for this model")
    channels = {"head_dim": config.get("head_dim") or sizes.width // sizes.heads}
    groups = {"num_key_value_heads": config.get("num_key_value_heads") or sizes.heads}
    return RotaryTransformer(
        **sizes._asdict(),
        channels=whole_number(channels, "head_dim", where),
        groups=whole_number(groups, "num_key_value_heads", where, 1, sizes.heads),
        theta=theta_of(config, 10000.0),
        eps=read_share(config, "rms_norm_eps", 1e-6),
        head="tied" if config.get("tie_word_embeddings") else "linear",
        **more,
    )


def qwen2(config: Mapping[str, Any], sizes: Sizes, where: Any) -> RotaryTransformer:
    return llama(config, sizes, where, qkv_bias=True, shifted=config.get("model_type") == "Dream")


def plain_llama(config: Mapping[str, Any], sizes: Sizes, where: Any) -> RotaryTransformer:
    bias = bool(config.get("attention_bias"))
    return llama(config, sizes, where, qkv_bias=bias, out_bias=bias)


def qwen3(config: Mapping[str, Any], sizes: Sizes, where: Any) -> RotaryTransformer:
    bias = bool(config.get("attention_bias"))
    return llama(config, sizes, where, query_norm="head", qkv_bias=bias, out_bias=bias)


def llada(config: Mapping[str, Any], sizes: Sizes, where: Any) -> RotaryTransformer:
    if config.get("activation_type", "silu") not in ("silu", "swiglu") or config.get("alibi"):
        raise Refused(f"{where}: an activation other than silu, or ALiBi, is not supported")
    groups = {"n_kv_heads": config.get("n_kv_heads") or sizes.heads}
    return RotaryTransformer(
        **sizes._asdict(),
        channels=sizes.width // sizes.heads,
        groups=whole_number(groups, "n_kv_heads", where, 1, sizes.heads),
        theta=theta_of(config, 500000.0),
        eps=read_share(config, "rms_norm_eps", 1e-5),
        head="tied" if config.get("weight_tying") else "linear",
    )


def modernbert(config: Mapping[str, Any], sizes: Sizes, where: Any) -> RotaryTransformer:
    kinds, every, near = config.get("layer_types"), "global_attn_every_n_layers", "local_attention"
    every_n = whole_number({every: config.get(every, 3)}, every, where)
    local = tuple(k == "sliding_attention" for k in kinds or ()) or tuple(i % every_n > 0 for i in range(sizes.layers))
    if len(local) != sizes.layers or config.get("hidden_activation", "gelu") != "gelu":
        raise Refused(f"{where}: layer_types or hidden_activation are not those of ModernBERT")
    return RotaryTransformer(
        **sizes._asdict(),
        channels=sizes.width // sizes.heads,
        groups=sizes.heads,
        theta=theta_of(config, 160000.0, "full_attention"),
        local_theta=theta_of(config, 10000.0, "sliding_attention"),
        local=local,
        window=whole_number({near: config.get(near, 128)}, near, where) // 2,
        norm="layer",
        eps=read_share(config, "norm_eps", 1e-5),
        norm_bias=bool(config.get("norm_bias")),
        final_bias=bool(config.get("norm_bias")),
        qkv_bias=bool(config.get("attention_bias")),
        out_bias=bool(config.get("attention_bias")),
        mlp_bias=bool(config.get("mlp_bias")),
        mlp="gelu",
        embed_norm=True,
        head="dense",
        head_bias=bool(config.get("decoder_bias", True)),
        dense_bias=bool(config.get("classifier_bias")),
        tied=bool(config.get("tie_word_embeddings", True)),
    )


def esm2(config: Mapping[str, Any], sizes: Sizes, where: Any) -> RotaryTransformer:
    if config.get("position_embedding_type") != "rotary" or config.get("emb_layer_norm_before"):
        raise Refused(f"{where}: an ESM with absolute positions or a norm of embeddings (ESM-1) is not supported")
    mask = whole_number(config, "mask_token_id", where, 0, sizes.vocabulary - 1) if config.get("token_dropout") else -1
    return RotaryTransformer(
        **sizes._asdict(),
        channels=sizes.width // sizes.heads,
        groups=sizes.heads,
        norm="layer",
        eps=read_share(config, "layer_norm_eps", 1e-5),
        norm_bias=True,
        final_bias=True,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        mlp="plain",
        head="dense",
        head_bias=True,
        tied=True,
        masks_are_zero=mask,
    )


def esmc(config: Mapping[str, Any], sizes: Sizes, where: Any) -> RotaryTransformer:
    return RotaryTransformer(
        **sizes._asdict(),
        channels=sizes.width // sizes.heads,
        groups=sizes.heads,
        theta=theta_of(config, 10000.0),
        norm="layer",
        eps=1e-5,
        norm_bias=True,
        query_norm="width",
        residual=math.sqrt(36 / sizes.layers),
        head="dense",
        head_bias=True,
        tied=bool(config.get("tie_word_embeddings")),
    )


def ddit(config: Mapping[str, Any], sizes: Sizes, where: Any) -> RotaryTransformer:
    """Return the network of MDLM and ReMDM, whose mask token is the last token of the vocabulary."""
    return RotaryTransformer(
        **sizes._replace(hidden=4 * sizes.width)._asdict(),
        channels=sizes.width // sizes.heads,
        groups=sizes.heads,
        norm="layer",
        eps=1e-5,
        mlp_bias=True,
        mlp="tanh",
        head_bias=True,
        modulated=whole_number(config, "cond_dim", where),
        timed=bool(config.get("time_conditioning")),
    )


class Family(NamedTuple):
    """One `model_type`: the function that makes its network, the names of its tensors and of its sizes."""

    make: Callable[[Mapping[str, Any], Sizes, Any], RotaryTransformer]
    names: Mapping[str, str]
    sizes: tuple[str, ...] = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
    )
    mask: int | None = None  # the mask token if no file of the folder names it; -1 for the last token


DDIT_SIZES = ("vocab_size", "hidden_dim", "hidden_dim", "n_blocks", "n_heads")
LLADA_SIZES = ("embedding_size", "d_model", "mlp_hidden_size", "n_layers", "n_heads")
FAMILIES = {
    **dict.fromkeys(("qwen3", "a2d-qwen3"), Family(qwen3, LLAMA)),
    **dict.fromkeys(("qwen2", "Dream", "a2d-qwen2"), Family(qwen2, LLAMA)),
    **dict.fromkeys(("llama", "a2d-llama"), Family(plain_llama, LLAMA)),
    "llada": Family(llada, LLADA, LLADA_SIZES, 126336),
    "modernbert": Family(modernbert, MODERNBERT),
    "mdlm": Family(ddit, DDIT, DDIT_SIZES, -1),
    "esm": Family(esm2, ESM2),
    "esmc": Family(esmc, ESMC),
}


def read_network(folder: Path, dtype: str | None = None) -> tuple[RotaryTransformer, Any, dict[str, Any]]:
    """Return (network, parameters, configuration) of a folder. No code from the folder is executed.

    Raises:
      Refused: an unknown architecture, missing or damaged files, tensors that are missing, left over or misshaped.
    """
    where = folder / "config.json"
    config = read_json(where)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise Refused(
            f"{where} is for a {str(kind)[:40]!r} model; supported language and protein models are "
            f"{', '.join(FAMILIES)}"
        )
    family = FAMILIES[kind]
    with reading(where, "it lacks that entry"):
        sizes = Sizes(*(whole_number(config, name, where) for name in family.sizes))
        network = family.make(config, sizes, where)
    if network.width % 2 or network.channels % 2 or network.heads % network.groups:
        raise Refused(
            f"{where}: {network.heads} heads of {network.channels} channels do not fit {network.groups} groups"
        )
    state = tensors_of(folder)
    if dtype is not None:
        network = dataclasses.replace(network, dtype=jnp.dtype(dtype))
    return network, params_of(network, state, family.names, where), config


def tensors_of(folder: Path) -> Tensors:
    """Open the tensors of a folder: those of its one safetensors file, or of all files that its index names."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        table = read_json(index).get("weight_map")
        if not isinstance(table, dict):
            raise Refused(f"{index} has no weight_map; fetch it again")
        return Tensors(*(folder / plain_name(name, index) for name in sorted(set(map(str, table.values())))))
    if not (folder / "model.safetensors").exists():
        raise Refused(f"{folder} has no model.safetensors; save one with save_pretrained(folder)")
    return Tensors(folder / "model.safetensors")


def params_of(network: RotaryTransformer, state: Lazy, names: Mapping[str, str], where: Any) -> dict[str, Any]:
    """Return the parameters of `network`, read from the tensors `state`.

    `names` maps our names of parameters to the names of tensors in the family.

    Raises:
      Refused: a tensor that is missing, left over, or of another shape; numbers that are not finite; a number of layers
        that differs from the configuration; a tied head that differs from the embeddings.
    """
    left, shapes = set(state), state.shapes()
    layers = {int(m[1]) for n in left if (m := re.match(re.escape(names["layers"]) + r"\.(\d+)\.", n))}
    if layers != set(range(network.layers)):
        raise Refused(f"{where} has {network.layers:,} layers, but the tensors have {len(layers)}; compare them")
    wanted = sum(math.prod(s) for s in jax.tree.leaves(network.shapes(), is_leaf=lambda s: isinstance(s, tuple)))
    check_size(4 * wanted, 4 * sum(math.prod(s) for s in shapes.values()), where)

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
        older = name.removesuffix("weight") + "gamma" if name.endswith("weight") else name.removesuffix("bias") + "beta"
        name = older if name not in shapes and older in shapes else name
        if name not in shapes:
            raise Refused(f"the checkpoint has no tensor {name}")
        if shapes[name] != shape:
            raise Refused(
                f"{name} has shape {shapes[name]}, expected {shape}; the configuration belongs to another model"
            )
        left.discard(name)
        return np.asarray(numbers(state[name], name))

    def value(prefix: str, part: str, leaf: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return one array, from its own tensor or from its part of a joined tensor. Kernels are transposed."""
        suffix = "bias" if leaf == "bias" else "weight"
        for joined, parts in (("qkv", "qkv"), ("gate_up", ("gate", "up"))):
            if joined in names and part in parts:
                rows = sum(network.shapes()["layers"][p][leaf][-1] for p in parts)
                own = (rows, shape[0]) if leaf == "kernel" else (rows,)
                each = np.split(take(f"{prefix}{names[joined]}.{suffix}", own), len(parts))[list(parts).index(part)]
                return each.T if leaf == "kernel" else each
        name = f"{prefix}{names[part]}.{suffix}"
        if part == "head" and leaf == "bias" and (beside := name.replace(".decoder.", ".")) in shapes:
            name = beside  # ESM-2 keeps this bias outside the decoder
        return take(name, shape[::-1]).T if leaf == "kernel" else take(name, shape)

    def put(a: np.ndarray) -> Any:
        """Put an array on the device in the dtype of the network, so that only one array at a time is in float32."""
        return jnp.asarray(a, network.dtype or jnp.float32)

    found: dict[str, Any] = {}
    for part, leaves in network.shapes().items():
        if part == "embed":
            bare = f"{names[part]}.embedding"  # the name in DDiT
            found[part] = put(take(bare if bare in shapes else f"{names[part]}.weight", leaves))
        elif part == "layers":
            found[part] = {}
            for own, inner in leaves.items():
                found[part][own] = {}
                for leaf, shape in inner.items():
                    each = np.empty(shape, np.float32)
                    for i in range(network.layers):
                        first = network.embed_norm and i == 0 and own == "norm_1"  # ModernBERT has no norm there
                        prefix = f"{names['layers']}.{i}."
                        each[i] = 1.0 if first else value(prefix, own, leaf, shape[1:])
                    found[part][own][leaf] = put(each)
        else:
            found[part] = {leaf: put(value("", part, leaf, shape)) for leaf, shape in leaves.items()}
    tied = f"{names.get('head', '')}.weight" if network.head == "tied" or network.tied else ""
    if tied in shapes and not np.array_equal(state[tied], state[f"{names['embed']}.weight"]):
        raise Refused(f"{where} ties {tied} to the embeddings, and the two tensors differ; compare the configuration")
    rest = sorted(n for n in left if n != tied and not n.endswith(PASSED) and not copy_of_bias(n, names))
    if rest:
        raise Refused(f"the checkpoint has a tensor that the network does not have: {rest[0]}")
    return found


def copy_of_bias(name: str, names: Mapping[str, str]) -> bool:
    """Return whether a tensor is the second copy that ESM-2 stores of the bias of its head."""
    return name in (f"{names.get('head', '')}.bias", "lm_head.bias")
