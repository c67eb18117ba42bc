"""What MkDocs does not know: pages that lie elsewhere in the repository, and the help of `hsd`."""

import argparse
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from hsd_jax import cli

ROOT = Path(__file__).parents[1]
ELSEWHERE = ("MODEL_CARD.md", "CONTRIBUTING.md", "launch/README.md", "data/README.md")
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages of other folders under the paths that they have there."""
    for name in ELSEWHERE:
        files.append(File.generated(config, name, content=(ROOT / name).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fills in the help of the commands; links that leave the site become the names of files."""
    path = page.file.src_uri
    folder = ROOT / Path(path).parent if path in ELSEWHERE else ROOT / "docs" / Path(path).parent

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if ":" in target:
            return match[0]
        file = (folder / target).resolve()
        inside = file.relative_to(ROOT).as_posix()
        up = "../" * path.count("/")
        if inside in ELSEWHERE:
            return f"[{text}]({up}{inside}{anchor})"
        if inside.startswith("docs/"):
            return f"[{text}]({up}{inside.removeprefix('docs/')}{anchor})"
        return f"`{inside}`" if file.exists() else match[0]  # what is not there, MkDocs refuses

    return _LINK.sub(link, markdown).replace("<!-- commands -->", commands())


def commands() -> str:
    """The help of every command of `hsd`, as sections."""
    parser = cli.build_parser()
    return "\n\n".join(_help(name, sub) for name, sub in _subparsers(parser))


def _subparsers(parser: argparse.ArgumentParser) -> list[tuple[str, argparse.ArgumentParser]]:
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                inner = [(f"{name} {deeper}", x) for deeper, x in _subparsers(sub)]
                found += [(name, sub), *inner]
    return found


def _help(name: str, parser: argparse.ArgumentParser) -> str:
    level = "#" * (2 + name.count(" "))
    return f"{level} hsd {name}\n\n```text\n{parser.format_help().rstrip()}\n```"
