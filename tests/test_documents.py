"""The README and the tutorials run as they stand; every method has its page; pictures and links are there."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax import methods
from guidance_jax.app import settings
from tests import parts
from tests.test_latent_models import CONTROL, whole

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MADE = {DOCS / "reference", DOCS / "notebooks"}  # by a build of the pages
PAGES = [ROOT / "README.md", *sorted(p for p in DOCS.rglob("*.md") if MADE.isdisjoint(p.parents))]


def blocks(path, language):
    """The fenced blocks of a language, "" for those without one."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    return [text for name, text in fences if name == language]


def run_page(path, folder):
    """What the Python of a page prints, in one interpreter of its own, as a reader would run it."""
    code = "\n".join(blocks(path, "python"))
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, f"{path.name}: {done.stderr[-2000:]}"
    return done.stdout


def split_numbers(output):
    """The words of an output, and its numbers as they are written."""
    number = r"-?\d+\.?\d*(?:e[+-]?\d+)?"
    return re.sub(number, "#", re.sub(r"[\[\](),]", " ", output)).split(), re.findall(number, output)


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.slow
def test_the_readme_runs_as_it_stands(tmp_path):
    run_page(ROOT / "README.md", tmp_path)


WITH_CODE = [p for p in PAGES[1:] if blocks(p, "python")]


@pytest.mark.slow
@pytest.mark.parametrize("path", WITH_CODE, ids=lambda p: p.stem)
def test_pages_run_as_they_stand(path, tmp_path):
    """And print what they say that they print, but for the last digits."""
    assert len(WITH_CODE) >= 9
    if path.stem == "latent_models":
        whole("sd15", tmp_path / "stable-diffusion")
        whole("sd3", tmp_path / "stable-diffusion-3")
        whole("flux", tmp_path / "flux")
        shutil.copytree(CONTROL, tmp_path / "control")
        shutil.copy(ROOT / "tests/golden/lora/sd15.safetensors", tmp_path / "style.safetensors")
    if path.stem == "gpt2":
        shutil.copytree(ROOT / "tests" / "golden" / "gpt2", tmp_path / "gpt2")
    output = run_page(path, tmp_path)
    if path.stem == "gpt2":  # of a folder that the reader brings
        return
    (words, numbers), (said, shown) = split_numbers(output), split_numbers("".join(blocks(path, "text")))
    assert words == said, f"{path.name} prints: {output}"
    for found, number in zip(map(float, numbers), shown, strict=True):
        digit = 10.0 ** Decimal(number).as_tuple().exponent  # the last one shown, at most a hundredth
        assert abs(found - float(number)) < 1.01 * min(digit, 0.01) + 0.01 * abs(found), f"{number}: {output}"


@pytest.mark.slow
def test_the_commands_of_the_readme_run(tmp_path):
    """As they stand, but for `--preset quick` and fewer samples: on a folder of pictures made here."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, level in (("cat", 60), ("dog", 190)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(level - 40, level + 40, (20 + i, 24, 3)).astype(np.uint8)  # of mixed sizes
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    whole("sd15", tmp_path / "stable-diffusion-v1-5")
    more = {"train": "--preset quick --width 8 --size 8 --batch 8", "compare": "--n 12 --steps 2", "demo": None}
    more["sample"] = "--n 2 --steps 2"
    commands = [
        c for block in blocks(ROOT / "README.md", "") for c in block.splitlines() if c.startswith("guidance-jax")
    ]
    assert len(commands) >= 3
    for command in commands:
        words = shlex.split(command.split("#")[0])
        words = [sys.executable, "-m", "guidance_jax.app.cli", *words[1:], *shlex.split(more[words[1]])]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
        assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "comparison" / "comparison.png").exists()
    assert (tmp_path / "models" / "denoiser" / "progress.png").exists()


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_links_and_pictures_are_there(path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)):
        if target.startswith("http"):
            continue
        assert (path.parent / target).exists(), f"{path.name} points to {target}"


def test_the_page_of_scales_says_where_every_method_changes_nothing():
    """Each row of the table of methods that has such a strength, by what it samples there."""
    text = (DOCS / "methods" / "scales.md").read_text()
    lines = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    said = {
        name: (at, what)
        for at, what, names in (c for c in lines if len(c) == 3)
        for name in re.findall(r"`(\w+)`", names)
    }
    first_table = {re.findall(r"`(\w+)`", cells[0])[0] for cells in lines if len(cells) == 4 and "`" in cells[0]}
    for row in methods.METHODS.values():
        if not row.off or row.name in first_table:
            continue
        at, what = said[row.name]
        name, value = next(iter(row.off.items()))
        assert f"{name} {'infinity' if value == float('inf') else f'{value:g}'}" in at, row.name
        assert name != "scale" or f"the {row.same} model" in what, row.name


WORD = re.compile(r"[A-Za-z][\w'-]*")


def sentences(text):
    """The sentences of a page: no code, tables, headings, or what a program wrote; a name in backticks is one word."""
    text = re.sub(r"```.*?```|<!-- \w+: benchmarks/tables.py -->.*?<!-- end -->|<!--.*?-->", "", text, flags=re.DOTALL)
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [
            line for line in paragraph.splitlines() if not line.lstrip().startswith(("|", "#", ":::", "    ", "!["))
        ]
        for item in re.split(r"\n(?=\s*(?:[*-]|\d+\.)\s)", "\n".join(lines)):
            item = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", item)
            yield from re.split(r"(?<=[.!?])\s+(?=[A-Z`\"(*\[])", re.sub(r"`[^`]*`", "X", item))


@pytest.mark.parametrize("path", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda p: p.stem)
def test_no_sentence_is_longer_than_thirty_words(path):
    long = [s for s in sentences(path.read_text()) if len(WORD.findall(s)) > 30]
    assert not long, long[0]


def test_the_page_of_settings_holds_the_table_that_the_command_prints():
    assert settings.table() in (DOCS / "recipes" / "settings.md").read_text()


def test_every_method_is_on_a_page_of_its_family(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    names = importlib.import_module("names")
    text = "\n".join(names.with_methods(p.stem, p.read_text()) for p in (DOCS / "methods").glob("*.md"))
    shown = {name for _, name in names.SHOWN.findall(text)}
    assert set(methods.PARTS) - shown == set()


def test_the_calls_that_the_reference_shows_make_the_parts(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    names = importlib.import_module("names")
    there = vars(parts.given(parts.MIXTURE))
    namespace = {**there, "gj": gj, "jnp": jnp, "log_likelihood": there["likelihood"], "weak_model": there["weak"]}
    namespace |= {
        "table": parts.TABLE,
        "banned": jnp.zeros(3, bool),
        "known": jnp.array([0, -1]),
        "picture": jnp.zeros(2),
        "kernel": jnp.ones((3, 3)) / 9,
    }
    namespace |= {"f": parts.first_entry, "data_shape": (2,), "decode": parts.same, "encode": parts.same}
    namespace |= {name: jnp.eye(2) for name in ("rows", "columns", "matrix")} | {"angles": jnp.zeros(2)}
    namespace |= {name: gj.operators.Mask(jnp.ones(2)) for name in ("outer", "inner")}
    for row in methods.PARTS.values():
        assert isinstance(eval(names.spell(row), namespace), row.cls), names.spell(row)


@pytest.mark.slow
def test_the_example_that_ships_is_small_and_knows_its_digits():
    """Guided samples are what was asked for, under the classifier that did not guide them (CFG does not use it)."""
    import jax
    import jax.numpy as jnp

    model, classifier = gj.examples.digits()
    weights = ROOT / "guidance_jax" / "zoo" / "weights" / "digits.npz"
    assert weights.stat().st_size < 1_500_000
    levels, labels = gj.Cosine().levels(12), jnp.arange(50) % 10
    images = gj.generate(
        gj.keys(0, 50), gj.Reverse(gj.Clip(gj.CFG(model, 10, 2.0)), gj.DDIM()), levels, (8, 8, 1), labels
    )
    said = jnp.argmax(jax.vmap(lambda x: classifier.logits(x, levels.at(-2)))(images), -1)
    assert float(jnp.mean(said == labels)) > 0.9


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        (
            "eps' = eps - scale sigma_t grad",
            "ε\N{PRIME} = ε \N{MINUS SIGN} scale \N{GREEK SMALL LETTER SIGMA}<sub><i>t</i></sub> ∇",
        ),
        ("x_s ~ N(mu, sigma_s^2 I)", "<i>x</i><sub><i>s</i></sub> \N{TILDE OPERATOR} <i>N</i>(μ, "),
        ("p~(x0)^(1 - s)", "<i>p</i>\N{COMBINING TILDE}(<i>x</i><sub>0</sub>)<sup>1 \N{MINUS SIGN} <i>s</i></sup>"),
        (
            "sum_{i<k} a <- `steps` of log_target",
            "∑<sub><i>i</i>&lt;<i>k</i></sub> <i>a</i> ← <code>steps</code> of log_",
        ),
    ],
)
def test_formulas_are_set_as_they_are_typed(typed, shown, monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    formulas = importlib.import_module("formulas")
    assert shown in formulas.typeset(typed)
    rows = formulas.typeset("a   = 1\nlonger")
    assert rows.count("<tr>") == 2
    assert 'colspan="2"' in rows
    assert not formulas.is_formula("x = gj.sample(key)")
    assert not formulas.is_formula("guidance-jax sample --models a")
    assert not formulas.is_formula("job/shard_00001.npz   its samples")
    page = "```python\na = 1\n```\n\n```\nb = 2\n```\n\n```{toctree}\n```\n"
    assert formulas.name_languages(page) == page.replace("```\nb", "```text\nb")
