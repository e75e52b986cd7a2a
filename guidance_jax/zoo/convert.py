"""Convert published weights, in a file or folder, to checkpoints of this package, and checkpoints to another format."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guidance_jax.checkpoints.config import build, config, read_config
from guidance_jax.checkpoints.safetensors_file import Renamed, Tensors
from guidance_jax.checkpoints.store import read_params
from guidance_jax.checkpoints.torch_file import read_torch
from guidance_jax.core import Refused
from guidance_jax.schedules import CosineBetas, LinearBetas, Schedule
from guidance_jax.untrusted import reading
from guidance_jax.zoo.adm.edm import edm, is_edm
from guidance_jax.zoo.adm.reader import adm
from guidance_jax.zoo.diffusers.folder import INDEX, read_diffusers
from guidance_jax.zoo.diffusers.single_file import file_of_transformer, is_file_of_transformer
from guidance_jax.zoo.dit.reader import dit, is_dit
from guidance_jax.zoo.glide.reader import glide, is_glide
from guidance_jax.zoo.mmdit.t5 import T5Encoder
from guidance_jax.zoo.pipeline_parts import ABOUT, WRITERS, PipelineParts
from guidance_jax.zoo.stable_diffusion.single_file import UNET, is_single_file, single_file
from guidance_jax.zoo.state_dict import UNKNOWN, Options, Recognized
from guidance_jax.zoo.tokenizer import Tokenizer

SCHEDULES = {"cosine": CosineBetas(1000), "linear": LinearBetas(1000)}
# prefixes of PyTorch's parallel networks and averages of weights, compiled networks, Lightning's modules
WRAPPERS = ("module.", "_orig_mod.", "model.")
INSIDE = re.compile(r"(?<=\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")  # of one block
SIGNS = {  # names by which networks are recognised
    "ADM": ("time_embed.0.weight", "input_blocks.0.0.weight"),
    "DiT": ("blocks.0.adaLN_modulation.1.weight",),
    "GLIDE": ("transformer.resblocks.0.ln_1.weight",),
    "EDM": ("map_layer0.weight",),
}
COUNT = "n_averaged"  # the counter that PyTorch's averages of weights store


def schedule_named(name: str | None) -> Schedule | None:
    """Return OpenAI's schedule of that name, with 1,000 steps; None for None."""
    if name is not None and name not in SCHEDULES:
        raise Refused(f"schedule must be one of {', '.join(SCHEDULES)}, got {name!r}")
    return None if name is None else SCHEDULES[name]


def read_state(path: str | Path, key: str | None = None) -> Mapping[str, Any]:
    """Return the state dict of a `.safetensors` or `.pt` file. Reading executes no code.

    Args:
      path: the file.
      key: the network to read from a file of several, for example "ema": an entry of a `.pt` file, or the prefix of
        tensor names in a `.safetensors` file. None for a file of one network.

    Raises:
      Refused: a missing, truncated, foreign or malicious file; an entry that the file does not have.
    """
    path = Path(path)
    state: Mapping[str, Any]
    if path.suffix == ".safetensors" and path.is_file():
        state = Tensors(path)
        if key is not None:
            state = Renamed(state, {k.removeprefix(f"{key}."): k for k in state if k.startswith(f"{key}.")})
            if not state:
                raise Refused(f"{path} has no tensor whose name begins with {key}.")
    else:
        try:
            state = read_torch(path, key)
        except Refused as error:
            if key is not None:
                raise
            try:  # Lightning's files hold the network beside the state of its training
                state = read_torch(path, "state_dict")
            except Refused:
                raise error from None
    return unwrap(state)


def unwrap(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a state dict with the names of the bare network: without wrappers, in any order, and without counters.

    Raises:
      Refused: two tensors that then have the same name.
    """
    names = {k: INSIDE.sub("", k) for k in state if k != COUNT}  # old -> new
    while names and not any(new.startswith(UNET) for new in names.values()):
        wrapper = next((w for w in WRAPPERS if all(new.startswith(w) for new in names.values())), None)
        if wrapper is None:
            break
        names = {old: new.removeprefix(wrapper) for old, new in names.items()}
    if len(set(names.values())) < len(names):
        raise Refused(
            "two tensors of the state dict have the same name once wrapper prefixes are removed; save one network alone"
        )
    return state if list(names.values()) == list(state) else Renamed(state, {new: old for old, new in names.items()})


def recognize(state: Mapping[str, Any], known: Options = UNKNOWN) -> Recognized:
    """Find the network of a state dict: ADM, GLIDE, EDM with ADM's architecture, or a latent transformer.

    Args:
      state: a mapping from tensor names to arrays.
      known: options that the tensors do not determine.

    Raises:
      Refused: another network, or an incomplete one; see `adm`, `glide`, `edm` and `dit`.
    """
    with reading("the state dict", "compare it with the source"):
        for test, read in ((is_dit, dit), (is_glide, glide)):
            if test(state):
                return read(state, known)
        if is_edm(state):
            return edm(state)
        if not any(name in state for name in SIGNS["ADM"]):
            first, wanted = ", ".join(list(state)[:3]), "; ".join(f"{k}: {', '.join(v)}" for k, v in SIGNS.items())
            raise Refused(
                f"no supported network has these tensor names: {first[:200]}, ... ({len(state)} tensors); expected "
                f"are those of {wanted}; rename the tensors, or choose the entry of the network with key"
            )
        return adm(state, known)


def convert(
    source: Path,
    out: Path,
    to: str = "safetensors",
    known: Options = UNKNOWN,
    *,
    key: str | None = None,
    prediction: str | None = None,
    tokenizer: Path | None = None,
) -> list[tuple[str, Any, Any]]:
    """Convert `source` into checkpoints in `out`: `denoiser` or `classifier`, and the other parts of a pipeline.

    Args:
      source: a file with a state dict, a single file of Stable Diffusion or FLUX.1, a folder of diffusers, or a
        checkpoint of this package.
      out: the folder in which each part gets a folder.
      to: "safetensors" or "orbax".
      known: options that the tensors do not determine.
      key: as in `read_state`.
      prediction: what a single file of Stable Diffusion 2 predicts, "epsilon" or "v_prediction"; None for others.
      tokenizer: a folder with the tokenizer of CLIP or GLIDE, which single files lack. Or a folder with one folder per
        encoder, `tokenizer`, `tokenizer_2`, `tokenizer_3`, as in diffusers. None writes no tokenizer.

    Returns:
      (the folder's name, the network, its domain) of each part.

    Raises:
      Refused: a source that cannot be read or recognised; nothing is written then. A folder that is not empty; its part
        is not written then.
    """
    if to not in WRITERS:
        raise Refused(f"to must be one of {', '.join(WRITERS)}, got {to!r}")
    parts = None
    if (source / INDEX).exists():
        parts = read_diffusers(source)
    elif (source / ABOUT).exists():
        parts = PipelineParts.read(source)
    elif source.is_dir():
        about, params = read_config(source), read_params(source)
        WRITERS[to](out / source.name, params, about)
        return [(source.name, build(about["network"]), build(about["domain"]))]
    else:
        state = read_state(source, key)
        with reading(source, "compare it with the source"):
            if is_file_of_transformer(state):
                parts = file_of_transformer(state)
            elif is_single_file(state):
                parts = single_file(state, prediction, known.image_size)
        if parts is not None and tokenizer is not None:
            add_tokenizers(parts, tokenizer)
    if parts is not None:
        parts.write(out, to)
        return [(n, build(about["network"]), build(about["domain"])) for n, (about, _) in parts.parts.items()]
    found = recognize(state, known)
    about = config(found.network, found.domain, found.parameterization, source=source.name)
    name = "classifier" if found.parameterization is None else "denoiser"
    WRITERS[to](out / name, found.params, about)
    if tokenizer is not None and found.domain.text_length is not None:
        Tokenizer.glide(tokenizer, found.domain.text_length).save(out / name)
    return [(name, found.network, found.domain)]


def add_tokenizers(parts: PipelineParts, folder: Path) -> None:
    """Add the tokenizer of each text encoder to `parts`: from its own folder inside `folder`, else from `folder`.

    Raises:
      Refused: a tokenizer that cannot be read, or a T5 without a folder of its own.
    """
    for name in [n for n in parts.parts if n.startswith("text")]:
        network = build(parts.parts[name][0]["network"])
        own = folder / f"tokenizer{name.removeprefix('text')}"
        if not own.is_dir() and isinstance(network, T5Encoder):
            raise Refused(f"the encoder {name} is a T5, whose tokenizer is expected in {own}; fetch that folder")
        rule = Tokenizer.clip(own if own.is_dir() else folder, network.length)
        if name == "text_2" and not own.is_dir():
            rule.pad = 0  # the second encoder of XL and SD3 is padded with "!"
        parts.tokenizers[name] = rule
