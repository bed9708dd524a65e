"""Files of an npm package: its tarball is downloaded once, verified and cached."""

from __future__ import annotations

import base64
import hashlib
import os
import tarfile
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError
from utils.files import replacing

_REGISTRY = "https://registry.npmjs.org"
_SECONDS = 60  # without an answer


@dataclass(frozen=True)
class NpmPackage:
    """An unscoped package in one version."""

    name: str
    version: str
    sha512: str  # base64, as after `sha512-` in the registry's `dist.integrity`

    @property
    def file_name(self) -> str:
        return f"{self.name}-{self.version}.tgz"

    @property
    def address(self) -> str:
        """The tarball in the registry, or in the mirror that `NPM_CONFIG_REGISTRY` names."""
        registry = os.environ.get("NPM_CONFIG_REGISTRY") or _REGISTRY
        return f"{registry.rstrip('/')}/{self.name}/-/{self.file_name}"

    @property
    def cached(self) -> Path:
        """Where the downloaded tarball is kept: below `XDG_CACHE_HOME`, by default ~/.cache."""
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(root) / "tiny-recursion" / self.file_name

    def read(self, files: Iterable[str], tarball: Path | None = None) -> list[bytes]:
        """Return the content of files of the package, from a local `tarball` or from the registry.

        Raises UserError if the tarball cannot be had or read, or is not that of this version.
        """
        path = tarball or self._downloaded()
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error}); {self._cure}") from error
        if not self._is_intact(content):
            raise UserError(f"{path}: is not the tarball of {self.name} {self.version}; {self._cure}")
        with tarfile.open(path) as archive:
            members = [archive.extractfile(f"package/{file}") for file in files]
            return [member.read() for member in members if member is not None]

    @property
    def _cure(self) -> str:
        return (
            f"download {self.address} on a machine with a network, or `npm pack {self.name}@{self.version}`, and give "
            "the file as runtime=FILE"
        )

    def _is_intact(self, content: bytes) -> bool:
        return base64.b64encode(hashlib.sha512(content).digest()).decode() == self.sha512

    def _downloaded(self) -> Path:
        path = self.cached
        if path.is_file() and self._is_intact(path.read_bytes()):
            return path
        try:
            with urllib.request.urlopen(self.address, timeout=_SECONDS) as answer:
                content = answer.read()
        except OSError as error:  # HTTP errors too
            raise UserError(f"{self.address}: cannot be downloaded ({error}); {self._cure}") from error
        if not self._is_intact(content):
            raise UserError(f"{self.address}: does not have the known SHA-512; {self._cure}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written ({error.strerror or error}); choose another folder with XDG_CACHE_HOME, or "
                f"{self._cure}"
            ) from error
        return path
