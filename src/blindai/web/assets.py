"""The files that pages load: style sheets and scripts, each under an address that names its content.

`/assets/custody.1f2e3d4c5b6a.css` is that file and no other for ever, so that browsers keep it; a new release has new
addresses. All of them are read when the program starts, and nothing else of the disk can be asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from blindai.errors import ConfigurationError

if TYPE_CHECKING:
    from starlette.requests import Request

PREFIX: Final = "/assets/"

OWN: Final = Path(__file__).parent / "static"
VENDOR: Final = OWN / "vendor"

# What `tools/assets.py` puts into `VENDOR`. They are not in the repository, but in every package that is built.
FETCHED: Final = ("htmx.js", "pico.css", "uplot.css", "uplot.js")

_TYPES: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_DIGEST_CHARACTERS: Final = 12

# One year, the longest that RFC 9111 asks caches to honour.
_CACHED: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Asset:
    """One file.

    Attributes:
        address: where pages find it.
        etag: as in RFC 9110, section 8.8.3.
    """

    address: str
    etag: str
    content: bytes
    content_type: str


class Assets:
    """The files of some folders, by name and by address."""

    def __init__(self, assets: Iterable[tuple[str, Asset]]) -> None:
        self._by_name = dict(assets)
        self._by_address = {asset.address: asset for asset in self._by_name.values()}

    @classmethod
    def load(cls, *folders: Path, vendor: Path = VENDOR) -> Assets:
        """Read the style sheets, scripts and pictures of `folders`, of this package and of `vendor`.

        Raises:
            ConfigurationError: `configuration.assets_missing`.
        """
        missing = [name for name in FETCHED if not (vendor / name).is_file()]
        if missing:
            raise ConfigurationError(
                f"the files that the pages load are not there: {', '.join(missing)}",
                code="configuration.assets_missing",
                hint="make assets",
            )
        paths = [path for folder in (vendor, OWN, *folders) for path in sorted(folder.iterdir())]
        return cls((path.name, _read(path)) for path in paths if path.suffix in _TYPES)

    def address(self, name: str) -> str:
        """Where pages find the file `name`.

        Raises:
            KeyError: there is no such file: a page of ours names it wrongly.
        """
        return self._by_name[name].address

    async def serve(self, request: Request) -> Response:
        """Answer a request for an address; unknown ones are 404."""
        asset = self._by_address.get(request.url.path)
        if asset is None:
            raise HTTPException(404)
        headers = {"etag": asset.etag, "cache-control": _CACHED}
        if asset.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(asset.content, media_type=asset.content_type, headers=headers)


def _read(path: Path) -> Asset:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:_DIGEST_CHARACTERS]
    return Asset(f"{PREFIX}{path.stem}.{digest}{path.suffix}", f'"{digest}"', content, _TYPES[path.suffix])
