"""What the laws measure, as the tables of methods quote it:  python -m benchmarks.laws [--out FILE]

Runs the tests of `tests/laws` that record a figure, the slow ones too, and writes what they recorded: distances to
exact distributions, and the floor that exact samples would show. A law that does not hold is no figure: nothing is
written.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

from benchmarks.timing import write

ROOT = Path(__file__).parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("laws.json"))
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        report = Path(folder) / "laws.xml"
        options = ["-n", "0", "-v", "--all", "--measured", f"--junitxml={report}"]
        subprocess.run([sys.executable, "-m", "pytest", "tests/laws", *options], cwd=ROOT, check=True)
        laws: dict[str, dict[str, float]] = {}
        for case in ElementTree.parse(report).iter("testcase"):
            name = case.attrib["name"]
            found = {p.attrib["name"]: float(p.attrib["value"]) for p in case.iter("property")}
            if name in laws or not found:
                raise ValueError(f"{name} has no figure, or is the name of two laws")
            laws[name] = found
    write(args.out, **laws)


if __name__ == "__main__":
    main()
