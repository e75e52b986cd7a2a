"""Find the number of this worker and the number of all workers, from --worker or from the engine's environment."""

import re
from collections.abc import Mapping

from guidance_jax.app.schema import show
from guidance_jax.core import Refused

# names of the index and the count of processes: torchrun and its like, SkyPilot, and indexed jobs of Kubernetes, which
# have no count
ENGINES = (("RANK", "WORLD_SIZE"), ("SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES"), ("JOB_COMPLETION_INDEX", None))


def read_worker(text: str | None, environment: Mapping[str, str]) -> tuple[int, int] | None:
    """Return (k, n) from `text`, "K/N", or from the `environment` of an engine; None if neither has them.

    Raises:
      Refused: a text of another form, or a K outside 0 to N - 1.
    """
    if text is not None:
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text, re.ASCII)
        if found is None or int(found[1]) >= int(found[2]):
            raise Refused(f"--worker must be K/N with K from 0 to N - 1, got {show(text)}; write --worker 0/4")
        return int(found[1]), int(found[2])

    def number(name: str) -> int | None:
        value = environment.get(name, "")
        return int(value) if re.fullmatch("[0-9]{1,6}", value, re.ASCII) else None

    task, tasks = number("SLURM_PROCID"), number("SLURM_NTASKS")
    element, elements = number("SLURM_ARRAY_TASK_ID"), number("SLURM_ARRAY_TASK_COUNT")
    task, tasks = (0, 1) if task is None or tasks is None else (task, tasks)
    if element is not None and elements is not None:  # an array of jobs, each with one task or several
        element -= number("SLURM_ARRAY_TASK_MIN") or 0
        return element % elements * tasks + task, elements * tasks
    if tasks > 1:
        return task, tasks
    for index, count in ENGINES:
        k, n = number(index), None if count is None else number(count)
        if k is not None and (count is None or n is not None):
            return k, max(k + 1, n or 0)
    return None
