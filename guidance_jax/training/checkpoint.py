"""Checkpoints: an orbax directory that carries its configuration, and from which the network can be built again.

    DIR/config.json          what the network is and was trained for, as JSON
    DIR/<step>/              orbax: parameters, EMA, optimizer state, and the losses so far
    DIR/model.safetensors    in its place, of a converted checkpoint (`flat.py`)

orbax writes a step beside and renames it, so a kill at any moment leaves the step before.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from guidance_jax import parameterizations, schedules
from guidance_jax.autoregressive.classifier import PrefixClassifier
from guidance_jax.autoregressive.language_model import LanguageModel
from guidance_jax.autoregressive.sequence import LeftToRight
from guidance_jax.discrete.network import HiddenNetwork
from guidance_jax.discrete.process import Absorbing, Uniform
from guidance_jax.domain import Domain
from guidance_jax.metrics.report import TrainedJudge
from guidance_jax.network import Network, NoisyClassifier
from guidance_jax.networks import adm
from guidance_jax.networks.glide import GLIDEUNet
from guidance_jax.networks.judge import Judge
from guidance_jax.networks.sequence_models import language_model, prefix_classifier, token_classifier, token_model
from guidance_jax.networks.transformer import GPT2, Transformer
from guidance_jax.training.flat import WEIGHTS, load_flat

FORMAT = "guidance_jax/1"
# what a configuration may name: nothing else is ever built from a file
KNOWN = {
    c.__name__: c
    for c in (
        *(adm.ADMUNet, adm.ADMClassifier, GLIDEUNet, Judge, Domain),
        *(Transformer, GPT2, Absorbing, Uniform, LeftToRight),
        *(schedules.Cosine, schedules.LinearVP, schedules.VE, schedules.RectifiedFlow),
        *(schedules.LinearBetas, schedules.CosineBetas),
        *(parameterizations.Eps, parameterizations.X0, parameterizations.V, parameterizations.Velocity),
        *(parameterizations.Score, parameterizations.EDM, parameterizations.LearnedRange),
    )
}


def describe(thing: Any) -> Any:
    """A dataclass as JSON: its type and its fields; numbers, strings, None and tuples as they are.

    Raises:
      ValueError: a type that a checkpoint could not build again.
    """
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        name = type(thing).__name__
        if KNOWN.get(name) is not type(thing):
            raise ValueError(f"a checkpoint can hold {', '.join(KNOWN)}, got {name}; save its parameters with orbax")
        fields = {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing) if f.name not in ("parent", "name")}
        return {"type": name, **{k: describe(v) for k, v in fields.items()}}
    if isinstance(thing, list | tuple):
        return [describe(v) for v in thing]
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    raise ValueError(f"a configuration holds numbers, strings and {', '.join(KNOWN)}, got {type(thing).__name__}")


def build(description: Any) -> Any:
    """What `describe` described."""
    if isinstance(description, Mapping):
        fields = dict(description)
        cls = KNOWN.get(fields.pop("type", None))
        if cls is None:
            raise ValueError(f"unknown type {description.get('type')!r}; this version knows {', '.join(KNOWN)}")
        return cls(**{k: build(v) for k, v in fields.items()})
    return tuple(build(v) for v in description) if isinstance(description, list) else description


def config(network: Any, domain: Domain, parameterization: Any = None, *, process: Any = None, **training: Any) -> dict:
    """The configuration of a checkpoint: a denoiser if it has a parameterization or a process, else a classifier."""
    return {
        "format": FORMAT,
        "network": describe(network),
        "domain": describe(domain),
        "parameterization": describe(parameterization),
        "process": describe(process),
        "training": training,
    }


def _difference(a: Any, b: Any, path: str = "") -> str | None:
    """The first field in which two configurations differ, with both values."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in [*a, *(k for k in b if k not in a)]:
            found = _difference(a.get(key), b.get(key), f"{path}.{key}" if path else key)
            if found:
                return found
        return None
    return None if a == b else f"{path}: {a!r} there, {b!r} here"


def _today(found: dict) -> dict:
    """A configuration as this version would write it: fields newer than the checkpoint have their defaults."""
    parts = {k: describe(build(found.get(k))) for k in ("network", "domain", "parameterization", "process")}
    return {**found, **json.loads(json.dumps(parts))}


def read_config(directory: str | Path) -> dict:
    """The configuration of a checkpoint directory.

    Raises:
      ValueError: no checkpoint, or one of something else.
    """
    path = Path(directory) / "config.json"
    if not path.exists():
        raise ValueError(
            f"{directory} is not a guidance_jax checkpoint (no config.json); train one with guidance-jax train"
        )
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it or train into another folder") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path} is not of the format {FORMAT}; it belongs to something else")
    return found


class Run:
    """A training run's directory. `fit(..., run=Run(directory, config(...)))` saves into it and resumes from it.

    Raises:
      ValueError: a directory of something else or of another configuration (the field is named); nothing is written.
    """

    def __init__(self, directory: str | Path, config: dict):
        self.directory = Path(directory).absolute()
        self.config = json.loads(json.dumps(config))
        if self.directory.exists() and any(p.suffix != ".tmp" for p in self.directory.iterdir()):
            different = _difference(_today(read_config(self.directory)), self.config)
            if different:
                raise ValueError(
                    f"{directory} holds a checkpoint of another configuration ({different}); train into another folder"
                )
        else:
            self.directory.mkdir(parents=True, exist_ok=True)
            temporary = self.directory / "config.json.tmp"
            temporary.write_text(json.dumps(self.config, indent=1))
            os.replace(temporary, self.directory / "config.json")
        self.manager = _manager(self.directory)

    def latest(self) -> int | None:
        """The last complete step, or None."""
        return self.manager.latest_step()

    def restore(self, state: Any) -> tuple[Any, list]:
        """(state, losses) of the last complete step, or the given state and none."""
        step = self.latest()
        return (state, []) if step is None else _restore(self.manager, step, state)

    def save(self, step: int, state: Any, losses: list) -> None:
        if self.latest() != step:
            self.manager.save(
                step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), losses=ocp.args.JsonSave(losses))
            )
            self.manager.wait_until_finished()


def _manager(directory: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=1, create=False, enable_async_checkpointing=False)
    handlers = {"state": ocp.StandardCheckpointHandler(), "losses": ocp.JsonCheckpointHandler()}
    return ocp.CheckpointManager(directory, options=options, item_handlers=handlers)


def _restore(manager: ocp.CheckpointManager, step: int, state: Any) -> tuple[Any, list]:
    """(state, losses) of a step, placed as `state` is; without it on the first device, whatever wrote it."""
    try:
        if state is None:
            here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            target = jax.tree.map(
                lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), manager.item_metadata(step)["state"]
            )
        else:
            target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        restored = manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target), losses=ocp.args.JsonRestore())
        )
    except Exception as error:  # orbax has no common type for damage
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"the checkpoint {manager.directory}/{step} cannot be read ({reason}); nothing was changed: "
            "restore it, or delete that folder to train again"
        ) from None
    return restored["state"], restored["losses"]


T = TypeVar("T", Network, NoisyClassifier, TrainedJudge, HiddenNetwork, LanguageModel, PrefixClassifier)


def read_params(directory: str | Path) -> Any:
    """The parameters of a checkpoint, EMA if it was trained here, as nested dictionaries of arrays on the host.

    Raises:
      ValueError: a damaged or unfinished checkpoint.
    """
    if (Path(directory) / WEIGHTS).exists():
        return load_flat(directory)
    manager = _manager(Path(directory).absolute())
    step = manager.latest_step()
    if step is None:
        raise ValueError(f"{directory} has no complete checkpoint yet; train it first")
    return _restore(manager, step, None)[0]["ema"]


def save_params(directory: str | Path, params: Any, config: dict) -> None:
    """Write parameters as an orbax checkpoint of one step, which `load` reads; sharded ones stay sharded on disk.

    Raises:
      ValueError: as `Run`.
    """
    Run(directory, config).save(0, {"ema": params}, [])


def load(directory: str | Path, kind: type[T], dtype: str | None = None, remat: bool = False) -> T:
    """The `kind` of network in a checkpoint, with its EMA parameters, its parameterization and its domain.

    Args:
      directory: written by training, `save_params` or `guidance_jax convert`, on any number of devices.
      kind: what to expect, `Network` or `NoisyClassifier` for example.
      dtype: the type in which the network computes, such as "bfloat16"; parameters and guidance stay float32.
      remat: compute residual blocks again in gradients through the network, which then need less memory.

    Raises:
      ValueError: a missing, foreign, damaged or unfinished checkpoint, or one of another kind.
    """
    found = read_config(directory)
    network, domain = build(found["network"]), build(found["domain"])
    changes = ({"dtype": jax.numpy.dtype(dtype)} if dtype else {}) | ({"remat": True} if remat else {})
    for field in changes:
        if not hasattr(network, field):
            raise ValueError(f"{directory} holds a {type(network).__name__}, which has no choice of {field}")
    network = dataclasses.replace(network, **changes) if changes else network
    params = jax.tree.map(jax.numpy.asarray, read_params(directory))
    loaded: Any
    process = build(found.get("process"))
    if isinstance(network, Judge):
        loaded = TrainedJudge(params, network.apply)
    elif isinstance(network, GPT2):
        if network.outputs:
            loaded = prefix_classifier(network, params)
        else:
            loaded = language_model(network, params, process.first, domain)
    elif isinstance(network, Transformer):
        own = process is None
        loaded = token_classifier(network, params, domain) if own else token_model(network, params, process, domain)
    elif found["parameterization"] is None:
        loaded = NoisyClassifier(params, network.apply, domain)
    else:
        loaded = Network(params, network.apply, build(found["parameterization"]), domain)
    if not isinstance(loaded, kind):
        raise ValueError(
            f"{directory} holds a {type(loaded).__name__}, expected a {kind.__name__}; pass the folder of that"
        )
    return loaded
