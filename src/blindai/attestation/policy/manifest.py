"""The text of a manifest: strict, typed reading of TOML in which every refusal names file, line and key.

What the keys mean is the business of `policy`.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from blindai.attestation.evidence import TEE
from blindai.errors import ConfigurationError

# Room for some 500 releases with comments. Anything larger was not written as a manifest.
MAX_MANIFEST_BYTES = 1 << 18

# Where a value stands: keys, and indices of lists; ("code", 0, "mrtd") is the MRTD of the first [[code]].
Path = tuple[str | int, ...]

HEX_DIGITS = frozenset("0123456789abcdef")

T = TypeVar("T")

_KINDS: dict[type, str] = {
    str: "a string in quotes",
    int: "an integer",
    bool: "true or false",
    list: "a list",
    dict: "a table",
    float: "a number with a fraction",
}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a policy came from, so that errors can point at it.

    Attributes:
        source: the file as the caller named it, or a description of what made the policy.
        lines: line of each key and list element, counted from 1; empty where there is no text.
    """

    source: str
    lines: Mapping[Path, int] = field(default_factory=dict, repr=False)

    def line(self, *path: str | int) -> int | None:
        """The line of `path`, or of the closest table around it; None where no line is known."""
        return next((self.lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.lines), None)

    def place(self, *path: str | int) -> str:
        """The place in words: `./manifest.toml, line 4`."""
        line = self.line(*path)
        return self.source if line is None else f"{self.source}, line {line}"

    def error(self, path: Path, code: str, message: str, *, hint: str = "") -> ConfigurationError:
        """The refusal of what stands at `path`, ready to be raised."""
        return ConfigurationError(f"{self.place(*path)}: {message}", code=f"policy.{code}", hint=hint)


class Table:
    """One table of a manifest. Reading a key checks its type; `only` refuses the keys that nobody reads."""

    def __init__(self, data: Mapping[str, Any], origin: Origin, path: Path = ()) -> None:
        self._data = data
        self._origin = origin
        self.path = path

    @classmethod
    def parse(cls, text: str, source: str) -> Self:
        """Parse a whole manifest.

        Raises:
            ConfigurationError: `policy.syntax` or `policy.too_large`.
        """
        here = Origin(source=source)
        if len(text) > MAX_MANIFEST_BYTES:
            raise here.error((), "too_large", f"a manifest has at most {MAX_MANIFEST_BYTES} bytes, this has more")
        try:
            data = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            # Beside its own TOMLDecodeError, tomllib lets out the ValueError of an integer with thousands of digits.
            raise here.error((), "syntax", f"this is not valid TOML: {error}") from error
        return cls(data, Origin(source=source, lines=locate(text)))

    @property
    def origin(self) -> Origin:
        return self._origin

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def only(self, keys: Iterable[str]) -> None:
        """Refuse every key but these.

        Raises:
            ConfigurationError: `policy.unknown_key`, at the first such key.
        """
        allowed = list(keys)
        for key in self._data:
            if key not in allowed:
                where = f" in {self._title()}" if self.path else ""
                raise self.error(key, "unknown_key", f"unknown key {key!r}{where}{choices(key, allowed)}")

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """The value of `key`, which must be of exactly this type (`true` is not an integer).

        Raises:
            ConfigurationError: `policy.missing_key` where there is neither value nor default, `policy.type`.
        """
        if key not in self._data:
            if default is None:
                raise self.error(key, "missing_key", f"{key!r} is missing in {self._title()}")
            return default
        value = self._data[key]
        if type(value) is not kind:
            raise self.error(key, "type", f"{key!r} must be {_KINDS[kind]}, this is {_kind(value)}")
        return value

    def texts(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """A list of strings.

        Raises:
            ConfigurationError: as `get`.
        """
        values: list[object] = self.get(key, list, None if default is None else list(default))
        for index, value in enumerate(values):
            if not isinstance(value, str):
                message = f"{key!r} must be a list of strings, element {index + 1} is {_kind(value)}"
                raise self._origin.error((*self.path, key, index), "type", message)
        return tuple(str(value) for value in values)

    def table(self, key: str) -> Table:
        """The table `[key]`, empty where it is absent.

        Raises:
            ConfigurationError: `policy.type`.
        """
        return Table(self.get(key, dict, {}), self._origin, (*self.path, key))

    def section(self, key: str, keys: Iterable[str]) -> Table:
        """As `table`, refusing every key in it but these.

        Raises:
            ConfigurationError: `policy.type` or `policy.unknown_key`.
        """
        table = self.table(key)
        table.only(keys)
        return table

    def tables(self, key: str) -> Iterator[Table]:
        """The tables `[[key]]`, in order; none where they are absent.

        Raises:
            ConfigurationError: `policy.type`.
        """
        values = self._data.get(key, [])
        if not isinstance(values, list):
            raise self.error(key, "type", f"{key!r} must be written as tables [[{key}]], this is {_kind(values)}")
        for index, value in enumerate(values):
            path = (*self.path, key, index)
            if not isinstance(value, dict):
                message = f"{key!r} must be written as tables [[{key}]], element {index + 1} is {_kind(value)}"
                raise self._origin.error(path, "type", message)
            yield Table(value, self._origin, path)

    def error(self, key: str, code: str, message: str) -> ConfigurationError:
        """The refusal of `key`, ready to be raised."""
        return self._origin.error((*self.path, key), code, message)

    def _title(self) -> str:
        names = [part for part in self.path if isinstance(part, str)]
        if not names:
            return "the manifest"
        return f"[[{'.'.join(names)}]]" if isinstance(self.path[-1], int) else f"[{'.'.join(names)}]"


def require_hex(value: str, sizes: tuple[int, ...], key: str, origin: Origin, path: Path) -> None:
    """Refuse what is not lower-case hex of one of `sizes` bytes.

    Raises:
        ConfigurationError: `policy.hex` or `policy.length`.
    """
    odd = next((character for character in value if character not in HEX_DIGITS), None)
    if odd is not None:
        raise origin.error(path, "hex", f"{key!r} must be hex digits, it contains {odd!r}")
    if len(value) not in {2 * size for size in sizes}:
        wanted = " or ".join(f"{2 * size} ({size} bytes)" for size in sizes)
        raise origin.error(path, "length", f"{key!r} must have {wanted} hex digits, it has {len(value)}")


def require_range(value: int, maximum: int, key: str, origin: Origin, path: Path) -> None:
    """Refuse a number outside 0 .. `maximum`.

    Raises:
        ConfigurationError: `policy.range`.
    """
    if not 0 <= value <= maximum:
        raise origin.error(path, "range", f"{key!r} must be from 0 to {maximum}, it is {value}")


def require_known(given: Iterable[str], known: Iterable[str], noun: str, origin: Origin, path: Path) -> None:
    """Refuse names in the list at `path` that are none of `known`.

    Raises:
        ConfigurationError: `policy.unknown_value`.
    """
    names = tuple(known)
    for index, value in enumerate(given):
        if value not in names:
            raise origin.error((*path, index), "unknown_value", f"unknown {noun} {value!r}{choices(value, names)}")


def read_tee(name: str, origin: Origin, path: Path) -> TEE:
    """The TEE of this name.

    Raises:
        ConfigurationError: `policy.unknown_value`.
    """
    try:
        return TEE(name)
    except ValueError as error:
        raise origin.error(path, "unknown_value", f"unknown TEE {name!r}{choices(name, TEE)}") from error


def choices(given: str, allowed: Iterable[str]) -> str:
    """The end of a sentence that refuses `given`: what was probably meant, and what is allowed."""
    names = [str(name) for name in allowed]
    close = difflib.get_close_matches(given, names, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"; {meant}allowed: {', '.join(names)}"


def locate(text: str) -> dict[Path, int]:
    """The line of every key and list element in a valid TOML text, counted from 1.

    tomllib keeps no positions. But each statement of TOML (a header, or a key with its value) ends with a line, and
    none is complete at an earlier end of line: so statements are the shortest runs of lines that parse alone.
    """
    lines: dict[Path, int] = {}
    table: Path = ()
    tables: dict[Path, int] = {}  # index of the latest element of each [[array of tables]]
    run: list[str] = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        run.append(line)
        statement = _statement(run)
        if statement is None:
            continue
        start = number - len(run) + 1
        if run[0].lstrip().startswith("["):
            table = _header(statement, tables)
            for end in range(1, len(table) + 1):
                lines.setdefault(table[:end], start)
        else:
            _record(statement, table, lines, run, start)
        run = []
    return lines


def _statement(run: list[str]) -> dict[str, Any] | None:
    # A value that spans lines can only end where one of these closes it; asking first keeps long lists linear.
    if len(run) > 1 and not any(mark in run[-1] for mark in ("]", "}", '"""', "'''")):
        return None
    try:
        return tomllib.loads("\n".join(run))
    except tomllib.TOMLDecodeError:
        return None


def _header(statement: Mapping[str, Any], tables: dict[Path, int]) -> Path:
    """The full path that the header `[a.b]` or `[[a.b]]`, parsed alone, opens; counts arrays in `tables`."""
    path: Path = ()
    node: Any = statement
    while node:
        ((key, node),) = node.items()
        path = (*path, key)
        if isinstance(node, list):
            tables[path] = tables.get(path, -1) + 1
            node = None
        if path in tables:
            path = (*path, tables[path])
    return path


def _record(value: object, path: Path, lines: dict[Path, int], run: list[str], start: int) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            lines.setdefault((*path, key), start)
            _record(item, (*path, key), lines, run, start)
    elif isinstance(value, list):
        offset = 0
        for index, item in enumerate(value):
            if isinstance(item, str):
                # An element that is written with escapes is not found, and stays with the line before it.
                offset = next((at for at in range(offset, len(run)) if _shows(run[at], item)), offset)
            lines.setdefault((*path, index), start + offset)
            _record(item, (*path, index), lines, run, start)


def _shows(line: str, item: str) -> bool:
    return item in (line if "#" in item else line.partition("#")[0])


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a date or time")
