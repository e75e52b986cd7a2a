"""How Sphinx builds these pages: written pages as they are, the reference and the notebooks made before it starts.

pip install -e ".[docs]" && sphinx-build docs site
"""

import os
import shutil
import sys
from pathlib import Path

from docutils import nodes

import guidance_jax

sys.path.append(str(Path(__file__).parent))
import formulas
import names
import reference

DOCS = Path(__file__).parent
project, author = "guidance_jax", "the authors of guidance_jax"
release = guidance_jax.__version__
html_title = f"guidance_jax {release}"

extensions = ["myst_nb", "sphinx.ext.mathjax", "sphinx.ext.viewcode", "sphinx_copybutton"]
if os.environ.get("READTHEDOCS"):  # where the pages of others can be fetched
    extensions.append("sphinx.ext.intersphinx")
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", None),
    "numpy": ("https://numpy.org/doc/stable", None),
    "jax": ("https://docs.jax.dev/en/latest", None),
    "flax": ("https://flax.readthedocs.io/en/latest", None),
    "optax": ("https://optax.readthedocs.io/en/latest", None),
}
exclude_patterns = ["site"]

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # `python colab/execute.py NAME` runs them and stores what they show
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries = False
viewcode_line_numbers = True

html_theme = "sphinx_book_theme"
html_theme_options = {"show_navbar_depth": 1, "show_toc_level": 2, "navbar_persistent": [], "home_page_in_toc": True}
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_show_sphinx = False
html_copy_source = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def make_pages(app):
    """The reference, one page a public name, and the notebooks."""
    reference.write(DOCS / "reference")
    (DOCS / "notebooks").mkdir(exist_ok=True)
    for notebook in sorted((DOCS.parent / "colab").glob("*.ipynb")):
        shutil.copyfile(notebook, DOCS / "notebooks" / notebook.name)


def read_page(app, page, text):
    """A written page links to the reference, and those of methods show all of the table."""
    folder, _, name = page.rpartition("/")
    if page.startswith(("reference", "notebooks")):
        return
    if folder == "methods":
        text[0] = names.with_methods(name, text[0])
    text[0] = formulas.name_languages(names.linked(text[0]))
    text[0] = names.SHOWN.sub(lambda found: reference.body(found[1]), text[0])


def set_formulas(app, page):
    """Indented blocks that are no code become formulas."""
    for block in list(page.findall(nodes.literal_block)):
        if block.get("language", "none") in ("none", "default", "") and formulas.is_formula(block.astext()):
            block.replace_self(nodes.raw("", formulas.typeset(block.astext()), format="html"))


def setup(app):
    """Sphinx calls this."""
    app.connect("doctree-read", set_formulas)
    app.connect("builder-inited", make_pages)
    app.connect("source-read", read_page)
