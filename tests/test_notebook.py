"""The notebook runs from top to bottom, and is committed without what it showed."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

PATH = Path(__file__).parents[1] / "notebooks/swap.ipynb"


def run(source: str, names: dict[str, Any]) -> Any:
    """Runs a cell; returns the value of the expression at its end, which a notebook shows."""
    *body, last = ast.parse(source).body
    assert isinstance(last, ast.Expr)
    exec(compile(ast.Module(body, []), PATH.name, "exec"), names)
    return eval(compile(ast.Expression(last.value), PATH.name, "eval"), names)


@pytest.mark.slow
def test_the_notebook_runs_and_holds_no_outputs():
    cells = json.loads(PATH.read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 4 and not any(cell["outputs"] for cell in code)
    names: dict[str, Any] = {}
    shown = [run("".join(cell["source"]), names) for cell in code]
    assert all(isinstance(image, Image.Image) for image in shown)
    with Image.open(names["body"]) as body:
        assert shown[0].size == body.size
