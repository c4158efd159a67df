"""sentence-transformers on a model in a folder: times what it is told to embed. One JSON object a line, in and out.

Runs in an environment of its own (see `text.py`); everything is timed in here, without a server or a connection.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from sentence_transformers import SentenceTransformer


def main() -> None:
    folder, threads = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(threads)
    model = SentenceTransformer(folder, device="cpu")
    versions = {"torch": torch.__version__, "sentence_transformers": __import__("sentence_transformers").__version__}
    print(json.dumps(versions), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        taken = []
        vectors = None
        for _ in range(asked["calls"]):
            started = time.perf_counter_ns()
            vectors = model.encode(asked["texts"], batch_size=32, show_progress_bar=False)
            taken.append(time.perf_counter_ns() - started)
        answer = {"taken": taken}
        if asked.get("vectors"):
            answer["vectors"] = [[float(value) for value in row] for row in vectors]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
