"""Folders of DiffusionGemma as published: configuration, tensors, settings of decoding, tokenizer."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.checkpoints.tensors import numbers
from guidance_jax.core import Refused
from guidance_jax.discrete.entropy_bound import EntropyBound
from guidance_jax.discrete.process import Uniform
from guidance_jax.untrusted import check_size, read_json, reading, whole_number
from guidance_jax.zoo.rotary.canvas import CanvasNetwork, CanvasPipeline, Cooling
from guidance_jax.zoo.rotary.gemma import AttentionKind, GemmaCanvas
from guidance_jax.zoo.rotary.prompts import read_tokenizer, special_tokens
from guidance_jax.zoo.rotary.reader import read_share, tensors_of

KIND = "diffusion_gemma"
LAYER = {
    "norm_1": "input_layernorm.weight",
    "norm_1_after": "post_attention_layernorm.weight",
    "norm_2": "pre_feedforward_layernorm.weight",
    "norm_2_after": "post_feedforward_layernorm.weight",
    "norm_dense": "post_feedforward_layernorm_1.weight",
    "norm_experts": "post_feedforward_layernorm_2.weight",
    "norm_experts_in": "pre_feedforward_layernorm_2.weight",
    "scalar": "layer_scalar",
    **{name: f"self_attn.{name}_proj.weight" for name in "qkvo"},
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    **{name: f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")},
    "route": "router.proj.weight",
    "route_scale": "router.scale",
    "expert_scale": "router.per_expert_scale",
    "experts_in": "experts.gate_up_proj",
    "experts_out": "experts.down_proj",
}
TOLD = {"norm": "pre_norm", **{name: f"{name}_proj" for name in ("gate", "up", "down")}}
PASSED = ("model.encoder.vision_tower.", "model.encoder.embed_vision.")  # pictures are not read


def load_canvas(folder: str | Path, dtype: str | None = None) -> CanvasPipeline:
    """Load DiffusionGemma from a folder with `config.json`, safetensors and tokenizer. Its vision part is not read.

    Args:
      folder: the path, in the layout of the transformers library.
      dtype: the dtype of the computation and of the parameters, such as "bfloat16"; None for float32.

    Raises:
      Refused: another architecture, missing or damaged files, tensors that do not fit.
    """
    folder = Path(folder)
    where = folder / "config.json"
    config = read_json(where)
    with reading(where, "it lacks that entry"):
        network = canvas_of(config["text_config"], where)
        length = whole_number(config, "canvas_length", where)
    if dtype is not None:
        network = dataclasses.replace(network, dtype=jnp.dtype(dtype))
    usual = folder / "generation_config.json"
    said = read_json(usual) if usual.exists() else {}
    sampler = said.get("sampler_config") or {}

    def number(table: Any, name: str, default: float) -> float:
        value = default if table.get(name) is None else table[name]
        if type(value) not in (int, float) or not 0 < value < 1e6:
            raise Refused(f"{usual}: {name} is {str(value)[:40]!r}, expected a positive number")
        return float(value)

    heat = Cooling(number(said, "t_max", 0.8), number(said, "t_min", 0.4))
    solver = EntropyBound(
        heat, bound=number(sampler, "entropy_bound", 0.1), stop=number(said, "confidence_threshold", 0.005)
    )
    steps = int(number(said, "max_denoising_steps", 48.0))
    tokenizer = read_tokenizer(folder)
    token = special_tokens(folder, {**config["text_config"], **said}, tokenizer, network.vocabulary)
    params = params_of_canvas(network, tensors_of(folder), where)
    model = CanvasNetwork(params, network, Uniform(network.vocabulary), heat)
    return CanvasPipeline(
        model, network, tokenizer, length, token("eos"), token("pad") or 0, token("bos"), steps, solver
    )


def canvas_of(config: Any, where: Path) -> GemmaCanvas:
    """Return the network that a `text_config` describes.

    Raises:
      Refused: options that are not built.
      KeyError: an entry that is missing.
    """
    layers = whole_number(config, "num_hidden_layers", where, 1, 1000)
    kinds = config.get("layer_types") or [
        "full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(layers)
    ]
    if len(kinds) != layers or not set(kinds) <= {"full_attention", "sliding_attention"}:
        raise Refused(f"{where}: layer_types are not {layers} kinds of attention of DiffusionGemma")
    if config.get("attention_bias") or config.get("use_bidirectional_attention") == "all":
        raise Refused(f"{where}: attention with biases, or of a prompt that is not causal, is not built")
    if config.get("hidden_activation", "gelu_pytorch_tanh") != "gelu_pytorch_tanh":
        raise Refused(f"{where}: the activation {str(config['hidden_activation'])[:40]!r} is not built")
    heads = whole_number(config, "num_attention_heads", where)
    groups = {"num_key_value_heads": config.get("num_key_value_heads", heads)}
    rules = config.get("rope_parameters") or {}

    def kind(name: str) -> AttentionKind:
        whole = name == "full_attention"
        own = {**config, **groups}
        if whole:
            own["head_dim"] = config.get("global_head_dim", 512)
            own["num_key_value_heads"] = config.get("num_global_key_value_heads") or own["num_key_value_heads"]
            own |= (config.get("per_layer_config") or {}).get(str(kinds.index(name)), {})
        rule = rules.get(name) or {}
        if rule.get("rope_type", "proportional" if whole else "default") != ("proportional" if whole else "default"):
            raise Refused(f"{where}: rotary positions of the kind {str(rule['rope_type'])[:40]!r} are not built")
        theta = rule.get("rope_theta", 1e6 if whole else 1e4)
        share = rule.get("partial_rotary_factor", 0.25 if whole else 1.0)
        if type(theta) not in (int, float) or not 1 < theta < 1e12 or not 0 < share <= 1:
            raise Refused(f"{where}: rotary positions of base {str(theta)[:40]} and share {str(share)[:40]}")
        return AttentionKind(
            whole_number(own, "head_dim", where),
            whole_number(own, "num_key_value_heads", where, 1, heads),
            float(theta),
            float(share),
            None if whole else whole_number(config, "sliding_window", where),
            whole,
        )

    period = next(n for n in range(1, layers + 1) if layers % n == 0 and kinds == kinds[:n] * (layers // n))
    made = {name: kind(name) for name in set(kinds)}
    if any(k.channels % 2 or heads % k.groups for k in made.values()):
        raise Refused(f"{where}: {heads} heads do not fit the heads of keys, or have an odd number of channels")
    experts = whole_number(config, "num_experts", where)
    cap = config.get("final_logit_softcapping", 30.0)
    if type(cap) not in (int, float) or not 0 < cap < 1e6:
        raise Refused(f"{where}: final_logit_softcapping is {str(cap)[:40]!r}, expected a positive number")
    return GemmaCanvas(
        whole_number(config, "vocab_size", where, 2),
        whole_number(config, "hidden_size", where),
        whole_number(config, "intermediate_size", where),
        heads,
        tuple(made[name] for name in kinds[:period]),
        layers // period,
        experts,
        whole_number(config, "top_k_experts", where, 1, experts),
        whole_number(config, "moe_intermediate_size", where),
        float(cap),
        read_share(config, "rms_norm_eps", 1e-6),
    )


def params_of_canvas(network: GemmaCanvas, state: Any, where: Any) -> dict[str, Any]:
    """Return the parameters of `network` from tensors of the transformers library.

    Encoder and decoder share their weights. The decoder's are read; copies in the encoder must be equal to them.

    Raises:
      Refused: a tensor that is missing, left over, or of another shape; numbers that are not finite.
    """
    have, shapes = state.shapes(), network.shapes()
    left = {name for name in have if not name.startswith(PASSED)}
    is_shape = {"is_leaf": lambda s: isinstance(s, tuple)}
    wanted = sum(math.prod(s) for s in jax.tree.leaves(shapes, **is_shape))
    check_size(4 * wanted, 4 * sum(math.prod(s) for s in have.values()), where)

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
        turned = len(shape) > 1 and not name.endswith("embed_tokens.weight")  # PyTorch's kernels are (out, in)
        expected = (*shape[:-2], shape[-1], shape[-2]) if turned else shape
        if name not in have:
            raise Refused(f"the checkpoint has no tensor {name}")
        if have[name] != expected:
            raise Refused(f"{name} has shape {have[name]}, expected {expected}; the configuration is another model's")
        left.discard(name)
        value = np.asarray(numbers(state[name], name))
        return np.swapaxes(value, -1, -2) if turned else value

    def put(a: Any) -> Any:
        return jnp.asarray(a, network.dtype or jnp.float32)

    layers = []
    for i, leaves in enumerate(shapes["layers"]):
        numbered = [i + len(network.kinds) * j for j in range(network.repeats)]
        layers.append(
            {
                leaf: put(np.stack([take(name_of(leaf, n), shape[1:]) for n in numbered]))
                for leaf, shape in leaves.items()
            }
        )
    found = {
        "embed": put(take("model.decoder.embed_tokens.weight", shapes["embed"])),
        "norm": put(take("model.decoder.norm.weight", shapes["norm"])),
        "told": {
            k: put(take(f"model.decoder.self_conditioning.{TOLD[k]}.weight", s)) for k, s in shapes["told"].items()
        },
        "layers": layers,
    }
    for name in sorted(left):
        twin = name.replace("encoder.language_model", "decoder").replace("lm_head", "model.decoder.embed_tokens")
        if twin == name or twin not in have:
            raise Refused(f"the checkpoint has a tensor that the network has not: {name}")
        if not np.array_equal(state[name], state[twin]):
            raise Refused(f"{where} ties {name} to {twin}, and the two tensors differ; save the model again")
    return found


def name_of(leaf: str, layer: int) -> str:
    """Return the name of a tensor of a layer: the decoder's, except for the encoder's own factor."""
    own, part = ("encoder.language_model", "scalar") if leaf == "scalar_of_prompt" else ("decoder", leaf)
    return f"model.{own}.layers.{layer}.{LAYER[part]}"
