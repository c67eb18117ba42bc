"""The documentation: what it tells to type is understood by the programs."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from hsd_jax import cli

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for pattern in ("*.md", "docs/*.md", "*/README.md")
    for path in sorted(ROOT.glob(pattern))
}
BLOCK = re.compile(r"^```\w*\n(.*?)^```|(?<=\n\n)((?: {4}.*\n|\n(?= {4}))+)", re.M | re.S)
INLINE = re.compile(r"`(hsd [^`]+)`")
STAND_INS = {"N": "2", "K": "2", "S": "dpmpp"}
HOLE = re.compile(r"[\[\]…|<>]|\.\.\.")  # of what is no command but the form of one


def lines(page: str) -> list[str]:
    """The lines of a page's blocks of code, joined where they go on."""
    text = "\n".join(fenced or indented for fenced, indented in BLOCK.findall(page))
    found = text.replace("\\\n", " ").splitlines()
    return [" ".join(line.split(" #")[0].split()) for line in found]


def commands(page: str) -> list[str]:
    """The lines that start `hsd`."""
    found = [line.removeprefix(".venv/bin/") for line in lines(page)]
    return [line for line in found if line.startswith("hsd ") and not HOLE.search(line)]


def refusal(command: str) -> str:
    """What `hsd` says of a command's arguments; nothing if it takes them."""
    words = [STAND_INS.get(word, word) for word in shlex.split(command)[1:]]
    try:
        cli.build_parser().parse_args(words)
    except ValueError as error:
        return str(error)
    except SystemExit:  # --help and --version say what they have to, and end
        pass
    return ""


def test_commands_are_found_and_refused():
    page = "```sh\n.venv/bin/hsd swap a.jpg \\\n  b.jpg -o c.png   # why\n```\nor\n\n"
    page += "    hsd info --json\n\n    hsd parse ... -o x\n\nand `hsd swap --fast`.\n"
    assert commands(page) == ["hsd swap a.jpg b.jpg -o c.png", "hsd info --json"]
    assert sum(len(commands(page)) for page in PAGES.values()) > 20
    assert "--fast" in refusal("hsd swap a b -o c.png --fast")


@pytest.mark.parametrize("page", PAGES)
def test_hsd_takes_the_commands_of_a_page(page):
    refused = {command: refusal(command) for command in commands(PAGES[page])}
    assert not {command: why for command, why in refused.items() if why}
    # In a sentence, a command may be without what it needs, but not with what it does not know.
    for mention in INLINE.findall(PAGES[page]):
        if not HOLE.search(mention):
            why = refusal(" ".join(mention.split()))
            assert not why or "are required" in why or "expected" in why, f"{mention}: {why}"


@pytest.mark.parametrize("page", PAGES)
def test_configs_and_their_keys_are_there(page):
    for line in lines(PAGES[page]):
        if not (named := re.search(r"--config configs/(\w+)\.py(?::(\w+))?", line)):
            continue
        module = importlib.import_module(f"configs.{named[1]}")
        config = module.get_config(*filter(None, [named[2]]))
        for key in re.findall(r"--config\.([\w.]+)=", line):
            value = config
            for part in key.split("."):
                assert part in value, f"{line}: the config has no {key}"
                value = value[part]


@pytest.mark.parametrize("page", PAGES)
def test_modules_that_are_started_are_there(page):
    for line in lines(PAGES[page]):
        for module in re.findall(r"-m ((?:hsd_jax|data)[\w.]*)", line):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), line
