"""Writes the first cell of every notebook and stores its outputs.  python colab/execute.py [NAME ...] [--short]

Without a name all of them; `--short` runs them at tiny size, as the tests do, and stores nothing.
"""

import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

# Where `pip` finds this repository from a machine that has no clone of it: the one place where it is written.
REPOSITORY = ""
FIRST = """# From a clone of the repository nothing is fetched; elsewhere, on Colab for example, REPOSITORY must be its address.
REPOSITORY = "{repository}"
try:
    import guidance_jax as gj
except ModuleNotFoundError:
    from pathlib import Path

    clone = next((p for p in (Path.cwd(), *Path.cwd().parents) if (p / "guidance_jax" / "__init__.py").exists()), None)
    if clone is None and not REPOSITORY:
        raise RuntimeError("open the notebook from a clone of the repository, or set REPOSITORY to its address") from None
    source = f"{{clone}}[{extras}]" if clone else f"guidance_jax[{extras}] @ git+{{REPOSITORY}}"
    %pip install -q "{{source}}"  # keeps the JAX that is there
    import guidance_jax as gj
"""
END = "    import guidance_jax as gj\n"


def first_cell(source: str, extras: str) -> str:
    """The cell with the installation as it is today, what follows it kept."""
    rest = source.split(END, 2)[-1] if source.count(END) >= 2 else source.split(END, 1)[-1]
    return FIRST.format(repository=REPOSITORY, extras=extras) + rest


def warned(out) -> bool:
    """Whether an output is a warning of the kernel's, which says where the machine keeps its files."""
    return out.output_type == "stream" and "Warning" in out.text and out.name == "stderr"


def cleaned(out):
    """The same without colours of a terminal and without the names of temporary folders."""
    if out.output_type == "stream":
        out.text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.text)
        # where pip looked on this machine
        out.text = re.sub(r"^WARNING: Location .*\n", "", out.text, flags=re.MULTILINE)
        out.text = re.sub(re.escape(tempfile.gettempdir()) + r"/tmp\w+", "FOLDER", out.text)
    return out


def main() -> None:
    short = "--short" in sys.argv
    names = [name for name in sys.argv[1:] if not name.startswith("-")]
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    for path in sorted(Path(__file__).parent.glob("*.ipynb")):
        if names and not any(name in path.stem for name in names):
            continue
        tiny = short or "pretrained" in path.stem  # its files are gigabytes, and an accelerator is wanted
        for key, value in {"NOTEBOOK_SAMPLES": "300", "NOTEBOOK_STEPS": "20"}.items():
            os.environ.pop(key, None)
            if tiny:
                os.environ[key] = value
        notebook = nbformat.read(path, 4)
        cell = next(c for c in notebook.cells if c.cell_type == "code")
        cell.source = first_cell(cell.source, "demo,pretrained" if "pretrained" in path.stem else "demo")
        begin = time.perf_counter()
        NotebookClient(notebook, timeout=1800, kernel_name="python3").execute()
        print(f"{path.stem}: {time.perf_counter() - begin:.0f} s")
        if not short:
            for one in notebook.cells:
                one.metadata.pop("execution", None)
                if one.cell_type == "code":
                    kept = [] if tiny else one.outputs  # of tiny random networks there is nothing to see
                    one.outputs = [cleaned(out) for out in kept if not warned(out)]
            nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
