"""Where the proxy may listen."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from blindai.client.proxy import address
from blindai.client.proxy.address import LoopbackAddress, UnixAddress
from blindai.errors import ConfigurationError


class TestLoopback:
    @pytest.mark.parametrize(
        ("text", "host", "url"),
        [
            ("127.0.0.1:8080", "127.0.0.1", "http://127.0.0.1:8080"),
            ("127.9.9.9:8080", "127.9.9.9", "http://127.9.9.9:8080"),
            ("localhost:8080", "127.0.0.1", "http://127.0.0.1:8080"),
            ("[::1]:8080", "::1", "http://[::1]:8080"),
        ],
    )
    def test_taken(self, text: str, host: str, url: str) -> None:
        address = LoopbackAddress.parse(text)
        assert (address.host, address.port, address.url) == (host, 8080, url)

    @pytest.mark.parametrize(
        "text",
        [
            "0.0.0.0:8080",
            "[::]:8080",
            "192.168.1.2:8080",
            "[fe80::1]:8080",
            "[::ffff:127.0.0.1]:8080",
            "example.com:8080",
            "localhost.example.com:8080",
            "127.1:8080",
            "2130706433:8080",
            "127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:65536",
            ":8080",
            "8080",
            "",
            "::1:8080",
        ],
    )
    def test_refused(self, text: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            LoopbackAddress.parse(text)
        assert caught.value.code == "proxy.address"

    def test_a_free_port(self) -> None:
        with LoopbackAddress("127.0.0.1", 0).listening() as (listener, address):
            assert address.port == listener.getsockname()[1] > 0

    def test_no_answer_waits_for_an_acknowledgement(self) -> None:
        with LoopbackAddress("127.0.0.1", 0).listening() as (listener, address):
            listener.settimeout(10)
            with socket.create_connection((address.host, address.port)), listener.accept()[0] as accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    def test_one_that_is_taken(self) -> None:
        with LoopbackAddress("127.0.0.1", 0).listening() as (_, taken):
            with pytest.raises(ConfigurationError) as caught, taken.listening():
                pass
            assert caught.value.code == "proxy.address"


class TestUnix:
    def test_only_its_owner_can_open_it_and_it_is_gone_afterwards(self, tmp_path: Path) -> None:
        path = tmp_path / "proxy"
        before = os.umask(0)
        try:
            with UnixAddress(path).listening():
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                assert os.umask(0) == 0
        finally:
            os.umask(before)
        assert not path.exists()

    def test_one_that_was_left_behind_is_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "proxy"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as abandoned:
            abandoned.bind(str(path))
        with UnixAddress(path).listening():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_one_that_is_in_use_stays(self, tmp_path: Path) -> None:
        path = tmp_path / "proxy"
        with UnixAddress(path).listening():
            with pytest.raises(ConfigurationError) as caught, UnixAddress(path).listening():
                pass
            assert caught.value.code == "proxy.address"
            assert path.exists()

    def test_a_file_stays(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_text("mine")
        with pytest.raises(ConfigurationError) as caught, UnixAddress(path).listening():
            pass
        assert caught.value.code == "proxy.address"
        assert path.read_text() == "mine"

    def test_a_folder_that_others_may_write_to(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o777)
        with pytest.raises(ConfigurationError) as caught, UnixAddress(tmp_path / "proxy").listening():
            pass
        assert caught.value.code == "proxy.address"
        tmp_path.chmod(0o1777)
        with UnixAddress(tmp_path / "proxy").listening():
            pass

    def test_a_folder_of_somebody_else(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its owner may rename what is in it, whatever its mode."""
        tmp_path.chmod(0o755)
        owner = tmp_path.stat().st_uid
        monkeypatch.setattr(address, "_ADMINISTRATOR", owner + 1)
        with UnixAddress(tmp_path / "proxy").listening():
            pass
        monkeypatch.setattr("os.getuid", lambda: owner + 2)
        with pytest.raises(ConfigurationError) as caught, UnixAddress(tmp_path / "proxy").listening():
            pass
        assert caught.value.code == "proxy.address"

    def test_no_folder_and_a_path_that_is_too_long(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none" / "proxy", tmp_path / ("x" * 200)):
            with pytest.raises(ConfigurationError) as caught, UnixAddress(path).listening():
                pass
            assert caught.value.code == "proxy.address"
