"""Serves the page: where, to whom, and within which limits."""

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Before Gradio is imported: it asks its makers for news, and tells them of its use, unless told.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402

from hsd_jax.imaging.demo import find_photos  # noqa: E402
from hsd_jax.swap import HeadSwapper  # noqa: E402
from hsd_jax.web import page  # noqa: E402
from hsd_jax.web.desk import Desk  # noqa: E402
from hsd_jax.web.limits import MAX_UPLOAD, FairQueue, Limits, is_loopback  # noqa: E402

_UPLOADS = "GRADIO_TEMP_DIR"


def serve(weights: str, host: str, port: int | None, auth: tuple[str, str] | None) -> None:
    """Serves the page until it is interrupted.

    Args:
      weights: a shipped name, or a folder.
      host: the address to listen on.
      port: None for the first free one from 7860.
      auth: name and password of who may use it; None for everyone who reaches it.

    Raises:
      ValueError: no such weights; the address or the port cannot be had.
    """
    if not is_loopback(host):
        print(_warning(host, auth is not None), file=sys.stderr, flush=True)
    swapper = HeadSwapper.from_pretrained(weights)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: files go
    try:
        with running(swapper, host, port, auth) as url:
            print(f"The page is at {url} (Ctrl-C ends it)", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        pass


@contextmanager
def running(
    swapper: HeadSwapper,
    host: str = "127.0.0.1",
    port: int | None = None,
    auth: tuple[str, str] | None = None,
) -> Iterator[str]:
    """The page, served in threads of this process while the block runs; its address.

    All files that come of it lie in one temporary folder, which is removed at the end. Arguments
    and errors as of `serve`.
    """
    with tempfile.TemporaryDirectory(prefix="hsd-web-", ignore_cleanup_errors=True) as folder:
        uploads = Path(folder, "uploads")
        before = os.environ.get(_UPLOADS)
        os.environ[_UPLOADS] = str(uploads)  # read at every request
        queue = FairQueue()
        blocks = page.build(Desk(swapper, uploads / "results"), queue, _example(Path(folder)))
        limits = Middleware(Limits, folder=uploads, queue=queue)
        try:
            yield _launched(blocks, limits, host, port, auth)
        finally:
            blocks.close(verbose=False)
            del os.environ[_UPLOADS]
            if before is not None:
                os.environ[_UPLOADS] = before


def _example(folder: Path) -> tuple[Path, Path] | None:
    """Copies of the demo's photos; None where the extra `demo` is not installed."""
    try:
        head, body = find_photos()
    except ValueError:
        return None
    return Path(shutil.copy(head, folder)), Path(shutil.copy(body, folder))


def _launched(
    blocks: gr.Blocks,
    limits: Middleware,
    host: str,
    port: int | None,
    auth: tuple[str, str] | None,
) -> str:
    # Gradio asks itself whether it is there, and must not do so through a proxy.
    os.environ["NO_PROXY"] = ",".join(filter(None, [os.environ.get("NO_PROXY"), "localhost", host]))
    try:
        _, url, _ = blocks.launch(
            server_name=host, server_port=port, auth=auth, quiet=True, prevent_thread_lock=True,
            max_file_size=MAX_UPLOAD, share=False, inbrowser=False, ssr_mode=False, pwa=False,
            mcp_server=False, enable_monitoring=False, run_history=False, footer_links=["api"],
            state_session_capacity=1000, strict_cors=True, theme=page.theme(), css=page.CSS,
            app_kwargs={"middleware": [limits]},
        )  # fmt: skip
    except OSError as error:
        where = host if port is None else f"{host}, port {port}"
        raise ValueError(f"no page on {where}: is it taken? Give another --port") from error
    return url


def _warning(host: str, has_auth: bool) -> str:
    who = "who has the password" if has_auth else "who reaches this machine, without a password"
    advice = "" if has_auth else " Give --auth USER:PASSWORD."
    return (
        f"warning: on {host} everyone {who} can swap heads here, and nothing is encrypted: put a "
        f"server with TLS in front of it.{advice}"
    )
