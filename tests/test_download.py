"""Downloads: whole with their checksum or not at all, resumed; and no network elsewhere."""

import hashlib
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from hsd_jax.runtime import download

DATA = bytes(range(256)) * 8000
DIGEST = hashlib.sha256(DATA).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves DATA, with ranges at /ranges; /cut breaks off half-way."""

    asked: list[str] = []

    def do_GET(self):
        wanted = self.headers.get("Range", "")
        self.asked.append(f"{self.path} {wanted}".strip())
        start = int(wanted[6:-1]) if wanted and self.path != "/whole" else 0
        if start >= len(DATA):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(DATA) - start))
        self.end_headers()
        end = len(DATA) // 2 if self.path == "/cut" and not start else len(DATA)
        self.wfile.write(DATA[start:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """On loopback, where no certificate can be had: http is let through."""
    monkeypatch.setattr(download, "_check_scheme", lambda url: None)
    Handler.asked = []
    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_download_is_there_with_its_checksum(server, tmp_path):
    download.fetch(f"{server}/ranges", DIGEST, tmp_path / "new" / "x.pth")
    assert (tmp_path / "new" / "x.pth").read_bytes() == DATA
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.pth"]


@pytest.mark.parametrize("server_has", ["ranges", "whole"])
def test_a_download_that_broke_off_goes_on(server, tmp_path, server_has):
    path = tmp_path / "x.pth"
    with pytest.raises(OSError, match="broke 1024000 bytes before the end"):
        download.fetch(f"{server}/cut", DIGEST, path)
    assert not path.exists() and (tmp_path / "x.pth.part").stat().st_size == len(DATA) // 2
    download.fetch(f"{server}/{server_has}", DIGEST, path)
    assert path.read_bytes() == DATA
    assert Handler.asked[1] == f"/{server_has} bytes=1024000-"


def test_a_download_that_was_whole_but_not_moved_is_used(server, tmp_path):
    (tmp_path / "x.pth.part").write_bytes(DATA)
    download.fetch(f"{server}/ranges", DIGEST, tmp_path / "x.pth")
    assert (tmp_path / "x.pth").read_bytes() == DATA


def test_another_file_is_refused_and_not_kept(server, tmp_path):
    with pytest.raises(ValueError, match="another checksum"):
        download.fetch(f"{server}/ranges", "0" * 64, tmp_path / "x.pth")
    assert not list(tmp_path.iterdir())


def test_what_is_no_https_is_never_asked(tmp_path):
    for url in ("http://example.org/x", "file:///etc/passwd", "ftp://example.org/x"):
        with pytest.raises(ValueError, match="is not https"):
            download.fetch(url, DIGEST, tmp_path / "x")


def test_tests_cannot_leave_this_machine():
    with socket.socket() as one, pytest.raises(RuntimeError, match="asks the network"):
        one.connect(("192.0.2.1", 80))


def test_importing_everything_opens_no_socket():
    code = """
import importlib, pkgutil, socket
def refused(*_): raise RuntimeError("a socket")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refused
import hsd_jax
for module in pkgutil.walk_packages(hsd_jax.__path__, "hsd_jax."):
    if not module.name.startswith((
        "hsd_jax.beam", "hsd_jax.bench", "hsd_jax.web", "hsd_jax.training"
    )):
        importlib.import_module(module.name)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
