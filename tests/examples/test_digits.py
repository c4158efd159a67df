"""The example of handwritten digits: what it writes, and that it recognises them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from example_scripts import example

# The file that the playground's page tells people to upload is small enough to send anywhere.
MAX_BYTES = 12_000


def test_the_script_writes_a_model_that_recognises_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "digits.onnx"
    monkeypatch.setattr("sys.argv", ["export.py", "--out", str(path)])
    with example("digits/export.py") as script:
        script.main()
        # A batch of several: the scores of each image add up to 1.
        blank = script.scores(path.read_bytes(), np.zeros((3, 64)))

    told = re.search(r"([\d,]+) bytes, (\d+) of (\d+) held-out", said := capsys.readouterr().out)
    assert told is not None, said
    assert int(told[1].replace(",", "")) == path.stat().st_size < MAX_BYTES
    assert int(told[2]) / int(told[3]) > 0.95

    graph = onnx.load(path).graph
    assert [one.name for one in graph.input] == ["image"]
    assert [one.name for one in graph.output] == ["scores"]
    assert blank.shape == (3, 10)
    np.testing.assert_allclose(blank.sum(axis=1), 1, atol=1e-5)
