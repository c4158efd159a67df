"""A cloud as its users meet it: a control plane, an enclave of it, somebody with an account, and their home."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from blindai.client import credentials
from blindai.client.control_plane import ControlPlane
from blindai.client.profile import Profile
from cloud_scene import CloudScene, JoinedEnclave, RunningCloud, Tenant, eventually, free_port


@dataclass(frozen=True)
class ClientCloud:
    """A cloud with one enclave, and the account `acme`.

    Attributes:
        manifest: the policy that accepts its enclaves.
    """

    scene: CloudScene
    running: RunningCloud
    enclave: JoinedEnclave
    acme: Tenant
    manifest: Path

    @property
    def url(self) -> str:
        return self.running.people

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate of the port for people."""
        certificate = x509.load_pem_x509_certificate(self.running.certificate.read_bytes())
        return certificate.fingerprint(hashes.SHA256()).hex()

    def plane(self, token: str | None = None) -> ControlPlane:
        """The control plane, as the SDK calls it."""
        return ControlPlane(self.url, fingerprint=self.fingerprint, token=token)

    def profile(self, **settings: str) -> Profile:
        """What `blindai login` would have stored for `acme`; written to the home of this test."""
        stored = {
            "cloud": self.url,
            "fingerprint": self.fingerprint,
            "account": self.acme.name,
            "policy": str(self.manifest),
        }
        profile = Profile(**stored | settings)
        profile.save()
        return profile


@contextmanager
def client_cloud(folder: Path) -> Iterator[ClientCloud]:
    """Serve one, in threads of this process."""
    port = free_port()
    manifest = folder / "enclaves.toml"
    with (
        CloudScene(folder, url=f"https://localhost:{port}") as scene,
        scene.served(people_port=port) as running,
        running.enclave() as enclave,
    ):
        manifest.write_text(scene.platform.manifest, encoding="utf-8")
        cloud = ClientCloud(scene, running, enclave, scene.tenant("acme"), manifest)
        eventually(lambda: bool(cloud.plane().directory().endpoints))
        yield cloud


def empty_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who has stored nothing, whose system has no keyring, in an empty folder."""
    home, work = folder / "home", folder / "work"
    monkeypatch.delenv("BLINDAI_ADDR", raising=False)
    for variable in ("HOME", "APPDATA", "USERPROFILE"):
        monkeypatch.setenv(variable, str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setattr(credentials, "_system_keyring", lambda: None)
    work.mkdir()
    monkeypatch.chdir(work)
    return home
