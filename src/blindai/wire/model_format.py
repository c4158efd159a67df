"""Files that are often taken for ONNX models, recognised by how they begin, and what to do with each."""

from __future__ import annotations

from typing import Final, NamedTuple

HEAD_BYTES: Final = 512
"""How much of a file's beginning `foreign_format` looks at."""

_EXPORT: Final = "export it to ONNX: torch.onnx.export for PyTorch, tf2onnx for TensorFlow, skl2onnx for scikit-learn"


class ForeignFormat(NamedTuple):
    """A format that is not ONNX.

    Attributes:
        what: the kind of file, with its article.
        hint: how to come by an ONNX file.
    """

    what: str
    hint: str


_FORMATS: Final[tuple[tuple[int, bytes, ForeignFormat], ...]] = tuple(
    (offset, magic, ForeignFormat(what, hint))
    for offset, magic, what, hint in (
        (0, b"\x80\x02", "a Python pickle, such as older PyTorch writes", _EXPORT),
        (0, b"\x80\x03", "a Python pickle", _EXPORT),
        (0, b"\x80\x04", "a Python pickle", _EXPORT),
        (0, b"\x80\x05", "a Python pickle", _EXPORT),
        (0, b"PK\x03\x04", "a zip archive, such as PyTorch and Keras write", _EXPORT),
        (0, b"PK\x05\x06", "an empty zip archive", _EXPORT),
        (0, b"\x1f\x8b", "a gzip archive", "unpack it"),
        (257, b"ustar", "a tar archive", "unpack it; a model's data files are bundled when they lie beside it"),
        (0, b"GGUF", "a GGUF file, as llama.cpp reads", "export the original model to ONNX"),
        # Its header's length, below 2**40, in 8 bytes and the beginning of that header.
        (5, b'\0\0\0{"', "a safetensors file, which holds weights but no model", _EXPORT),
        (0, b"\x89HDF", "an HDF5 file, such as older Keras writes", _EXPORT),
        (0, b"\x93NUMPY", "a NumPy array", _EXPORT),
        (4, b"TFL3", "a TensorFlow Lite model", _EXPORT),
        (4, b"ORTM", "a model in ONNX Runtime's own format (.ort)", "give the ONNX file that it was made from"),
        (0, b"version https://git-lfs", "a Git LFS pointer, not the file it stands for", "fetch it: git lfs pull"),
        (0, b"<", "an XML or HTML text (OpenVINO, PMML, or a web page)", "look at what was downloaded"),
    )
)


def foreign_format(head: bytes) -> ForeignFormat | None:
    """What a file is that begins with `head` (`HEAD_BYTES` of it) if it is known not to be ONNX, else None."""
    for offset, magic, known in _FORMATS:
        if head[offset : offset + len(magic)] == magic:
            return known
    return None
