"""Packages of npm: downloaded once, verified, and replaced by a local tarball without a network."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from utils.errors import UserError
from utils.npm import NpmPackage


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def tarball(text: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        entry = tarfile.TarInfo("package/dist/a.js")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    return file.getvalue()


CONTENT = tarball(b"let a = 1;")
PACKAGE = NpmPackage("some-name", "1.2.3", base64.b64encode(hashlib.sha512(CONTENT).digest()).decode())


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry on this machine; yields the file that it serves as the tarball."""
    folder = tmp_path / "registry" / "some-name" / "-"
    folder.mkdir(parents=True)
    (folder / "some-name-1.2.3.tgz").write_bytes(CONTENT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "registry")))
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield folder / "some-name-1.2.3.tgz"
    server.shutdown()
    server.server_close()


def test_a_package_is_downloaded_once(registry):
    assert PACKAGE.read(["dist/a.js"]) == [b"let a = 1;"]
    registry.unlink()
    assert PACKAGE.read(["dist/a.js"]) == [b"let a = 1;"]


def test_a_damaged_copy_in_the_cache_is_replaced(registry):
    PACKAGE.cached.parent.mkdir(parents=True)
    PACKAGE.cached.write_bytes(b"half of it")
    assert PACKAGE.read(["dist/a.js"]) == [b"let a = 1;"]
    assert PACKAGE.cached.read_bytes() == CONTENT


def test_other_content_in_the_registry_is_rejected_and_not_kept(registry):
    registry.write_bytes(tarball(b"let a = evil;"))
    with pytest.raises(UserError, match=r"does not have the known SHA-512; download .* runtime=FILE"):
        PACKAGE.read(["dist/a.js"])
    assert not PACKAGE.cached.exists()


def test_without_a_network_the_error_says_what_to_do_and_a_local_tarball_works(registry, tmp_path):
    registry.unlink()
    with pytest.raises(
        UserError, match=r"cannot be downloaded .*`npm pack some-name@1\.2\.3`, and give the file as"
    ):
        PACKAGE.read(["dist/a.js"])
    local = tmp_path / "local.tgz"
    local.write_bytes(CONTENT)
    assert PACKAGE.read(["dist/a.js"], local) == [b"let a = 1;"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (tarball(b"older"), r"is not the tarball of some-name 1\.2\.3")],
)
def test_a_local_file_that_is_not_the_tarball_is_rejected(tmp_path: Path, content, message):
    path = tmp_path / "local.tgz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        PACKAGE.read(["dist/a.js"], path)
