"""From a checkpoint to the denoiser, classifier or judge that it holds, and back."""

import dataclasses
import json
import math
import types
from pathlib import Path
from typing import Any, TypeVar

import jax

from guidance_jax.checkpoints.config import build, build_parts, config, read_config
from guidance_jax.checkpoints.store import read_params, save_params
from guidance_jax.checkpoints.tensors import check_params
from guidance_jax.core import Refused
from guidance_jax.discrete.network import HiddenNetwork, TokenNetwork
from guidance_jax.models.constructors import Call, Field, Rebuilt
from guidance_jax.models.domain import Domain
from guidance_jax.models.network import Network, NoisyClassifier
from guidance_jax.networks.adm import ADMClassifier, ADMUNet
from guidance_jax.networks.autoencoder import AutoencoderKL
from guidance_jax.networks.clip_text import CLIPText
from guidance_jax.networks.dit import DiT
from guidance_jax.networks.glide import GLIDEUNet
from guidance_jax.networks.judge import Judge, TrainedJudge
from guidance_jax.networks.sd_unet import ControlledUNet, StableDiffusionUNet
from guidance_jax.networks.sequence_models import language_model, prefix_classifier, token_classifier, token_model
from guidance_jax.networks.transformer import GPT2, Transformer
from guidance_jax.pipelines.latent import Autoencoder, TextEncoder
from guidance_jax.text.language_model import LanguageModel
from guidance_jax.text.prefix import PrefixClassifier
from guidance_jax.text.sequence import LeftToRight
from guidance_jax.untrusted import check_size

T = TypeVar("T", Network, NoisyClassifier, TrainedJudge, TokenNetwork, HiddenNetwork, LanguageModel, PrefixClassifier)


def load(directory: str | Path, kind: type[T] | None = None, dtype: str | None = None, remat: bool = False) -> T:
    """The network in a checkpoint, with its EMA parameters, its parameterization and its domain.

    Args:
      directory: written by training, `save`, `save_params` or `guidance-jax convert`, on any number of devices.
      kind: what to expect, `Network` or `NoisyClassifier` for example; None takes whatever is there.
      dtype: the type in which the network computes, such as "bfloat16"; parameters and guidance stay float32.
      remat: compute residual blocks again in gradients through the network, which then need less memory.

    Raises:
      Refused: a missing, foreign, damaged or unfinished checkpoint, or one of another kind; parameters that are not
        those of its network, or not finite.
    """
    loaded = restored(directory, read_config(directory), read_params(directory), dtype, remat)
    if kind is not None and not isinstance(loaded, kind):
        raise Refused(
            f"{directory} holds a {type(loaded).__name__}, expected a {kind.__name__}; pass the folder of that"
        )
    return loaded


def restored(
    directory: Any, found: dict, params: Any, dtype: str | None = None, remat: bool = False, cast: bool = False
) -> Any:
    """What a configuration and its parameters are; `directory` names them in refusals, the rest is as in `load`.

    `params`, nested dictionaries, are used up: each array moves to the device, where it has the type `dtype` if `cast`.
    """
    network, domain, parameterization, process = build_parts(found, f"{directory}/config.json")
    check_params(params, network, inputs_of(network, domain, params, directory), directory)
    changes = ({"dtype": jax.numpy.dtype(dtype)} if dtype else {}) | ({"remat": True} if remat else {})
    if isinstance(network, ControlledUNet):
        network = ControlledUNet(*(dataclasses.replace(n, **changes) for n in (network.denoiser, network.control)))
        changes = {}
    for field in changes:
        choices = {f.name for f in dataclasses.fields(network)} if dataclasses.is_dataclass(network) else set()
        if field not in choices:
            raise Refused(f"{directory} holds a {type(network).__name__}, which has no choice of {field}")
    network = dataclasses.replace(network, **changes) if changes else network
    move(params, dtype if cast else None)
    loaded: Any
    if isinstance(network, Judge):
        loaded = TrainedJudge(params, network.apply)
    elif isinstance(network, AutoencoderKL):
        latents = found.get("training", {}).get("latents")
        loaded = Autoencoder(params, network, **latents_of(network, latents, directory))
    elif isinstance(network, CLIPText):
        loaded = TextEncoder(params, network)
    elif isinstance(network, GPT2):
        if network.outputs:
            loaded = prefix_classifier(network, params)
        elif isinstance(process, LeftToRight):
            loaded = language_model(network, params, process.first, domain)
        else:
            raise Refused(f"{directory} holds a language model on {process}, expected LeftToRight")
    elif isinstance(network, Transformer):
        own = process is None
        loaded = token_classifier(network, params, domain) if own else token_model(network, params, process, domain)
    elif parameterization is None:
        loaded = NoisyClassifier(params, apply_of(network, found), domain, found.get("batched", False))
    elif process is not None:
        loaded = TokenNetwork(params, apply_of(network, found), process, domain, found.get("batched", False))
    else:
        loaded = Network(
            params,
            apply_of(network, found),
            parameterization,
            domain,
            batched=found.get("batched", False),
            encodes=isinstance(network, GLIDEUNet),
        )
    return loaded


def inputs_of(network: Any, domain: Domain | None, params: Any, where: Any) -> tuple | None:
    """What `init` of a network of this package takes beside the key, as shapes; None where that is not known.

    Raises:
      Refused: a network that would have more blocks, or more positions, than the checkpoint has arrays or numbers.
    """
    arrays = jax.tree.leaves(params)
    cls = type(network)
    for name in ("num_res_blocks", "xf_layers", "blocks", "depth"):
        stacked = cls in (DiT, CLIPText)  # elsewhere each block is a turn of a loop, with arrays of its own
        if not stacked and isinstance(count := vars(network).get(name), int) and count > len(arrays):
            raise Refused(f"{where}: {name} is {count:,}, and there are only {len(arrays)} arrays")

    def tokens(n: int) -> Any:
        return jax.ShapeDtypeStruct((n,), "int32")

    if cls is AutoencoderKL:
        side = 2 ** len(network.channels)
        return (jax.ShapeDtypeStruct((side, side, network.image_channels), "float32"),)
    if cls is CLIPText:
        return (tokens(network.length),)
    if cls is GPT2:
        return (tokens(2),)
    time, label = jax.ShapeDtypeStruct((), "float32"), jax.ShapeDtypeStruct((), "int32")
    if cls is Transformer:
        return tokens(network.length), time
    if domain is None:
        return None
    x = jax.ShapeDtypeStruct(domain.shape, "float32")
    if cls is DiT:  # the table of positions is made by NumPy: as large as the shape says
        positions = math.prod(domain.shape[:2]) // max(network.patch, 1) ** 2 * network.width
        check_size(4 * positions, sum(4 * a.size for a in arrays), where)
        return (x, time, label) if network.num_classes else (x, time)
    if cls is Judge:
        return (x,)
    if cls is ADMClassifier:
        return x, time
    if cls is ADMUNet:
        return (x, time) if network.num_classes is None else (x, time, label)
    if cls is GLIDEUNet:
        return x, time, tokens(network.text_ctx)
    if cls in (StableDiffusionUNet, ControlledUNet) and domain.context is not None:
        return x, time, {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in domain.context}
    return None


def latents_of(network: AutoencoderKL, latents: Any, where: Any) -> dict[str, Any]:
    """The mean and the standard deviation of latents, numbers or one for each channel.

    Raises:
      Refused: anything else, or a standard deviation that is not positive.
    """
    found = {}
    for name in ("mean", "std"):
        value = latents.get(name) if isinstance(latents, dict) else None
        each = value if isinstance(value, list) and len(value) == network.latent_channels else [value]
        if not all(type(v) in (int, float) and (name == "mean" or float(v or 0) > 0) for v in each):
            raise Refused(f"{where}: the {name} of latents is {str(value)[:80]}, expected a number, or one a channel")
        found[name] = jax.numpy.asarray(value, "float32")
    return found


def move(params: dict, dtype: str | None) -> None:
    """Put every array of nested dictionaries on the device, one after the other, in the place of that on the host."""
    for name, value in params.items():
        if isinstance(value, dict):
            move(value, dtype)
        else:
            params[name] = jax.numpy.asarray(value, dtype)


def apply_of(network: Any, found: dict) -> Any:
    """The function that a configuration's network is called by: a module's `apply`, or the function itself."""
    try:
        bare = network if isinstance(network, types.FunctionType) else network.apply
    except AttributeError:
        raise Refused(f"a {type(network).__name__} is no network: it has no apply(params, x, t, cond)") from None
    options = {k: build(v) for k, v in found.get("options", {}).items()}
    return Call(bare, tuple(sorted(options.items()))) if options else bare


def save(directory: str | Path, network: Any) -> None:
    """Write a network with all that it says of itself, as an orbax checkpoint that `load` reads.

    Args:
      directory: a new folder.
      network: made from a Linen module or a function that checkpoints know; `register` makes yours known.

    Raises:
      Refused: a network of another kind, such as one of NNX or Equinox, whose structure is code; a class or function
        that is not registered; a folder of something else; a disk that is full.
    """
    from guidance_jax.models.nnx import Functional

    if not isinstance(network, Network | NoisyClassifier | TokenNetwork):
        raise Refused(f"save writes a Network, NoisyClassifier or TokenNetwork, got {type(network).__name__}")
    apply: Any = network.apply
    options = dict(apply.options) if isinstance(apply, Call) else {}
    apply = apply.apply if isinstance(apply, Call) else apply
    # a Linen module's `apply` is a method of it
    known = apply.__self__ if isinstance(apply, types.MethodType) else apply
    if isinstance(known, Functional | Rebuilt | Field):
        raise Refused(
            "a checkpoint cannot hold the code of this network (NNX, Equinox, a velocity field); give it a name: "
            "@gj.register def my_network(params, x, t, cond): return network.apply(params, x, t, cond), then save "
            "dataclasses.replace(network, apply=my_network), and register the same before you load it"
        )
    if not isinstance(known, types.FunctionType) and not dataclasses.is_dataclass(known):
        raise Refused(f"a checkpoint names a Linen module or a registered function, got {type(known).__name__}")
    setup = config(
        known,
        network.domain,
        network.parameterization if isinstance(network, Network) else None,
        process=network.process if isinstance(network, TokenNetwork) else None,
        batched=network.batched,
        options=options,
    )
    build_parts(json.loads(json.dumps(setup)), "the network")  # what could not be loaded is not saved
    save_params(directory, network.params, setup)
