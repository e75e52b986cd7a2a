"""Nothing public is missing from the table of laws, from the README or from its docstring."""

import inspect
import subprocess
import sys
from pathlib import Path

import guidance_jax as gj
from guidance_jax.discrete import HiddenNetwork
from guidance_jax.embeddings import EmbeddingNetwork
from guidance_jax.guidance import Ramp
from guidance_jax.oracles import Ehrlich, Enumerated, MarkovModel
from guidance_jax.particles import Particles
from guidance_jax.text import LeftToRight, PrefixClassifier
from tests import table, token_table

PUBLIC = {name: getattr(gj, name) for name in gj.__all__}


def classes_of(package):
    return {c for c in PUBLIC.values() if inspect.isclass(c) and c.__module__.startswith(f"guidance_jax.{package}.")}


def test_every_guidance_method_has_a_row():
    scales = {gj.Window, gj.PerClass, Ramp}
    assert classes_of("guidance") - scales == set(table.GUIDANCE)


def test_every_solver_has_a_row():
    assert classes_of("solvers") == set(table.SOLVERS)


def test_every_kernel_has_a_row():
    assert classes_of("kernels") == set(table.KERNELS)


def test_every_particle_method_has_a_row():
    population = {gj.SMC, Particles}
    assert classes_of("particles") - population == set(table.POPULATIONS) | set(token_table.PARTICLES)


def test_every_method_for_tokens_has_a_row():
    parts = {
        gj.Absorbing,
        gj.Uniform,
        gj.TokenNetwork,
        HiddenNetwork,
        EmbeddingNetwork,
        gj.LanguageModel,
    }
    parts |= {
        PrefixClassifier,
        LeftToRight,
        Enumerated,
        Ehrlich,
        MarkovModel,
    }
    found = classes_of("discrete") | classes_of("autoregressive") | classes_of("embeddings")
    assert found - parts == {row for row in token_table.ROWS if not isinstance(row, str)}


def test_every_method_is_in_the_readme():
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    methods = classes_of("guidance") | classes_of("solvers") | classes_of("kernels")
    methods |= (
        classes_of("particles") | classes_of("discrete") | classes_of("autoregressive") | classes_of("embeddings")
    )
    missing = [c.__name__ for c in methods if f"`{c.__name__}`" not in readme]
    assert not missing


def test_every_public_name_has_a_docstring():
    documented = [name for name, thing in PUBLIC.items() if inspect.isclass(thing) or inspect.isfunction(thing)]
    assert len(documented) > 30
    assert [name for name in documented if not inspect.getdoc(PUBLIC[name])] == []


def test_method_files_stay_small():
    """One formula, one class, one screen: at most 90 lines of code and prose a method."""
    package, shared = Path(gj.__file__).parent, {"base.py", "smc.py", "populations.py"}
    files = [p for f in ("guidance", "solvers", "kernels", "particles") for p in (package / f).glob("*.py")]
    methods = [p for p in files if p.name not in shared]
    assert len(methods) > 40
    sizes = {p.name: len(p.read_text().splitlines()) / max(1, p.read_text().count("@pytree")) for p in methods}
    assert {name: size for name, size in sizes.items() if size > 90} == {}


def test_the_readme_s_tables_are_the_results():
    script = Path(gj.__file__).parent.parent / "benchmarks" / "readme.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
