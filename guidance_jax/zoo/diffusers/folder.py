"""Read the folders of downloaded diffusers pipelines: their parts, and the configuration of each part."""

import dataclasses
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from guidance_jax.checkpoints.config import LARGEST, build, config
from guidance_jax.checkpoints.safetensors_file import Renamed, Tensors
from guidance_jax.checkpoints.torch_file import read_torch
from guidance_jax.core import Refused
from guidance_jax.models import parameterizations
from guidance_jax.models.domain import Domain
from guidance_jax.models.parameterizations import LearnedRange
from guidance_jax.schedules import dynamic_shift
from guidance_jax.untrusted import plain_name, reading, whole_number
from guidance_jax.untrusted import read_json as read_json_file
from guidance_jax.zoo.diffusers.lora import Adapter, check_used, merge
from guidance_jax.zoo.diffusers.scheduler import Scheduler, process
from guidance_jax.zoo.dit.reader import dit_of_diffusers
from guidance_jax.zoo.mmdit import reader as mmdit
from guidance_jax.zoo.pipeline import Pipeline
from guidance_jax.zoo.pipeline_parts import PipelineParts
from guidance_jax.zoo.rotary.states import read_states
from guidance_jax.zoo.stable_diffusion import names as stable_diffusion
from guidance_jax.zoo.stable_diffusion.controlnet import ControlledUNet, control_of_diffusers
from guidance_jax.zoo.stable_diffusion.unet import StableDiffusionUNet
from guidance_jax.zoo.tokenizer import Tokenizer
from guidance_jax.zoo.z_image import reader as z_image

INDEX = "model_index.json"
XL = "StableDiffusionXLPipeline"
SD3, FLUX, Z_IMAGE = "StableDiffusion3Pipeline", "FluxPipeline", "ZImagePipeline"
PIPELINES = ("DiTPipeline", "StableDiffusionPipeline", XL, SD3, FLUX, Z_IMAGE)
CLASSES = {
    "unet": ("UNet2DConditionModel",),
    # Transformer2DModel: the name of DiT's class in folders from before 2024
    "transformer": (
        *("DiTTransformer2DModel", "Transformer2DModel"),
        *("SD3Transformer2DModel", "FluxTransformer2DModel", "ZImageTransformer2DModel"),
    ),
    "vae": ("AutoencoderKL",),
}
SEVERAL = re.compile(r"(text_encoder|tokenizer|scheduler)(_\d)?")  # parts that may be of any class
JOINT = {SD3: 256, FLUX: 512}  # the number of tokens that their T5 reads
READ_BY_QWEN = 512  # the number of tokens of Z-Image's captions
CHAT = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")  # Qwen3's chat template
# parts that do not change the samples
BESIDE = ("safety_checker", "feature_extractor", "image_encoder", "requires_safety_checker")
# options of networks: those that are read, and the only supported values of others
READ = {
    "unet": (
        *("sample_size", "in_channels", "out_channels", "down_block_types", "up_block_types", "block_out_channels"),
        *("layers_per_block", "norm_num_groups", "cross_attention_dim", "transformer_layers_per_block"),
        *("attention_head_dim", "use_linear_projection", "addition_embed_type", "addition_time_embed_dim"),
        *("projection_class_embeddings_input_dim", "upcast_attention", "dropout", "addition_embed_type_num_heads"),
    ),
    "transformer": (
        *("num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "num_layers", "sample_size"),
        *("patch_size", "num_embeds_ada_norm", "norm_eps", "upcast_attention", "dropout", "norm_num_groups"),
    ),
    "vae": (
        *("in_channels", "out_channels", "down_block_types", "up_block_types", "block_out_channels"),
        *("layers_per_block", "latent_channels", "norm_num_groups", "sample_size", "scaling_factor", "shift_factor"),
        *("latents_mean", "latents_std", "force_upcast", "use_quant_conv", "use_post_quant_conv"),
        "mid_block_add_attention",
    ),
}
NEUTRAL: dict[str, dict[str, Any]] = {
    "unet": {
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "act_fn": "silu",
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "default",
        "resnet_out_scale_factor": 1.0,
        "time_embedding_type": "positional",
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "attention_type": "default",
    },
    "transformer": {
        "attention_bias": True,
        "activation_fn": "gelu-approximate",
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
    },
    "vae": {"act_fn": "silu"},
}
SIZES = ("patch_size", "in_channels", "out_channels", "num_layers", "attention_head_dim", "num_attention_heads")
TEXTS = ("joint_attention_dim", "pooled_projection_dim")
READ["SD3Transformer2DModel"] = (
    *(
        *SIZES,
        *TEXTS,
        "sample_size",
        "caption_projection_dim",
        "pos_embed_max_size",
        "dual_attention_layers",
        "qk_norm",
    ),
)
READ["FluxTransformer2DModel"] = (*SIZES, *TEXTS, "num_single_layers", "guidance_embeds", "axes_dims_rope")
DEFAULTS = mmdit.DEFAULTS | {"ZImageTransformer2DModel": z_image.DEFAULTS}  # of options that files leave out
READ["ZImageTransformer2DModel"] = (*z_image.DEFAULTS, "axes_lens")
NEUTRAL |= {"SD3Transformer2DModel": {}, "FluxTransformer2DModel": {}}
NEUTRAL["ZImageTransformer2DModel"] = {"all_patch_size": [2], "all_f_patch_size": [1]}
READ["control"] = (*READ["unet"], "conditioning_channels", "conditioning_embedding_out_channels")
NEUTRAL["control"] = NEUTRAL["unet"] | {"controlnet_conditioning_channel_order": "rgb"}


def load_diffusers(
    folder: str | Path,
    dtype: str | None = None,
    size: tuple[int, int] | None = None,
    remat: bool = False,
    control: str | Path | None = None,
    lora: str | Path | Mapping[str | Path, float] | None = None,
) -> Pipeline:
    """Load a model from a downloaded diffusers folder: DiT, Stable Diffusion 1, 2, XL, 3 or 3.5, FLUX.1, Z-Image.

    Args:
      folder: the path of a folder with `model_index.json`, `unet` or `transformer`, `vae`, `text_encoder`, `tokenizer`,
        `scheduler`.
      dtype: the dtype of the denoiser and of the text encoders, for example "bfloat16"; None for float32. The
        autoencoder and all sampling stay float32.
      size: (height, width) of the pictures in pixels; None for the size that the denoiser was trained for.
      remat: whether blocks of the denoiser are recomputed in gradients through it, which saves memory.
      control: the folder of a ControlNet for the U-Net; None for none. Conditions then also need an `image` in [0, 1],
        (n, H, W, 3), and may have a `strength` (n,): `pipeline.conditions(captions) | {"image": images}`.
      lora: LoRA adapters, which are merged into the weights: a file or folder with strength 1, or a mapping from files
        or folders to strengths, {"style": 0.8}. None for none.

    Raises:
      Refused: a pipeline, a network, an option, a scheduler or an adapter that is not supported, or an adapter of
        another model; the message names it.
    """
    found = read_diffusers(folder, lora)
    if control is not None:
        with reading(control, "compare its configuration file with the source"):
            add_control(found, Path(control))
    pipeline = found.assemble(dtype, remat)
    return pipeline if size is None else pipeline.resize(*size)


def read_diffusers(folder: str | Path, lora: str | Path | Mapping[str | Path, float] | None = None) -> PipelineParts:
    """Read the parts of a folder: `unet` or `transformer`, `vae`, `text_encoder`, `tokenizer`, `scheduler`.

    Args:
      folder: the path of a folder with `model_index.json`.
      lora: as in `load_diffusers`.

    Raises:
      Refused: a pipeline, a network, an option, a scheduler or an adapter that is not supported; the message names it.
    """
    folder = Path(folder)
    index = read_json(folder, INDEX)
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise Refused(f"{folder} holds a {pipeline}, which is not supported; known are {', '.join(PIPELINES)}")
    parts = {k: v[1] for k, v in index.items() if isinstance(v, list) and len(v) == 2 and v[1] is not None}
    for part, cls in parts.items():
        place = folder / plain_name(part, folder / INDEX)
        loaded = part in CLASSES or SEVERAL.fullmatch(part)
        if cls not in CLASSES.get(part, (cls,)) or not (loaded or part in BESIDE):
            raise Refused(f"{place} holds a {cls}, which is not supported")
    with reading(folder, "compare its configuration files with the source"):
        told = process(read_json(folder / "scheduler", "scheduler_config.json"))
        strengths = {} if lora is None else lora if isinstance(lora, Mapping) else {lora: 1.0}
        adapters = [Adapter(path, scale) for path, scale in strengths.items()]
        try:
            found = parts_of(folder, index, parts, told, adapters)
        except KeyError as error:
            raise Refused(f"a configuration file in {folder} has no entry {error}") from None
    check_used(adapters)
    return found


def parts_of(
    folder: Path, index: Mapping[str, Any], parts: Mapping[str, str], told: Scheduler, adapters: list[Adapter]
) -> PipelineParts:
    """Read the networks of a folder, after its index and its scheduler file."""
    found = PipelineParts({"grid": told.grid, "clip": told.clip})
    if "vae" in parts:
        about = options(folder / "vae", "vae")
        levels = len(about["block_out_channels"])
        state = weights(folder / "vae")
        named = Renamed(state, {stable_diffusion.autoencoder_name(k, levels): k for k in state})
        network, params = stable_diffusion.autoencoder(named, int(about.get("norm_num_groups", 32)))
        latents = {
            "mean": about.get("latents_mean") or about.get("shift_factor") or 0.0,
            "std": about.get("latents_std") or 1 / about.get("scaling_factor", 0.18215),
        }
        found.parts["autoencoder"] = config(network, None, latents=latents), params
    kind = "transformer" if "transformer" in parts else "unet"
    about = options(folder / kind, parts[kind] if parts.get(kind) in READ else kind)
    about = DEFAULTS.get(parts.get(kind, ""), {}) | about
    name = index["_class_name"]
    single = partial(stable_diffusion.unet_name_of, about) if kind == "unet" else None
    state = merge(weights(folder / kind), kind, adapters, single)
    if name == Z_IMAGE:
        single_stream(found, folder, state, about, told)
        return found
    if kind == "transformer" and name not in JOINT:
        transformer(found, state, about, told, index.get("id2label") or {})
        return found
    for part in sorted(p for p in parts if p.startswith("text_encoder")):
        number = part.removeprefix("text_encoder")
        text, own = options(folder / part, "text"), merge(weights(folder / part), part, adapters)
        if parts[part] == "T5EncoderModel" and name in JOINT:
            network, params = mmdit.t5(own, text, length_of(name, about))
        else:  # XL and SD3 use the states of the layer before the last
            network, params = stable_diffusion.clip_text(own, text, int(name in (XL, SD3)))
        found.parts[f"text{number}"] = config(network, None), params
        found.tokenizers[f"text{number}"] = Tokenizer.clip(folder / f"tokenizer{number}", network.length)
    if name in JOINT:
        multimodal(found, state, about, told, flux=name == FLUX)
    else:
        unet(found, state, about, told)
        found.pipeline["zero_empty"] = bool(index.get("force_zeros_for_empty_prompt", False))
    return found


def transformer(found: PipelineParts, state: Any, about: Any, told: Scheduler, names: Mapping[str, str]) -> None:
    """Add a DiT to `found`."""
    dit = dit_of_diffusers(state, about)
    learned = isinstance(dit.parameterization, LearnedRange)
    parameterization = LearnedRange(told.parameterization) if learned else told.parameterization
    domain = dataclasses.replace(dit.domain, schedule=told.schedule)
    found.parts["denoiser"] = config(dit.network, domain, parameterization), dit.params
    found.pipeline["classes"] = [names[k] for k in sorted(names, key=int)]


def multimodal(found: PipelineParts, state: Any, about: Any, told: Scheduler, flux: bool) -> None:
    """Add the transformer of SD3 or FLUX to `found`."""
    network, params = (mmdit.flux if flux else mmdit.sd3)(state, about)
    side = 128 if flux else whole_number(about, "sample_size", "transformer")
    width, pooled = (whole_number(about, key, "transformer") for key in TEXTS)
    clip = found.parts["text"][0]["network"]["length"] if "text" in found.parts else 77
    rows = length_of(FLUX, about) if flux else JOINT[SD3] + clip
    context = (("context", (rows, width)), ("vector", (pooled,)))
    domain = Domain((side, side, network.out_channels), told.schedule, context=context)
    found.parts["denoiser"] = config(network, domain, told.parameterization), params
    found.pipeline["reads"] = "last" if flux else "rows"
    set_grid(found, told, side, ends=not flux)


def single_stream(found: PipelineParts, folder: Path, state: Any, about: Any, told: Scheduler) -> None:
    """Add Z-Image's transformer and its text encoder to `found`."""
    network, params = z_image.z_image(state, about)
    rule = Tokenizer.clip(folder / "tokenizer", READ_BY_QWEN)
    rule.around = CHAT
    text = options(folder / "text_encoder", "text")
    reader, own = read_states(weights(folder / "text_encoder"), text, rule.length, rule.pad)
    found.parts["text"], found.tokenizers["text"] = (config(reader, None), own), rule
    context = (("context", (rule.length, reader.width)), ("real", (rule.length,)))
    domain = Domain((128, 128, network.channels), told.schedule, context=context)
    found.parts["denoiser"] = config(network, domain, parameterizations.velocity_to_data), params
    found.pipeline["reads"] = "states"
    set_grid(found, told, 128, ends=False)


def set_grid(found: PipelineParts, told: Scheduler, side: int, ends: bool) -> None:
    """Set the grid of a rectified flow for square latents of this `side`.

    If `ends`, the grid ends where the scheduler file says; if not, where the code of diffusers' pipeline says.
    """
    grid = {k: v for k, v in told.grid.items() if ends or k != "end"}
    if told.shift is not None:
        found.pipeline["shift"] = told.shift
        grid["shift"] = dynamic_shift((side // 2) ** 2, **told.shift)
    found.pipeline["grid"] = grid


def length_of(name: str, about: Mapping[str, Any]) -> int:
    """Return the number of tokens that T5 reads. FLUX.1-schnell, which has no guidance input, reads half of them."""
    return JOINT[name] // 2 if name == FLUX and not about["guidance_embeds"] else JOINT[name]


def unet(found: PipelineParts, state: Any, about: Any, told: Scheduler) -> None:
    """Add Stable Diffusion's U-Net to `found`."""
    sides = about["sample_size"]
    sides = [sides, sides] if isinstance(sides, int) else sides
    network, params = stable_diffusion.unet_of_diffusers(state, about)
    length = found.parts["text"][0]["network"]["length"]
    context: tuple = (("context", (length, whole_number(about, "cross_attention_dim", "unet"))),)
    if network.added:
        context += (("vector", (whole_number(about, "projection_class_embeddings_input_dim", "unet"),)),)
        found.pipeline["sizes"] = whole_number(about, "addition_time_embed_dim", "unet")
    domain = Domain((*sides, whole_number(about, "in_channels", "unet")), told.schedule, context=context)
    found.parts["denoiser"] = config(network, domain, told.parameterization), params


def add_control(found: PipelineParts, folder: Path) -> None:
    """Replace the U-Net of `found` by one that the ControlNet in `folder` controls.

    Raises:
      Refused: a folder without a ControlNet, a ControlNet of another U-Net, a model without a U-Net.
    """
    about = options(folder, "control")
    if about.get("_class_name") != "ControlNetModel":
        raise Refused(f"{folder} holds a {about.get('_class_name')}, expected a ControlNetModel")
    hint = about.get("conditioning_embedding_out_channels", [16])
    if not isinstance(hint, list) or not 0 < len(hint) <= 8 or not all(type(n) is int and n > 0 for n in hint):
        raise Refused(f"{folder} has conditioning_embedding_out_channels = {str(hint)[:80]}, which is not supported")
    own, params = found.parts["denoiser"]
    network, domain = build(own["network"]), build(own["domain"])
    if not isinstance(network, StableDiffusionUNet):
        raise Refused(
            f"a ControlNet is for Stable Diffusion's U-Net, {folder} was given for a {type(network).__name__}"
        )
    cond = {name: jnp.zeros(shape) for name, shape in domain.context}
    control, control_params = control_of_diffusers(weights(folder), about, network, cond)
    factor = 2 ** (len(control.hint_channels) - 1)
    image = ("image", (factor * domain.shape[0], factor * domain.shape[1], 3))
    domain = dataclasses.replace(domain, context=(*domain.context, image))
    both = {"params": {"denoiser": params["params"], "control": control_params["params"]}}
    found.parts["denoiser"] = config(ControlledUNet(network, control), domain, build(own["parameterization"])), both


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON file of a folder.

    Raises:
      Refused: a folder of adapters, a missing or damaged file.
    """
    if not (folder / name).exists():
        adapters = [p.name for p in folder.glob("*lora*.safetensors")] + [
            p.name for p in folder.glob("adapter_config.json")
        ]
        if adapters:
            raise Refused(
                f"{folder} holds an adapter (LoRA, {adapters[0]}) and no model; pass it as lora= to its model"
            )
        raise Refused(f"{folder} is not a diffusers folder: it has no {name}")
    return read_json_file(folder / name)


def options(folder: Path, kind: str) -> dict[str, Any]:
    """Read the `config.json` of a network; `kind` determines which options it may have.

    Raises:
      Refused: a quantised network, an option or a value that is not supported.
    """
    about = read_json(folder, "config.json")
    if "quantization_config" in about:
        raise Refused(f"{folder} is quantised, which is not supported; fetch the float16 or float32 weights")
    if kind in READ:
        for key, value in about.items():
            if key.startswith("_") or key in READ[kind] or (value in (None, False) and key not in NEUTRAL[kind]):
                continue
            if key not in NEUTRAL[kind] or value != NEUTRAL[kind][key]:
                raise Refused(f"{folder} has {key} = {value!r}, which is not supported")
    for key, value in about.items():
        each = value if isinstance(value, list) else [value]
        if any(isinstance(v, int | float) and abs(v) > LARGEST for v in each):
            raise Refused(f"{folder} has {key} = {str(value)[:80]}, at most {LARGEST:,} is accepted")
    for key in ("layers_per_block", "cross_attention_dim"):
        if not isinstance(about.get(key), int | None):
            raise Refused(f"{folder} has {key} = {about[key]!r}, which is not supported")
    if about.get("addition_embed_type") not in (None, "text_time"):
        raise Refused(f"{folder} has addition_embed_type = {about['addition_embed_type']!r}; supported is text_time")
    return about


def weights(folder: Path) -> Mapping[str, Any]:
    """Open the tensors of a part: one or several safetensors files, else a PyTorch file, whose code is not executed.

    Raises:
      Refused: a folder without such files.
    """
    for stem in ("diffusion_pytorch_model", "model"):
        for variant in ("", ".fp16"):
            many = folder / f"{stem}.safetensors.index{variant}.json"
            if many.exists():
                names = read_json_file(many).get("weight_map")
                if not isinstance(names, dict) or not names:
                    raise Refused(f"{many} has no weight_map, which lists the file of each tensor; fetch it again")
                return Tensors(*(folder / one for one in sorted({plain_name(v, many) for v in names.values()})))
            if (one := folder / f"{stem}{variant}.safetensors").exists():
                return Tensors(one)
    for stem in ("diffusion_pytorch_model", "pytorch_model"):
        if (one := folder / f"{stem}.bin").exists():
            return read_torch(one)
    found = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "nothing"
    raise Refused(f"{folder} has no weights that can be read (safetensors or .bin); it holds {found}")
