from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest
import rfc8785

from blindai.enclave.config import MAX_CONFIG_BYTES, EnclaveConfig
from blindai.errors import ConfigurationError


def test_nothing_configured_is_the_default() -> None:
    assert EnclaveConfig.parse("", "x.toml") == EnclaveConfig()


def test_values_are_read() -> None:
    config = EnclaveConfig.parse('name = "lab"\n[limits]\nmax_models = 3\n[timeouts]\nidle_ms = 5', "x.toml")
    assert (config.name, config.limits.max_models, config.timeouts.idle_ms) == ("lab", 3, 5)
    assert config.limits.max_headers == EnclaveConfig().limits.max_headers


def test_the_digest_is_that_of_the_canonical_encoding_by_another_implementation() -> None:
    config = EnclaveConfig(name="lab")
    encoded = rfc8785.dumps(msgspec.to_builtins(config))
    assert config.digest == hashlib.sha256(b"blindai/config/v1\0" + encoded).hexdigest()


def test_the_digest_tells_settings_apart_but_not_spellings() -> None:
    plain = EnclaveConfig.parse("", "x.toml")
    assert EnclaveConfig.parse('name = "blindai"\n[limits]', "y.toml").digest == plain.digest
    assert EnclaveConfig.parse("[limits]\nmax_models = 3", "y.toml").digest != plain.digest


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("x = ?", "configuration.syntax", "line 1"),
        ("colour = 1", "configuration.unknown_key", "'colour'"),
        ("[limits]\nmax_bodys = 1", "configuration.unknown_key", "'limits.max_bodys'"),
        ("[limits]\nmax_models = 'many'", "configuration.value", "limits.max_models"),
        ("[limits]\nmax_models = 0", "configuration.value", "limits.max_models"),
        ("[limits]\nmax_models = 1.5", "configuration.value", "limits.max_models"),
        ("[timeouts]\nidle_ms = true", "configuration.value", "timeouts.idle_ms"),
        ("limits = 3", "configuration.value", "limits"),
        ('name = "é"', "configuration.value", "name"),
        ('name = "a\\n"', "configuration.value", "name"),
        ('name = ""', "configuration.value", "name"),
    ],
)
def test_what_is_wrong_is_named(text: str, code: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        EnclaveConfig.parse(text, "enclave.toml")
    assert caught.value.code == code
    assert words in caught.value.message
    assert "enclave.toml" in caught.value.message


CUSTODY = f"""
[custody]
address = "custodian.example:9444"
public_key = "{"ab" * 32}"
lease = "lease-aaaaaaaaaaaaaaaa"
model_id = "acme/scorer"
"""


def test_a_custodian_is_read_and_measured() -> None:
    config = EnclaveConfig.parse(CUSTODY, "x.toml")
    assert config.custody
    assert str(config.custody.model) == "acme/scorer"
    assert msgspec.to_builtins(config)["custody"]["address"] == "custodian.example:9444"
    moved = EnclaveConfig.parse(CUSTODY.replace("9444", "9445"), "x.toml")
    assert moved.digest != config.digest


def test_without_a_custodian_nothing_of_custody_is_measured() -> None:
    assert "custody" not in msgspec.to_builtins(EnclaveConfig())


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("custodian.example:9444", "custodian.example", "custody.address"),
        ("custodian.example:9444", "https://custodian.example:9444", "custody.address"),
        ("custodian.example:9444", "2001:db8::1:9444", "custody.address"),
        ("custodian.example:9444", "custodian.example:0", "the port"),
        ("custodian.example:9444", "custodian.example:65536", "the port"),
        ("ab" * 32, "ab" * 31, "custody.public_key"),
        ("ab" * 32, "AB" * 32, "custody.public_key"),
        ("lease-aaaaaaaaaaaaaaaa", "lease-1", "custody.lease"),
        ("acme/scorer", "scorer", "model_id"),
        ("acme/scorer", "acme/../scorer", "model_id"),
        ('lease = "lease-aaaaaaaaaaaaaaaa"\n', "", "lease"),
        ("lease =", "leash =", "custody.leash"),
    ],
)
def test_what_is_wrong_with_the_custodian_is_named(old: str, new: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        EnclaveConfig.parse(CUSTODY.replace(old, new), "enclave.toml")
    assert caught.value.code in {"configuration.value", "configuration.unknown_key"}
    assert words in caught.value.message


@pytest.mark.parametrize("host", ["[2001:db8::1]", "192.0.2.1", "localhost"])
def test_a_custodian_may_have_any_kind_of_address(host: str) -> None:
    config = EnclaveConfig.parse(CUSTODY.replace("custodian.example", host), "x.toml")
    assert config.custody
    assert config.custody.address == f"{host}:9444"


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "enclave.toml"
    path.write_text('name = "lab"')
    assert EnclaveConfig.load(path).name == "lab"


@pytest.mark.parametrize("content", [None, b"\xff", b"#" * (MAX_CONFIG_BYTES + 1)])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "enclave.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        EnclaveConfig.load(path)
    assert caught.value.code == "configuration.unreadable"
    assert str(path) in caught.value.message
