"""`hsd web`: its arguments."""

import argparse
from typing import Any

_LOOPBACK = "127.0.0.1"
PORTS = range(7860, 7960)
"""The first free one is taken where none is asked for."""


def add_web(subparsers: Any) -> None:
    """Adds `hsd web` to the commands."""
    web = subparsers.add_parser(
        "web",
        help="a page to swap heads on, in a browser",
        description="Serve a page on which two photos become one, and its API; until Ctrl-C. "
        "Nobody but this machine reaches it unless --host says so. Photos and results lie in a "
        "temporary folder for an hour, or until the page ends. Needs the extra hsd-jax[web].",
        allow_abbrev=False,
    )
    web.add_argument(
        "--weights", default="embedded", metavar="NAME|DIR", help="default: %(default)s"
    )
    web.add_argument(
        "--host",
        default=_LOOPBACK,
        help="address to serve on (default: %(default)s, this machine alone; 0.0.0.0 is everyone "
        "who reaches it)",
    )
    web.add_argument(
        "--port", type=_port, metavar="N", help=f"default: the first free one from {PORTS[0]}"
    )
    web.add_argument(
        "--auth", type=_account, metavar="USER:PASSWORD", help="who may use the page"
    )
    web.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    try:
        from hsd_jax.web.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "gradio":
            raise
        raise ValueError("the page needs an extra: pip install 'hsd-jax[web]'") from None
    serve(args.weights, args.host, args.port, args.auth)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**16:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 1 to 65535")
    return int(text)


def _account(text: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise argparse.ArgumentTypeError("give USER:PASSWORD, neither of them empty")
    return user, password
