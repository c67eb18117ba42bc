"""Downloads of known files: over TLS, by checksum, resumed where they were cut."""

import hashlib
import urllib.error
import urllib.request
from pathlib import Path

_TIMEOUT = 30  # seconds without an answer
_CHUNK = 2**20
_LARGEST = 2**30  # bytes; nothing that is downloaded is larger


def fetch(url: str, sha256: str, path: Path) -> None:
    """Downloads a file; `path` is there complete, with this checksum, or not at all.

    What was received before a connection broke is kept beside `path` as NAME.part, and the next
    call asks for the rest.

    Raises:
      ValueError: the URL or where it leads is not https, or the file has another checksum.
      OSError: no network, or the file cannot be written.
    """
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    _append(url, part)
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        part.unlink()
        raise ValueError(f"{url} has another checksum than {sha256}: it is not used")
    part.replace(path)


def _append(url: str, part: Path) -> None:
    """Adds to `part` what it lacks; all of it where the server has no ranges."""
    _check_scheme(url)
    have = part.stat().st_size if part.is_file() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        answer = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT
        )
    except urllib.error.HTTPError as error:
        if error.code == 416:  # there is no more: the checksum tells whether that is all
            return
        raise
    with answer, part.open("ab" if answer.status == 206 else "wb") as file:
        _check_scheme(answer.geturl())
        while chunk := answer.read(_CHUNK):
            file.write(chunk)
            if file.tell() > _LARGEST:
                raise ValueError(f"{url} sends more than {_LARGEST} bytes")
        if answer.length:
            raise OSError(f"the connection broke {answer.length} bytes before the end: try again")


def _check_scheme(url: str) -> None:
    if not url.startswith("https://"):
        raise ValueError(f"{url} is not https: not downloaded")
