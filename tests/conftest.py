"""Type checks of the package (jaxtyping + beartype), what `--all` adds, and shared small things."""

import os
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

# before any module of the package is imported
_hook = install_import_hook("guidance_jax", "beartype.beartype")
_hook.__enter__()

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# compiling takes most of the time, running little: LLVM is asked for less, which changes the last digits alone
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")
# most of the time goes into compiling: a second run takes a third of it
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "programs"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.01")
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.01)


def pytest_addoption(parser):
    parser.addoption(
        "--all",
        action="store_true",
        help="also what takes minutes: every pair, kills, notebooks, many processes, floors",
    )
    parser.addoption("--measured", action="store_true", help="only what records a figure (python -m benchmarks laws)")


def pytest_collection_modifyitems(config, items):
    """Without `--all`, what is marked slow or release is left out; with `--measured`, what records nothing."""
    out = set()
    if not config.getoption("--all"):
        out |= {item for item in items if item.get_closest_marker("slow") or item.get_closest_marker("release")}
    if config.getoption("--measured"):
        out |= {item for item in items if "measured" not in item.fixturenames}
    if out:
        config.hook.pytest_deselected(items=[item for item in items if item in out])
        items[:] = [item for item in items if item not in out]


@pytest.fixture
def measured(record_property):
    """measured(what, value): a figure of a law, kept in the report (a Python float: workers send nothing else)."""
    return lambda what, value: record_property(str(what), float(value))


@pytest.fixture
def x64():
    """float64 for one test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Thousands of compiled programs would fill the memory."""
    yield
    jax.clear_caches()
