from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.attestation.policy import Policy
from blindai.client.destination import resolve_address
from blindai.client.profile import Address, Profile, profile_path, resolve_policy
from blindai.errors import BlindAIError, ConfigurationError

MANIFEST = """version = 1
accepted_tees = ["intel-sgx"]

[[code]]
name = "release 1"
tee = "intel-sgx"
mrenclave = "{digit}"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who has set nothing, in an empty folder."""
    monkeypatch.delenv("BLINDAI_ADDR", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / ".config"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def manifest(path: Path, digit: str) -> Path:
    path.write_text(MANIFEST.format(digit=digit * 64), encoding="utf-8")
    return path


def refused_address(text: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        Address.parse(text)
    assert caught.value.code == "configuration.address"
    return caught.value


# Addresses.


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("https://enclave.example:8443", "enclave.example", 8443),
        ("https://enclave.example", "enclave.example", 9443),
        ("https://enclave.example/", "enclave.example", 9443),
        ("HTTPS://Enclave.Example:1", "enclave.example", 1),
        ("https://enclave.example.:443", "enclave.example", 443),
        ("localhost", "localhost", 9443),
        ("localhost:65535", "localhost", 65535),
        ("my_service.internal:80", "my_service.internal", 80),
        ("127.0.0.1:9443", "127.0.0.1", 9443),
        ("[::1]", "::1", 9443),
        ("https://[2001:DB8:0::1]:443", "2001:db8::1", 443),
        ("xn--bcher-kva.example", "xn--bcher-kva.example", 9443),
    ],
)
def test_addresses_are_read(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)


def test_address_is_written_as_a_url() -> None:
    assert Address("localhost", 9443).authority == "localhost:9443"
    assert Address("::1", 443).authority == "[::1]:443"
    assert str(Address("::1", 443)) == Address("::1", 443).url == "https://[::1]:443"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http://enclave.example:9443", "plain http"),
        ("ftp://enclave.example", "only https"),
        ("", "host is missing"),
        ("https://", "host is missing"),
        (":9443", "host is missing"),
        ("https://enclave.example:9443/v2", "goes on after the port"),
        ("https://enclave.example?x=1", "goes on after the port"),
        ("https://enclave.example#x", "goes on after the port"),
        ("enclave.example:", "port is missing"),
        ("enclave.example:0", "port 0"),
        ("enclave.example:65536", "ort"),
        ("enclave.example:-1", "ort"),
        ("enclave.example:https", "ort"),
        ("enclave example", "characters"),
        (" enclave.example", "characters"),
        ("enclave.example\n", "characters"),
        ("enclave\0.example", "characters"),
        ("bücher.example", "punycode"),
        ("enclave..example", "host name"),
        ("-enclave.example", "host name"),
        ("enclave-.example", "host name"),
        ("enc*lave.example", "host name"),
        ("a" * 64 + ".example", "host name"),
        ("a." * 127 + "a" * 10, "host name"),
        ("127.1", "IP address"),
        ("1.2.3.4.5", "IP address"),
        ("256.1.1.1", "IP address"),
        ("0x7f.0x1", "IP address"),
        ("[::1", "IPv6"),
        ("[fe80::1%eth0]", "zone"),
        ("[fe80::g]", "address"),
        ("[v1.x]", "IP address"),
        ("::1", "ort"),
    ],
)
def test_addresses_that_are_none_are_refused(text: str, reason: str) -> None:
    error = refused_address(text)
    assert reason in error.message
    assert "https://host:9443" in error.hint


def test_password_in_an_address_is_not_repeated() -> None:
    error = refused_address("https://user:hunter2@enclave.example")
    assert "api_key" in error.message
    assert "hunter2" not in str(error)


@given(st.text(max_size=40) | st.from_regex(r"(https?://)?[a-z\[\]:.%@0-9-]{0,20}(:[0-9]{0,6})?/?", fullmatch=True))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        address = Address.parse(text)
    except ConfigurationError as error:
        code = error.code
    else:
        code = ""
        assert Address.parse(address.url) == address
        assert Address.parse(address.authority) == address
    assert code in {"", "configuration.address"}


# Where the address comes from.


def test_given_address_comes_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLINDAI_ADDR", "environment.example")
    Profile(addr="profile.example").save()
    assert resolve_address("argument.example").host == "argument.example"
    assert resolve_address().host == "environment.example"
    monkeypatch.setenv("BLINDAI_ADDR", "")
    assert resolve_address().host == "profile.example"


def test_wrong_address_is_not_replaced_by_the_next_source(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Profile(addr="profile.example").save()
    monkeypatch.setenv("BLINDAI_ADDR", "http://environment.example")
    for given_address in ("", "http://argument.example", None):
        with pytest.raises(ConfigurationError) as caught:
            resolve_address(given_address)
        assert caught.value.code == "configuration.address"


def test_without_any_address_the_error_names_the_ways(home: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve_address()
    assert caught.value.code == "configuration.address_missing"
    assert "addr=" in caught.value.hint
    assert "BLINDAI_ADDR" in caught.value.hint


# Where the policy comes from.


def code_of(policy: Policy) -> str:
    return policy.code[0].measurements["mrenclave"][0]


def test_given_policy_comes_first(home: Path) -> None:
    stored = manifest(home / "stored.toml", "3")
    Profile(policy=str(stored)).save()
    assert code_of(resolve_policy()) == "3"
    manifest(Path("manifest.toml"), "2")
    assert code_of(resolve_policy()) == "2"
    path = manifest(home / "given.toml", "1")
    assert code_of(resolve_policy(path)) == code_of(resolve_policy(str(path))) == "1"
    policy = Policy.load(path)
    assert resolve_policy(policy) is policy


def test_wrong_policy_is_not_replaced_by_the_next_source(home: Path) -> None:
    Profile(policy=str(manifest(home / "stored.toml", "3"))).save()
    manifest(Path("manifest.toml"), "2")
    with pytest.raises(ConfigurationError) as caught:
        resolve_policy("missing.toml")
    assert caught.value.code == "policy.missing"
    Path("manifest.toml").write_text("version = 1\ntypo = 1\n", encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        resolve_policy()
    assert caught.value.code.startswith("policy.")


def test_without_any_policy_the_error_names_the_ways(home: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve_policy()
    assert caught.value.code == "configuration.policy_missing"
    assert "policy=PATH" in caught.value.hint
    assert "manifest.toml" in caught.value.hint
    assert str(profile_path()) in caught.value.hint


# The profile.


def test_profile_is_kept_where_the_system_keeps_settings(home: Path) -> None:
    assert profile_path().is_relative_to(home)
    assert Profile.load() == Profile()
    path = Profile(addr="enclave.example:1", policy="policy.toml").save()
    assert path == profile_path()
    assert Profile.load() == Profile(addr="https://enclave.example:1", policy=str(Path("policy.toml").resolve()))


def test_profile_can_be_kept_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "profile.toml"
    Profile(addr="enclave.example").save(path)
    assert resolve_address(profile=path).host == "enclave.example"
    assert Profile().save(path).read_bytes() == b""
    assert Profile.load(path) == Profile()


def test_profile_survives_every_path_a_policy_may_have(tmp_path: Path) -> None:
    policy = str(tmp_path / 'odd "name" \\ é \U0001f600 #.toml')
    path = Profile(policy=policy).save(tmp_path / "profile.toml")
    assert Profile.load(path).policy == policy


def test_profile_is_for_its_owner_only(tmp_path: Path) -> None:
    path = Profile(addr="enclave.example").save(tmp_path / "profile.toml")
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]  # nothing is left of the way there


def test_what_cannot_be_used_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    Profile(addr="enclave.example").save(path)
    for profile, code in (
        (Profile(addr="http://enclave.example"), "configuration.address"),
        (Profile(policy="a\nb"), "configuration.profile"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            profile.save(path)
        assert caught.value.code == code
    assert Profile.load(path).addr == "https://enclave.example:9443"


def test_a_cloud_is_kept_in_one_form(tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    Profile(
        cloud="Cloud.Example:443",
        fingerprint=":".join(["AB"] * 32),
        account="acme",
        endpoint="https://enclave.example",
    ).save(path)
    assert Profile.load(path) == Profile(
        cloud="https://cloud.example",
        fingerprint="ab" * 32,
        account="acme",
        endpoint="https://enclave.example:9443",
    )
    Profile(cloud="https://cloud.example:9447").save(path)
    assert Profile.load(path).cloud == "https://cloud.example:9447"


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"cloud": "http://cloud.example"}, "configuration.address"),
        ({"cloud": "https://cloud.example/console"}, "configuration.address"),
        ({"fingerprint": "ab" * 31}, "configuration.fingerprint"),
        ({"fingerprint": "\u0661" * 64}, "configuration.fingerprint"),
        ({"account": "Acme"}, "account.name"),
        ({"account": "\u0430cme"}, "account.name"),
        ({"account": "a"}, "account.name"),
        ({"account": "acme\n"}, "account.name"),
        ({"endpoint": "ftp://enclave.example"}, "configuration.address"),
    ],
)
def test_a_cloud_that_cannot_be_used_is_not_saved(tmp_path: Path, settings: dict[str, str], code: str) -> None:
    path = tmp_path / "profile.toml"
    with pytest.raises(BlindAIError) as caught:
        Profile(**settings).save(path)
    assert caught.value.code == code
    assert not path.exists()


def test_profile_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "profile.toml"
    target.mkdir()
    with pytest.raises(ConfigurationError) as caught:
        Profile(addr="enclave.example").save(target)
    assert caught.value.code == "configuration.profile"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "content",
    [b"addr = 1", b"address = 'x'", b"addr", b"\xff", b"api_key = 'secret'", b"#" * (64 * 1024 + 1)],
)
def test_damaged_profiles_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "profile.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        Profile.load(path)
    assert caught.value.code == "configuration.profile"
    assert str(path) in caught.value.message


def test_folder_is_no_profile(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Profile.load(tmp_path)
    assert caught.value.code == "configuration.profile"
