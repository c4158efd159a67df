"""`blindai cloud serve` as users start it: in a process of its own, which can be killed or suspended."""

from __future__ import annotations

from pathlib import Path

from custodian_processes import ServerProcess


class CloudProcess(ServerProcess):
    """A control plane.

    Args:
        folder: its data.
        database_url: where it is not a file in there. It may hold a password.
        enclave_port, port: 0 takes free ones.
        arguments: more options; without `--policy` among them, the simulated platform of this installation may join.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str | None = None,
        *,
        enclave_port: int = 0,
        port: int = 0,
        log: Path | None = None,
        arguments: tuple[str | Path, ...] = (),
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        options: list[str | Path] = ["--data", folder]
        if database_url is not None:
            address = folder / "database-url"
            address.write_text(database_url, encoding="utf-8")
            address.chmod(0o600)
            options += ["--database-file", address]
        if "--policy" not in arguments:
            options.append("--simulation")
        super().__init__(
            "cloud",
            "serve",
            *options,
            "--enclave-port",
            str(enclave_port),
            "--port",
            str(port),
            "--debug",
            *arguments,
            log=log or folder / "serve.log",
        )

    @property
    def enclaves(self) -> str:
        """Where enclaves call: `host:port`."""
        return str(self.said["enclaves"])

    @property
    def people(self) -> str:
        """Where people look: an https URL, of the name in the certificate."""
        return f"https://localhost:{self.said['people'].rpartition(':')[2]}"

    @property
    def public_key(self) -> str:
        return str(self.said["public_key"])

    @property
    def certificate(self) -> Path:
        """Of the port for people, in PEM; its key is in there, too."""
        return self.folder / "tls" / "pages.pem"

    def config(self, endpoint: str) -> str:
        """The table [cloud] of an enclave's configuration, in TOML."""
        table: str = self.said["enclave_config"]
        return "\n".join(
            f'endpoint = "{endpoint}"' if line.startswith("endpoint") else line for line in table.splitlines()
        )
