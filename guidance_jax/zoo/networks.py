"""Load the denoiser, classifier or other part that a checkpoint holds, and save networks as checkpoints.

`NETWORKS` has a row for every network of the zoo: which part is made of it, and the inputs of its `init`.
"""

import dataclasses
import json
import math
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from guidance_jax.checkpoints.config import build, build_parts, config, read_config, register
from guidance_jax.checkpoints.store import read_params, save_params
from guidance_jax.checkpoints.tensors import check_params
from guidance_jax.core import Refused
from guidance_jax.discrete.network import OTHERS, HiddenNetwork, TokenNetwork
from guidance_jax.flows.flow import AutoregressiveFlow
from guidance_jax.models.constructors import Call, Field, Rebuilt
from guidance_jax.models.domain import Domain
from guidance_jax.models.network import Network, NoisyClassifier
from guidance_jax.text.language_model import LanguageModel
from guidance_jax.text.prefix import PrefixClassifier
from guidance_jax.text.sequence import LeftToRight
from guidance_jax.untrusted import check_size
from guidance_jax.zoo.adm.network import ADMClassifier, ADMUNet
from guidance_jax.zoo.dit.network import DiT
from guidance_jax.zoo.glide.network import GLIDEUNet
from guidance_jax.zoo.judge import Judge, TrainedJudge
from guidance_jax.zoo.latent import Autoencoder, TextEncoder
from guidance_jax.zoo.mmdit.network import MMDiT
from guidance_jax.zoo.mmdit.t5 import T5Encoder
from guidance_jax.zoo.rotary.states import LanguageStates
from guidance_jax.zoo.sequence_models import language_model, prefix_classifier, token_classifier, token_model
from guidance_jax.zoo.stable_diffusion.clip import CLIPText
from guidance_jax.zoo.stable_diffusion.controlnet import ControlledUNet, ControlNet
from guidance_jax.zoo.stable_diffusion.unet import StableDiffusionUNet
from guidance_jax.zoo.stable_diffusion.vae import AutoencoderKL
from guidance_jax.zoo.tarflow.network import TarFlow
from guidance_jax.zoo.tarflow.network import flow as tarflow_model
from guidance_jax.zoo.transformer import GPT2, Transformer
from guidance_jax.zoo.z_image.network import ZImage


class Stored(NamedTuple):
    """The content of a checkpoint: its objects, its parameters, its configuration, and its location."""

    network: Any
    domain: Domain | None
    parameterization: Any
    process: Any
    params: Any
    about: Mapping[str, Any]
    where: Any


def load_network(directory: str | Path, dtype: str | None = None, remat: bool = False) -> Any:
    """Load the network of a checkpoint, with its EMA parameters, its parameterization and its domain; see `load`."""
    return restore(directory, read_config(directory), read_params(directory), dtype, remat)


def restore(
    directory: Any, about: dict, params: Any, dtype: str | None = None, remat: bool = False, cast: bool = False
) -> Any:
    """Build the part that a configuration and its parameters describe.

    `directory` names them in error messages. The nested dictionaries `params` are changed in place: each array moves to
    the device, and gets the type `dtype` if `cast`. `dtype` and `remat` have the same meaning as in `load`.
    """
    network, domain, parameterization, process = build_parts(about, f"{directory}/config.json")
    check_params(params, network, inputs_of(network, domain, params, directory), directory)
    changes = ({"dtype": jax.numpy.dtype(dtype)} if dtype else {}) | ({"remat": True} if remat else {})
    network = change(network, changes, directory)
    move(params, dtype if cast else None)
    row = NETWORKS.get(type(network))
    make = network_or_classifier if row is None else row.make
    return make(Stored(network, domain, parameterization, process, params, about, directory))


def change(network: Any, fields: Mapping[str, Any], where: Any) -> Any:
    """Return the network with other values of these fields, in all its parts."""
    if isinstance(network, ControlledUNet):
        return ControlledUNet(*(change(part, fields, where) for part in (network.denoiser, network.control)))
    known = {f.name for f in dataclasses.fields(network)} if dataclasses.is_dataclass(network) else set()
    for field in fields:
        if field not in known:
            raise Refused(f"{where} holds a {type(network).__name__}, which has no option {field}")
    return dataclasses.replace(network, **fields) if fields else network


# functions that make a part from the content of a checkpoint


def network_or_classifier(stored: Stored) -> Any:
    """Make a classifier if there is no parameterization, a denoiser of tokens if there is a process, else of images."""
    apply, batched = apply_of(stored.network, stored.about), bool(stored.about.get("batched", False))
    if stored.parameterization is None:
        return NoisyClassifier(stored.params, apply, stored.domain, batched)
    if stored.process is not None:
        return TokenNetwork(stored.params, apply, stored.process, stored.domain, batched, given_of(stored))
    encodes = isinstance(stored.network, GLIDEUNet)
    return Network(stored.params, apply, stored.parameterization, stored.domain, batched=batched, encodes=encodes)


def judge(stored: Stored) -> TrainedJudge:
    return TrainedJudge(stored.params, stored.network.apply)


def autoencoder(stored: Stored) -> Autoencoder:
    latents = stored.about.get("training", {}).get("latents")
    return Autoencoder(stored.params, stored.network, **latents_of(stored.network, latents, stored.where))


def text_encoder(stored: Stored) -> TextEncoder:
    return TextEncoder(stored.params, stored.network)


def gpt2(stored: Stored) -> LanguageModel | PrefixClassifier:
    if stored.network.outputs:
        return prefix_classifier(stored.network, stored.params)
    if not isinstance(stored.process, LeftToRight):
        raise Refused(f"{stored.where} holds a language model on {stored.process}, expected LeftToRight")
    return language_model(stored.network, stored.params, stored.process.first, stored.domain)


def transformer(stored: Stored) -> NoisyClassifier | HiddenNetwork:
    if stored.process is None:
        return token_classifier(stored.network, stored.params, stored.domain)
    return token_model(stored.network, stored.params, stored.process, stored.domain, given_of(stored))


def given_of(stored: Stored) -> str:
    """Return the `given` of a `TokenNetwork`. Checkpoints without this entry were trained on "others"."""
    return stored.about.get("given") or OTHERS


def flow(stored: Stored) -> AutoregressiveFlow:
    return tarflow_model(stored.network, stored.params, stored.domain)


# the inputs of a network's `init` after the key, as shapes

TIME, LABEL = jax.ShapeDtypeStruct((), "float32"), jax.ShapeDtypeStruct((), "int32")


def tokens(n: int) -> Any:
    return jax.ShapeDtypeStruct((n,), "int32")


def image(domain: Domain) -> Any:
    return jax.ShapeDtypeStruct(domain.shape, "float32")


def patches(network: TarFlow) -> Any:
    return jax.ShapeDtypeStruct((network.patches, network.channels), "float32")


def image_of_latents(network: AutoencoderKL, domain: Any) -> tuple:
    side = 2 ** len(network.channels)
    return (jax.ShapeDtypeStruct((side, side, network.image_channels), "float32"),)


def latents_and_states(network: Any, domain: Domain) -> tuple | None:
    if domain.context is None:
        return None
    cond = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in domain.context}
    return image(domain), TIME, cond


def latents_states_and_scale(network: MMDiT, domain: Domain) -> tuple | None:
    found = latents_and_states(network, domain)
    return None if found is None else (*found, False, None, TIME if network.guided else None)


class Row(NamedTuple):
    """How a network of the zoo is loaded: `make(stored)` returns the part that is made of it.

    `inputs(network, domain)` returns the inputs of its `init` after the key, as shapes. `blocks` names the fields that
    count blocks with arrays of their own. `of_domain` says whether `inputs` needs a domain.
    """

    make: Callable[[Stored], Any]
    inputs: Callable[[Any, Any], tuple | None] | None
    blocks: tuple[str, ...] = ()
    of_domain: bool = True


NETWORKS: dict[type, Row] = {
    ADMUNet: Row(
        network_or_classifier,
        lambda n, d: (image(d), TIME) if n.num_classes is None else (image(d), TIME, LABEL),
        ("num_res_blocks",),
    ),
    ADMClassifier: Row(network_or_classifier, lambda n, d: (image(d), TIME), ("num_res_blocks",)),
    GLIDEUNet: Row(
        network_or_classifier, lambda n, d: (image(d), TIME, tokens(n.text_ctx)), ("num_res_blocks", "xf_layers")
    ),
    DiT: Row(network_or_classifier, lambda n, d: (image(d), TIME, LABEL) if n.num_classes else (image(d), TIME)),
    StableDiffusionUNet: Row(network_or_classifier, latents_and_states, ("num_res_blocks",)),
    MMDiT: Row(network_or_classifier, latents_states_and_scale),
    ZImage: Row(network_or_classifier, latents_and_states),
    ControlNet: Row(network_or_classifier, None, ("num_res_blocks",)),
    ControlledUNet: Row(network_or_classifier, latents_and_states),
    AutoencoderKL: Row(autoencoder, image_of_latents, ("blocks",), of_domain=False),
    CLIPText: Row(text_encoder, lambda n, d: (tokens(n.length),), of_domain=False),
    T5Encoder: Row(text_encoder, lambda n, d: (tokens(2),), of_domain=False),
    LanguageStates: Row(text_encoder, lambda n, d: (tokens(2),), of_domain=False),
    GPT2: Row(gpt2, lambda n, d: (tokens(2),), ("depth",), of_domain=False),
    Transformer: Row(transformer, lambda n, d: (tokens(n.length), TIME), ("depth",), of_domain=False),
    Judge: Row(judge, lambda n, d: (image(d),)),
    TarFlow: Row(flow, lambda n, d: (LABEL, patches(n)), ("layers",), of_domain=False),
}
for network in NETWORKS:
    register(network)


def inputs_of(network: Any, domain: Domain | None, params: Any, where: Any) -> tuple | None:
    """Return the inputs of a network's `init` after the key, as shapes; None if they are unknown.

    Raises:
      Refused: a network that would have more blocks, or more positions, than the checkpoint has arrays or numbers.
    """
    row = NETWORKS.get(type(network))
    arrays = jax.tree.leaves(params)
    for name in () if row is None else row.blocks:
        if isinstance(count := vars(network).get(name), int) and count > len(arrays):
            raise Refused(f"{where}: {name} is {count:,}, but there are only {len(arrays)} arrays")
    if row is None or row.inputs is None or (row.of_domain and domain is None):
        return None
    if isinstance(network, DiT) and domain is not None:
        # `init` makes a table of positions in NumPy, whose size the shape in the checkpoint determines
        positions = math.prod(domain.shape[:2]) // max(network.patch, 1) ** 2 * network.width
        check_size(4 * positions, sum(4 * a.size for a in arrays), where)
    return row.inputs(network, domain)


def latents_of(network: AutoencoderKL, latents: Any, where: Any) -> dict[str, Any]:
    """Return the mean and the standard deviation of latents, each a number or one number per channel.

    Raises:
      Refused: other values, or a standard deviation that is not positive.
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
    """Replace every array of nested dictionaries by its copy on the device, one after the other."""
    for name, value in params.items():
        if isinstance(value, dict):
            move(value, dtype)
        else:
            params[name] = jax.numpy.asarray(value, dtype)


def apply_of(network: Any, found: Mapping[str, Any]) -> Any:
    """Return the function that calls the network of a configuration: a module's `apply`, or the function itself."""
    try:
        bare = network if isinstance(network, types.FunctionType) else network.apply
    except AttributeError:
        raise Refused(f"a {type(network).__name__} is not a network: it has no apply(params, x, t, cond)") from None
    options = {k: build(v) for k, v in found.get("options", {}).items()}
    return Call(bare, tuple(sorted(options.items()))) if options else bare


def save(directory: str | Path, network: Any) -> None:
    """Write a network and its configuration as an orbax checkpoint, which `load` reads.

    Args:
      directory: a new folder.
      network: a `Network`, `NoisyClassifier` or `TokenNetwork`, made from a Linen module or a function that is known to
        checkpoints. `register` makes yours known.

    Raises:
      Refused: a network of another kind, such as one of NNX or Equinox, whose structure is code; a class or function
        that is not registered; a folder that holds something else; a disk that is full.
    """
    from guidance_jax.models.nnx import Functional

    if not isinstance(network, Network | NoisyClassifier | TokenNetwork):
        raise Refused(f"save accepts a Network, NoisyClassifier or TokenNetwork, got {type(network).__name__}")
    apply: Any = network.apply
    options = dict(apply.options) if isinstance(apply, Call) else {}
    apply = apply.apply if isinstance(apply, Call) else apply
    # the `apply` of a Linen module is a method bound to the module
    known = apply.__self__ if isinstance(apply, types.MethodType) else apply
    if isinstance(known, Functional | Rebuilt | Field):
        raise Refused(
            "a checkpoint cannot hold the code of this network (NNX, Equinox, a velocity field); give it a name: "
            "@gj.register def my_network(params, x, t, cond): return network.apply(params, x, t, cond), then save "
            "dataclasses.replace(network, apply=my_network), and register the same function before you load it"
        )
    if not isinstance(known, types.FunctionType) and not dataclasses.is_dataclass(known):
        raise Refused(f"a checkpoint can refer to a Linen module or a registered function, got {type(known).__name__}")
    setup = config(
        known,
        network.domain,
        network.parameterization if isinstance(network, Network) else None,
        process=network.process if isinstance(network, TokenNetwork) else None,
        batched=network.batched,
        options=options,
        given=network.given if isinstance(network, TokenNetwork) else None,
    )
    build_parts(json.loads(json.dumps(setup)), "the network")  # refuse to save what could not be loaded
    save_params(directory, network.params, setup)
