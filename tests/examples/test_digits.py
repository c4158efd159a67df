"""The example of handwritten digits: what it writes, and that it recognises them."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "digits" / "export.py"

# The file that the playground's page tells people to upload is small enough to send anywhere.
MAX_BYTES = 12_000


def test_the_script_writes_a_model_that_recognises_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("digits_export", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, script)  # dataclasses look their module up
    spec.loader.exec_module(script)
    path = tmp_path / "digits.onnx"
    monkeypatch.setattr("sys.argv", [str(SCRIPT), "--out", str(path)])
    script.main()

    told = re.search(r"([\d,]+) bytes, (\d+) of (\d+) held-out", said := capsys.readouterr().out)
    assert told is not None, said
    assert int(told[1].replace(",", "")) == path.stat().st_size < MAX_BYTES
    assert int(told[2]) / int(told[3]) > 0.95

    graph = onnx.load(path).graph
    assert [one.name for one in graph.input] == ["image"]
    assert [one.name for one in graph.output] == ["scores"]
    # A batch of none, and of several: the scores of each image add up to 1.
    blank = script.scores(path.read_bytes(), np.zeros((3, 64)))
    assert blank.shape == (3, 10)
    np.testing.assert_allclose(blank.sum(axis=1), 1, atol=1e-5)
