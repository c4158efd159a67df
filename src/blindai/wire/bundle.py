"""What both ends agree on about a model that comes with external data files: a tar of plain files.

The model is the member `MODEL_FILE`; the others have the names, relative to it, under which the model refers to them
(onnx.proto3, `TensorProto.external_data`, key `location`). Only what POSIX.1-1988 (ustar) can say of a regular file is
used, plus GNU's base-256 numbers for files of 8 GiB and more: no links, no folders, no extended headers.
"""

from __future__ import annotations

from typing import Final

MODEL_FILE: Final = "model.onnx"

BUNDLE_TYPE: Final = "application/x-tar"
"""Content type of a bundle."""

ONNX_TYPE: Final = "application/onnx"
"""Content type of a model that is one file."""

MAX_BUNDLE_FILES: Final = 4096
"""Members of one bundle. Some exporters write one file for each tensor: a few hundred in practice."""


def is_plain_name(name: str) -> bool:
    """Whether a file's name is relative, stays inside its folder and reads the same on every system."""
    parts = name.split("/")
    return name.isprintable() and "\\" not in name and ":" not in name and not {"", ".", ".."} & set(parts)
