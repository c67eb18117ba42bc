"""The end of a command: a status, and one line."""

import pytest

from hsd_jax.runtime.console import status_of


def failing(error: Exception):
    def run() -> None:
        raise error

    return run


def test_all_is_well(capsys: pytest.CaptureFixture[str]):
    assert status_of("a.b", lambda: print("done")) == 0
    assert capsys.readouterr() == ("done\n", "")


@pytest.mark.parametrize(
    "error, line",
    [
        (ValueError("x is 3: use 4\nand more"), "x is 3: use 4 and more"),
        (ValueError(""), "ValueError"),
        (FileNotFoundError(2, "No such file", "p.csv"), "[Errno 2] No such file: 'p.csv'"),
        (ModuleNotFoundError("no cv2", name="cv2"), "cv2 is missing: pip install 'hsd-jax[eval]'"),
    ],
)
def test_what_is_wrong_is_one_line(error: Exception, line: str, capsys: pytest.CaptureFixture[str]):
    assert status_of("a.b", failing(error), extras="eval") == 2
    assert capsys.readouterr() == ("", f"a.b: error: {line}\n")


def test_a_bug_stays_a_bug():
    for error in (KeyError("x"), ModuleNotFoundError("no cv2", name="cv2")):
        with pytest.raises(type(error)):
            status_of("a.b", failing(error))
