"""Checkpoints: a directory with weights and a configuration, from which the network can be built again.

    DIR/config.json          the network and its domain, as JSON (`config.py`)
    DIR/<step>/              orbax: parameters, EMA, optimizer state, and the losses so far
    DIR/model.safetensors    instead of <step>, the weights of a converted checkpoint (`flat.py`)

orbax writes a step under another name and then renames it, so a kill at any moment leaves the step before.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from guidance_jax.checkpoints.config import FORMAT, difference, read_config, today
from guidance_jax.checkpoints.flat import WEIGHTS, load_flat
from guidance_jax.core import Refused, first_line
from guidance_jax.files import LOCK, PART, hold_interruptions, lock, sweep, write_whole

# settings that earlier versions did not record: if one is missing on one side, it is not compared
LATER = ("rate", "ema", "seed", "batch", "augment", "flip", "corruption")


class Run:
    """Manage a training run's directory: `fit(..., run=Run(directory, config(...)))` saves into it and resumes from it.

    Every setting in the configuration must be the same as before, except `steps`. It may become any number above the
    steps that are done, to train longer or shorter. The earlier numbers are recorded in `stages`.

    Raises:
      Refused: a directory with other content or with another configuration (the message names the field), or a number
        of `steps` that is already reached. Nothing is written then.
    """

    def __init__(self, directory: str | Path, config: dict):
        self.directory = Path(directory).absolute()
        if self.directory.is_file():
            raise Refused(f"{self.directory} is a file; a checkpoint is a folder: choose another name")
        self.asked, self.holds = json.loads(json.dumps({"format": FORMAT, **config})), False
        self.config = self.stored = self.asked
        if self.directory.exists() and any(not p.name.startswith((PART, LOCK)) for p in self.directory.iterdir()):
            read_config(self.directory, of_network=False)
            self.manager = _manager(self.directory)
            self.compare()
        else:
            self.write_config()
            self.manager = _manager(self.directory)

    def compare(self) -> None:
        """Compare the requested configuration with the one on disk, and store the union of both in `config`."""
        self.stored = read_config(self.directory, of_network=False)
        found, here = today(self.stored), today(self.asked)
        old, new = dict(found.get("training") or {}), dict(here.get("training") or {})
        planned: Any = old.get("steps")
        steps: Any = new.get("steps")
        stages, _ = old.pop("stages", []), new.pop("stages", None)
        for name in LATER:
            if (name in old) != (name in new):
                old[name] = new[name] = {**old, **new}[name]
        other = None not in (planned, steps) and steps != planned
        if other:
            old["steps"] = steps
        different = difference(found | {"training": old}, here | {"training": new})
        if different:
            raise Refused(
                f"{self.directory} holds a checkpoint with another configuration ({different}); train into another "
                "folder"
            )
        reached = self.latest() or 0
        if other:
            if steps <= reached:
                raise Refused(
                    f"{self.directory} has done {reached} of {planned} steps, got steps={steps}; write steps={planned} "
                    f"or another number above {reached}, or train into another folder"
                )
            if reached and (not stages or stages[-1]["until"] < reached):
                stages = [*stages, {"steps": planned, "until": reached}]
        self.config = self.asked | {"training": new | ({"stages": stages} if stages else {})}

    def write_config(self) -> None:
        """Write `config` to config.json."""
        text = json.dumps(self.config, indent=1).encode()
        write_whole(self.directory / "config.json", lambda file: file.write(text))
        self.stored = self.config

    @contextmanager
    def alone(self, **settings: Any) -> Iterator[None]:
        """Lock the directory, so that this is the only training in it.

        Args:
          settings: arguments of `fit` that become part of the configuration; a value that it has already wins.

        Raises:
          Refused: another training is running there; or whatever `Run` refuses.
        """
        if self.holds or jax.process_index() > 0:  # of many processes, the first one writes for all
            yield
            return
        with lock(self.directory):
            self.holds = True
            try:
                sweep(self.directory)
                for left in self.directory.glob("*.orbax-checkpoint-tmp*"):  # left by a run that was killed
                    shutil.rmtree(left, ignore_errors=True)
                self.manager.reload()
                training = json.loads(json.dumps(settings)) | self.asked.get("training", {})
                self.asked = self.asked | {"training": training}
                self.compare()
                yield
            finally:
                self.holds = False

    def latest(self) -> int | None:
        """Return the last complete step; None if there is none."""
        return self.manager.latest_step()

    def restore(self, state: Any) -> tuple[Any, list]:
        """Return (state, losses) of the last complete step; without one, the given state and no losses."""
        step = self.latest()
        found = (state, []) if step is None else _restore(self.manager, step, state)
        if self.holds and self.config != self.stored:
            self.write_config()
        return found

    def save(self, step: int, state: Any, losses: list) -> None:
        """Save `state` and `losses`. A save that fails leaves the step before unchanged; Ctrl-C waits for the save.

        Raises:
          Refused: a disk that is full, a folder that cannot be written to, another training in it.
        """
        if self.latest() == step:
            return
        with self.alone():
            try:
                with hold_interruptions(), _quiet():
                    items = dict(state=ocp.args.StandardSave(state), losses=ocp.args.JsonSave(losses))
                    self.manager.save(step, args=ocp.args.Composite(**items))
                    self.manager.wait_until_finished()
            except Exception as error:  # orbax wraps the errors of tensorstore in its own types
                before = self.latest()
                for left in self.directory.glob(f"{step}.*tmp*"):
                    shutil.rmtree(left, ignore_errors=True)
                full = "the disk is full" if shutil.disk_usage(self.directory).free < 2**20 else first_line(error)
                kept = f"step {before} is kept" if before is not None else "no step was kept"
                raise Refused(
                    f"{self.directory}/{step} cannot be written ({full}); {kept}: fix this and start again"
                ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep orbax's log off standard error: its exceptions become one line, which a logged traceback would repeat."""
    log, no = logging.getLogger("absl"), lambda record: False
    log.addFilter(no)
    try:
        yield
    finally:
        log.removeFilter(no)


def _manager(directory: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=1, create=False, enable_async_checkpointing=False)
    handlers = {"state": ocp.StandardCheckpointHandler(), "losses": ocp.JsonCheckpointHandler()}
    with hold_interruptions():
        return ocp.CheckpointManager(directory, options=options, item_handlers=handlers)


def _restore(manager: ocp.CheckpointManager, step: int, state: Any) -> tuple[Any, list]:
    """Read (state, losses) of a step, placed on devices like `state`; if `state` is None, on the first local device."""
    try:
        if state is None:
            here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            target = jax.tree.map(
                lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), manager.item_metadata(step)["state"]
            )
        else:
            target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        items = dict(state=ocp.args.StandardRestore(target), losses=ocp.args.JsonRestore())
        with hold_interruptions(), _quiet():
            restored = manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as error:  # orbax has no common type for damage
        raise Refused(
            f"the checkpoint {manager.directory}/{step} cannot be read ({first_line(error)}); nothing was changed: "
            "restore it, or delete that folder to train again"
        ) from None
    return restored["state"], restored["losses"]


def read_params(directory: str | Path) -> Any:
    """Read the parameters of a checkpoint as nested dictionaries of arrays; of a training run, the EMA parameters.

    Args:
      directory: the checkpoint.

    Raises:
      Refused: a damaged or unfinished checkpoint.
    """
    if (Path(directory) / WEIGHTS).exists():
        return load_flat(directory)
    manager = _manager(Path(directory).absolute())
    step = manager.latest_step()
    if step is None:
        raise Refused(f"{directory} has no complete checkpoint yet; train it first")
    found = _restore(manager, step, None)[0]
    if not isinstance(found, dict) or "ema" not in found:
        raise Refused(f"the checkpoint {directory}/{step} has no parameters (no entry ema); train it again")
    return found["ema"]


def save_params(directory: str | Path, params: Any, config: dict) -> None:
    """Write parameters as an orbax checkpoint of one step, which `load` reads; sharded arrays stay sharded on disk.

    Args:
      directory: a new folder.
      params: nested dictionaries of arrays.
      config: the result of `config(...)`.

    Raises:
      Refused: whatever `Run` refuses.
    """
    Run(directory, config).save(0, {"ema": params}, [])
