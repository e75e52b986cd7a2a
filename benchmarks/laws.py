"""The figures that the laws record."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

from benchmarks.suite import Row, benchmark

ROOT = Path(__file__).parent.parent


@benchmark(quick={"only": "test_scale_one_is_the_exact_conditional"})
def laws(only: str = "") -> Iterator[Row]:
    """What do the laws measure, as the lists of methods quote it?

    Runs the tests of `tests/laws` that record a figure, the slow ones too (those that pytest's `-k` of `only` names):
    distances to exact distributions, and the floor that exact samples would show. A law that does not hold is no
    figure: nothing is written.
    """
    with TemporaryDirectory() as folder:
        report = Path(folder) / "laws.xml"
        options = ["-n", "0", "-v", "--all", "--measured", f"--junitxml={report}", "-k", only]
        subprocess.run([sys.executable, "-m", "pytest", "tests/laws", *options], cwd=ROOT, check=True)
        cases = list(ElementTree.parse(report).iter("testcase"))
    names = [case.attrib["name"] for case in cases]
    for case in cases:
        name = case.attrib["name"]
        found = {p.attrib["name"]: float(p.attrib["value"]) for p in case.iter("property")}
        if names.count(name) > 1 or not found:
            raise ValueError(f"{name} has no figure, or is the name of two laws")
        yield Row({"law": name}, found)
