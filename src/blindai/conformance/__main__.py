"""`python -m blindai.conformance [--batch]`: requests on standard input, answers on standard output.

Without an option the whole input is one request. With `--batch` each line is one, and its answer is one line; the
program then ends with the highest of the exit codes that the lines would have had alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from blindai.conformance.judgement import Exit, answer
from blindai.conformance.request import MAX_REQUEST_BYTES

USAGE = "usage: python -m blindai.conformance [--batch] < requests > answers"


def main(arguments: Sequence[str], source: BinaryIO) -> Exit:
    """Answer what stands in `source`; returns how the program should end."""
    if list(arguments) not in ([], ["--batch"]):
        print(USAGE, file=sys.stderr)
        return Exit.MALFORMED
    worst = Exit.ACCEPT
    for data in _lines(source) if arguments else [source.read(MAX_REQUEST_BYTES + 1)]:
        code, said = answer(data)
        _print(said)
        worst = max(worst, code)
    return worst


def _lines(source: BinaryIO) -> Iterator[bytes]:
    while line := source.readline(MAX_REQUEST_BYTES + 1):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = source.readline(MAX_REQUEST_BYTES)  # of a line that is refused for its length
        if data := line.rstrip(b"\r\n"):
            yield data


def _print(said: dict[str, Any]) -> None:
    # ASCII alone: what a stranger wrote into a certificate may be no valid text.
    print(json.dumps(said, ensure_ascii=True, separators=(",", ":")), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], sys.stdin.buffer))
