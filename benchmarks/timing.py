"""Alternating timings of several functions in one process, and result files with what they were measured on."""

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np


def alternate(functions: dict[str, Callable[[], Any]], repeats: int = 15) -> dict[str, float]:
    """Median seconds of each function; compiled first, then run in turn."""
    for f in functions.values():
        jax.block_until_ready(f())
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, f in functions.items():
            begin = time.perf_counter()
            jax.block_until_ready(f())
            times[name].append(time.perf_counter() - begin)
    return {name: float(np.median(t)) for name, t in times.items()}


def kept(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What an interrupted run with the same settings left in a file, or {}."""
    old = json.loads(path.read_text()) if path.exists() else {}
    return old if old.get("settings") == json.loads(json.dumps(settings)) else {}


def write(path: str | Path | None, **results: Any) -> None:
    """Write results with versions and device as JSON, if a path is given."""
    about = {"jax": jax.__version__, "python": platform.python_version(), "device": str(jax.devices()[0])}
    if path:
        Path(path).write_text(json.dumps({"about": about, **results}, indent=1) + "\n")
