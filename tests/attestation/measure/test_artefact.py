"""Files that cannot be measured because they cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from blindai.attestation.measure.artefact import read_artefact
from blindai.errors import ConfigurationError


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1234")
    assert read_artefact(tmp_path / "a", 4) == b"1234"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("a", "measure.too_large"),
        ("b", "measure.unreadable"),
        (".", "measure.unreadable"),
        ("\0", "measure.unreadable"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, code: str) -> None:
    (tmp_path / "a").write_bytes(b"1234")
    with pytest.raises(ConfigurationError) as refused:
        read_artefact(tmp_path / name, 3)
    assert refused.value.code == code
