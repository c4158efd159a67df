"""The section [gpus] of a manifest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blindai.attestation.anchors import NVIDIA_DEVICE_ROOT
from blindai.attestation.policy import Policy
from blindai.attestation.policy.gpus import GoldenMeasurements, GpuPolicy
from blindai.errors import ConfigurationError

HEAD = f"""version = 1
accepted_tees = ["intel-tdx"]
[[code]]
name = "one"
tee = "intel-tdx"
mrtd = "{"ab" * 48}"
rtmr1 = "{"ab" * 48}"
rtmr2 = "{"ab" * 48}"
"""
FIRST = HEAD.count("\n") + 1


def parse(section: str) -> Policy:
    return Policy.parse(HEAD + section, "manifest.toml")


def refused(section: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        parse(section)
    return caught.value


FULL = f"""[gpus]
count = 8
switches = 4
architectures = ["hopper"]
drivers = ["550.90.07"]
vbios = ["96.00.9F.00.01"]
modes = ["protected-pcie"]
[[gpus.golden]]
architecture = "hopper"
driver = "550.90.07"
vbios = "96.00.9F.00.01"
[gpus.golden.measurements]
2 = ["{"AB" * 48}", "{"cd" * 48}"]
10 = ["{"ef" * 48}"]
[[gpus.golden]]
architecture = "ls10"
vbios = "96.10.6D.00.01"
[gpus.golden.measurements]
1 = ["{"01" * 48}"]
"""


def test_everything() -> None:
    policy = parse(FULL)
    assert policy.gpus is not None
    assert (policy.gpus.count, policy.gpus.minimum, policy.gpus.switches) == (8, None, 4)
    assert policy.gpus.golden[0].measurements == {2: ("ab" * 48, "cd" * 48), 10: ("ef" * 48,)}
    assert policy.gpus.golden[1] == GoldenMeasurements(
        architecture="ls10", vbios="96.10.6D.00.01", measurements={1: ("01" * 48,)}
    )
    assert NVIDIA_DEVICE_ROOT in policy.anchors()


def test_none() -> None:
    policy = parse("")
    assert policy.gpus is None
    assert NVIDIA_DEVICE_ROOT not in policy.anchors()


@pytest.mark.parametrize("section", [FULL, "[gpus]\nminimum = 0\n", "[gpus]\ncount = 0\nswitches = 1\n"])
def test_written_and_read_again(section: str) -> None:
    policy = parse(section)
    again = Policy.parse(policy.to_toml(), "again")
    assert again.gpus == policy.gpus
    assert again == policy


@pytest.mark.parametrize(
    ("section", "line", "code"),
    [
        ("[gpus]\n", 0, "policy.gpus"),
        ("[gpus]\ncount = 1\nminimum = 1\n", 2, "policy.gpus"),
        ("[gpus]\ncount = 65\n", 1, "policy.range"),
        ("[gpus]\ncount = -1\n", 1, "policy.range"),
        ("[gpus]\ncount = true\n", 1, "policy.type"),
        ("[gpus]\ncuont = 1\n", 1, "policy.unknown_key"),
        ("[gpus]\ncount = 1\nswitches = 65\n", 2, "policy.range"),
        ("[gpus]\ncount = 1\narchitectures = []\n", 2, "policy.missing_key"),
        ('[gpus]\ncount = 1\narchitectures = ["volta"]\n', 2, "policy.unknown_value"),
        ('[gpus]\ncount = 1\nmodes = ["off"]\n', 2, "policy.unknown_value"),
        ('[gpus]\ncount = 1\ndrivers = ["550\\n"]\n', 2, "policy.unknown_value"),
        ('[gpus]\ncount = 1\nvbios = [""]\n', 2, "policy.unknown_value"),
        (FULL.replace('"ls10"', '"volta"'), 15, "policy.unknown_value"),
        (FULL.replace('driver = "550.90.07"', 'driver = " "'), 9, "policy.unknown_value"),
        (FULL.replace('vbios = "96.10.6D.00.01"\n', ""), 14, "policy.missing_key"),
        (FULL.replace("01" * 48, "01" * 47), 18, "policy.length"),
        (FULL.replace("01" * 48, "0x" * 48), 18, "policy.hex"),
        (FULL.replace(f'"{"01" * 48}"', ""), 18, "policy.missing_key"),
        (FULL.replace("\n1 = ", "\n0 = "), 18, "policy.unknown_key"),
        (FULL.replace("\n1 = ", "\n255 = "), 18, "policy.unknown_key"),
        (FULL.replace(f'1 = ["{"01" * 48}"]\n', ""), 17, "policy.missing_key"),
    ],
)
def test_refused_with_its_line(section: str, line: int, code: str) -> None:
    error = refused(section)
    assert error.code == code
    assert f"line {FIRST + line}" in str(error)


def test_a_policy_made_by_hand_is_checked_too() -> None:
    with pytest.raises(ConfigurationError) as caught:
        replace(parse(""), gpus=GpuPolicy())
    assert caught.value.code == "policy.gpus"
