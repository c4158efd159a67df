"""Runs one model in tract, the engine of the predecessor, in an environment of its own.

`tract_engine.py MODEL.onnx INPUT.npy ANSWER.npy`: it runs the model once and saves what it answers. Then, for each
number on standard input, it runs it so many times, and prints the nanoseconds of each as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import tract


def main(model: str, given: str, answer: str) -> None:
    values = np.load(Path(given))
    runnable = tract.onnx().load(model).into_model().into_runnable()
    np.save(Path(answer), runnable.run([values])[0].to_numpy())
    print("ready", flush=True)
    for line in sys.stdin:
        taken = []
        for _ in range(int(line)):
            started = time.perf_counter_ns()
            runnable.run([values])
            taken.append(time.perf_counter_ns() - started)
        print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
