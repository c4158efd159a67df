from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.enclave.models.bundle import Bundle
from blindai.errors import InvalidModel, QuotaExceeded
from blindai.wire.bundle import MAX_BUNDLE_FILES, is_plain_name


def archive(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, form: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.type = kind
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def read(data: bytes, step: int = 10**9) -> tuple[bytes, dict[str, bytes]]:
    bundle = Bundle()
    for start in range(0, len(data), step):
        bundle.write(data[start : start + step])
    return bundle.files()


def refused(data: bytes) -> str:
    with pytest.raises(InvalidModel) as caught:
        read(data)
    assert caught.value.code == "model.bundle"
    return caught.value.message


@given(
    st.binary(max_size=2000),
    st.dictionaries(st.from_regex(r"\A[a-z]{1,8}(/[a-z]{1,8})?\.bin\Z"), st.binary(max_size=1500), max_size=4),
    st.sampled_from([1, 7, 511, 512, 513, 10**6]),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_the_files_come_out_however_the_stream_is_cut(
    model: bytes, others: dict[str, bytes], step: int, form: int
) -> None:
    data = archive(*others.items(), ("model.onnx", model), form=form)
    assert read(data, step) == (model, others)


def test_files_added_by_the_standard_library_come_out(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"m")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(tmp_path / "model.onnx", "model.onnx")
    assert b"mtime=" in buffer.getvalue()  # a pax header came with it
    assert read(buffer.getvalue()) == (b"m", {})


@pytest.mark.parametrize(
    "name", ["/etc/x", "../x", "a/../b", "./x", "a//b", "a\\b", "C:x", "a\nb", "..", "a/./b", "a\u202eb"]
)
def test_names_that_lead_elsewhere(name: str) -> None:
    assert "plain relative name" in refused(archive(("model.onnx", b"m"), (name, b"x")))


def test_a_name_with_nul() -> None:
    # In the tar header a NUL ends the name, so that nothing after it can take effect.
    data = bytearray(archive(("model.onnx", b"m"), ("abc", b"x")))
    at = data.index(b"abc")
    data[at + 1] = 0
    assert "damaged" in refused(bytes(data))  # the checksum covers the name


def test_a_name_that_comes_twice() -> None:
    assert "twice" in refused(archive(("model.onnx", b"m"), ("model.onnx", b"n")))


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.DIRTYPE,
        tarfile.CHRTYPE,
        tarfile.FIFOTYPE,
        tarfile.GNUTYPE_SPARSE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.CONTTYPE,
    ],
)
def test_anything_but_plain_files(kind: bytes) -> None:
    assert "plain file" in refused(archive(("model.onnx", b""), ("x", b""), kind=kind))


def test_an_extended_header_that_renames() -> None:
    long_name = "d" * 120 + "/" + "f" * 120
    assert "another name" in refused(archive(("model.onnx", b"m"), (long_name, b"x"), form=tarfile.PAX_FORMAT))


def test_an_extended_header_that_is_too_long() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("model.onnx")
        info.pax_headers = {"comment": "x" * 20_000}
        tar.addfile(info)
    assert "too long" in refused(buffer.getvalue())


@pytest.mark.parametrize("keep", [0, 1, 511, 512, 513, 600, 1024, 1536])
def test_a_stream_that_ends_early(keep: int) -> None:
    assert "too early" in refused(archive(("model.onnx", b"m" * 100))[:keep])


def test_data_after_the_end() -> None:
    first = archive(("model.onnx", b"m"))
    assert "data follows" in refused(first + archive(("other", b"x")))


def test_no_model() -> None:
    assert "no file model.onnx" in refused(archive(("weights.bin", b"x")))


@pytest.mark.parametrize("data", [b"\x08\x0a" * 1000, b"PK\x03\x04" * 300, b"\xff" * 2048])
def test_no_tar_at_all(data: bytes) -> None:
    refused(data)


def test_a_damaged_header() -> None:
    data = bytearray(archive(("model.onnx", b"m")))
    data[3] ^= 1
    assert "damaged" in refused(bytes(data))


def test_a_negative_size() -> None:
    info = tarfile.TarInfo("model.onnx")
    info.size = -512
    assert "negative" in refused(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


def test_too_many_files() -> None:
    with pytest.raises(QuotaExceeded) as caught:
        read(archive(*((f"f{n}", b"") for n in range(MAX_BUNDLE_FILES + 1))))
    assert caught.value.code == "quota.model_size"


def names_in(data: bytes) -> list[str]:
    """The names a stream yields; none where it is refused as it should be."""
    try:
        model, others = read(data, 700)
    except (InvalidModel, QuotaExceeded) as error:
        return {"model.bundle": [], "quota.model_size": []}[error.code]
    assert isinstance(model, bytes)
    return list(others)


@given(st.binary(max_size=3000))
def test_no_stream_breaks_the_parser(data: bytes) -> None:
    assert names_in(data) == []


@given(st.integers(0, 2559), st.integers(0, 7))
def test_no_flipped_bit_smuggles_a_name(position: int, bit: int) -> None:
    data = bytearray(archive(("model.onnx", b"m" * 20), ("w/a.bin", b"a" * 30)))
    data[position % len(data)] ^= 1 << bit
    assert all(map(is_plain_name, names_in(bytes(data))))
