"""The command that asks a foreign recogniser whose face a swap shows."""

import importlib.util

import numpy as np
import pytest

from hsd_jax import cli
from hsd_jax.evaluation import identity
from hsd_jax.imaging.demo import find_photos


def test_the_demo_shows_the_person_of_the_head(capsys: pytest.CaptureFixture[str]):
    if importlib.util.find_spec("dlib") is None:
        pytest.skip("needs dlib-bin and face_recognition_models")
    assert cli.main(["eval", "identity", *map(str, find_photos())]) == 0
    assert "1 of 1 results show the head's person" in capsys.readouterr().out


def test_without_the_recogniser_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["eval", "identity", "a.jpg", "b.jpg"]) == 2
    assert "pip install dlib-bin face_recognition_models" in capsys.readouterr().err


def test_an_odd_photo_is_refused(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["eval", "identity", "a.jpg"]) == 2
    assert "1 photos: give pairs" in capsys.readouterr().err


def test_cosine():
    a = np.array([3.0, 4.0])
    assert identity.cosine(a, 2 * a) == pytest.approx(1)
    assert identity.cosine(a, np.array([-4.0, 3.0])) == pytest.approx(0)
