"""`python -m blindai.conformance`: every input has one of four answers."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attestation.simulation import NOW, REPORT_DATA, anchor, good, root

from blindai.attestation.claims import Claims
from blindai.attestation.evidence import DeviceEvidence
from blindai.attestation.policy import Policy
from blindai.attestation.result import STEPS
from blindai.attestation.simulated.nvidia import SimulatedDevice, SimulatedNvidiaRoot
from blindai.attestation.simulated.tpm import SimulatedTpm
from blindai.attestation.simulated.tpm_certificates import SimulatedTpmRoot
from blindai.attestation.verifiers import amd
from blindai.channel.activation import Challenge
from blindai.conformance import request as request_module
from blindai.conformance.__main__ import main
from blindai.conformance.judgement import NO_EXPECTATION, NO_POLICY, Exit, answer

VERDICTS = {Exit.ACCEPT: "accept", Exit.REJECT: "reject", Exit.UNSUPPORTED: "unsupported", Exit.MALFORMED: "malformed"}


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def genuine(**changes: Any) -> dict[str, Any]:
    """A request with simulated evidence that is accepted; a change to None leaves the field out."""
    evidence = good("tdx-v4")
    fields: dict[str, Any] = {
        "tee": "intel-tdx",
        "evidence": encoded(evidence.quote),
        "collateral": json.loads(evidence.encode())["intel_collateral"],
        "anchors": [{"vendor": "intel", "spki_sha256": anchor().spki_sha256, "simulated": True}],
        "now": NOW.isoformat(),
        "expected_report_data": REPORT_DATA.hex(),
    }
    return {name: value for name, value in (fields | changes).items() if value is not None}


def policy(**changes: bool) -> str:
    measured = judged(genuine())[1]["claims"]["measurements"]
    made = Policy.simulated({anchor().vendor: anchor().spki_sha256}, measured)
    text = made.to_toml()
    for name, value in changes.items():
        text = text.replace(f"{name} = {str(not value).lower()}", f"{name} = {str(value).lower()}")
    return text


def judged(data: bytes | dict[str, Any]) -> tuple[Exit, dict[str, Any]]:
    code, said = answer(data if isinstance(data, bytes) else json.dumps(data).encode())
    assert said["verdict"] == VERDICTS[code]
    assert bool(said["code"]) == (code is not Exit.ACCEPT)
    if code in {Exit.ACCEPT, Exit.REJECT}:
        assert {check["step"] for check in said["checks"]} == set(STEPS)
        assert (code is Exit.REJECT) == any(check["outcome"] == "FAIL" for check in said["checks"])
        assert (said["step"] in STEPS) == (code is Exit.REJECT)
    json.dumps(said)
    return code, said


def outcomes(said: dict[str, Any]) -> dict[str, str]:
    return {check["step"]: check["outcome"] for check in said["checks"]}


def refusal(data: dict[str, Any]) -> tuple[str, str]:
    code, said = judged(data)
    assert code is Exit.REJECT
    return said["step"], said["code"]


class TestWithoutAPolicy:
    def test_only_what_needs_no_policy_is_required(self) -> None:
        code, said = judged(genuine())
        assert code is Exit.ACCEPT
        passed = {step for step, outcome in outcomes(said).items() if outcome == "PASS"}
        assert passed == {"evidence", "endorsements", "quote", "binding", "debug"}
        reasons = {check["step"]: check["got"] for check in said["checks"] if check["outcome"] == "SKIP"}
        assert set(reasons.values()) == {NO_POLICY, "no connection"}
        assert said["claims"]["tcb_status"] == "UpToDate"
        assert (said["simulated"], said["policy_digest"]) == (True, "")

    def test_without_an_expectation_the_binding_is_skipped(self) -> None:
        code, said = judged(genuine(expected_report_data=None))
        assert (code, outcomes(said)["binding"]) == (Exit.ACCEPT, "SKIP")
        assert NO_EXPECTATION in {check["got"] for check in said["checks"]}

    def test_other_report_data_are_refused(self) -> None:
        assert refusal(genuine(expected_report_data="00" * 64)) == ("binding", "binding.report_data")

    @pytest.mark.parametrize("alias", sorted(request_module.ALIASES))
    def test_every_alias_names_a_tee(self, alias: str) -> None:
        code, _ = judged(genuine(tee=alias))
        assert code is (Exit.ACCEPT if alias == "tdx" else Exit.REJECT)

    def test_evidence_in_hex_and_in_an_object(self) -> None:
        quote = good("tdx-v4").quote
        for evidence in (quote.hex(), quote.hex().upper(), list(quote), {"quote": encoded(quote)}):
            assert judged(genuine(evidence=evidence))[0] is Exit.ACCEPT

    def test_evidence_as_the_gate_sends_it(self) -> None:
        own = json.loads(good("tdx-v4").encode())
        assert judged(genuine(evidence=own, collateral=None))[0] is Exit.ACCEPT
        assert refusal(genuine(evidence=own, tee="sgx")) == ("evidence", "evidence.tee")
        assert refusal(genuine(evidence=own | {"more": 1})) == ("evidence", "evidence.malformed")

    def test_an_unknown_version_of_a_quote_is_unsupported(self) -> None:
        quote = bytearray(good("tdx-v4").quote)
        quote[0] = 9
        code, said = judged(genuine(evidence=encoded(bytes(quote))))
        assert (code, said["code"], said["step"]) == (Exit.UNSUPPORTED, "evidence.unsupported", "evidence")


class TestAnchors:
    def test_the_built_in_roots_are_used_where_none_are_given(self) -> None:
        assert refusal(genuine(anchors=None)) == ("endorsements", "endorsements.anchor")

    def test_no_root_at_all_accepts_nothing(self) -> None:
        assert refusal(genuine(anchors=[])) == ("endorsements", "endorsements.anchor")

    def test_a_root_as_a_certificate(self) -> None:
        certificate = root().certificate
        for given_root in (
            certificate.public_bytes(Encoding.PEM).decode(),
            encoded(certificate.public_bytes(Encoding.DER)),
        ):
            code, said = judged(genuine(anchors=[given_root]))
            assert (code, said["simulated"]) == (Exit.ACCEPT, True)

    def test_a_root_of_another_vendor_vouches_for_nothing(self) -> None:
        other = {"vendor": "amd", "spki_sha256": anchor().spki_sha256}
        assert refusal(genuine(anchors=[other])) == ("endorsements", "endorsements.anchor")

    def test_they_replace_those_of_the_policy(self) -> None:
        other = {"vendor": "intel", "spki_sha256": "00" * 32}
        assert refusal(genuine(policy=policy(), anchors=[other])) == ("endorsements", "endorsements.anchor")


class TestWithAPolicy:
    def test_every_step_is_made(self) -> None:
        code, said = judged(genuine(policy=policy(), anchors=None))
        assert code is Exit.ACCEPT
        skipped = {step for step, outcome in outcomes(said).items() if outcome == "SKIP"}
        assert skipped == {"channel", "hardware", "config", "devices"}
        assert len(said["policy_digest"]) == 64

    def test_code_that_it_does_not_list_is_refused(self) -> None:
        measured = judged(genuine())[1]["claims"]["measurements"]["mrtd"]
        changed = policy().replace(measured, "5a" * 48)
        assert refusal(genuine(policy=changed)) == ("code", "code.unknown")

    def test_simulation_that_it_does_not_allow_is_refused(self) -> None:
        text = policy(allow_simulated=False)
        assert refusal(genuine(policy=text)) == ("platform", "platform.simulated")

    def test_binding_is_skipped_without_an_expectation(self) -> None:
        code, said = judged(genuine(policy=policy(), expected_report_data=None))
        assert (code, outcomes(said)["binding"]) == (Exit.ACCEPT, "SKIP")

    def test_a_policy_that_is_wrong_is_a_malformed_request(self) -> None:
        code, said = judged(genuine(policy=policy() + "\nmore = 1\n"))
        assert (code, said["code"]) == (Exit.MALFORMED, "policy.unknown_key")


class TestWhatIsUnderTest:
    """Evidence, endorsements and collateral that cannot be read are refused; the request itself is in order."""

    @pytest.mark.parametrize("evidence", ["", "?", "AAAA", 5, True, [], [256], ["a"], {}, {"quote": {}}, [[]], 1e9])
    def test_evidence_that_cannot_be_read(self, evidence: Any) -> None:
        assert refusal(genuine(evidence=evidence)) == ("evidence", "evidence.malformed")

    @pytest.mark.parametrize("collateral", [5, [], {}, "x", {"tcb_info": 1}])
    def test_collateral_that_cannot_be_read(self, collateral: Any) -> None:
        assert refusal(genuine(collateral=collateral)) == ("endorsements", "endorsements.malformed")

    def test_no_collateral(self) -> None:
        assert refusal(genuine(collateral=None)) == ("endorsements", "endorsements.missing")

    @pytest.mark.parametrize(
        "endorsements", [5, "x", ["AA"], {"more": "AA"}, {"vcek": "AA", "crl": 1}, [[["AA"]]], "-----BEGIN"]
    )
    def test_endorsements_that_cannot_be_read(self, endorsements: Any) -> None:
        given = genuine(tee="snp", evidence="00" * 1184, endorsements=endorsements)
        assert refusal(given) == ("endorsements", "endorsements.malformed")

    @pytest.mark.parametrize("tee", ["azure", "azure-tdx", "tpm", "nvidia", "nvidia-switch"])
    @pytest.mark.parametrize(
        "evidence",
        [
            "",
            {},
            {"quote": "00", "signature": "00", "pcrs": {"24": "00"}},
            {"quote": "00", "signature": "00", "pcrs": {"0": 1}},
            {"quote": "00", "signature": "00", "pcrs": ["00"], "report": "00"},
            {"quote": {"message": [0], "signature": [0] * 256, "pcrs": [[0] * 32]}, "report": [0]},
            {"quote": "00", "signature": "00", "pcrs": [], "ak_public": "00", "ek_public": "00", "activation": 1},
            {"quote": "00", "signature": "00", "pcrs": [], "ak_public": "00", "ek_public": "00", "ek_certificates": 1},
            {"report": "00", "certificates": "AA"},
            {"report": "00", "certificates": "-----BEGIN CERTIFICATE-----"},
        ],
    )
    def test_parts_that_cannot_be_read(self, tee: str, evidence: Any) -> None:
        code, said = judged(genuine(tee=tee, evidence=evidence))
        assert code is Exit.REJECT
        assert said["step"] in {"evidence", "devices"}


class TestTheRequestItself:
    @pytest.mark.parametrize(
        "changes",
        [
            {"now": "2026-01-15T12:00:00"},
            {"now": "soon"},
            {"now": 5},
            {"policy": 5},
            {"policy": "version = 2"},
            {"anchors": ["AAAA"]},
            {"anchors": "x"},
            {"anchors": [{"vendor": "abacus", "spki_sha256": "00" * 32}]},
            {"anchors": [{"vendor": "intel", "spki_sha256": "00"}]},
            {"expected_report_data": "?"},
            {"expected_device_nonce": 5},
            {"tee": 5},
            {"more": 1},
            {"id": []},
        ],
    )
    def test_a_field_that_is_wrong(self, changes: dict[str, Any]) -> None:
        assert judged(genuine(**changes))[0] is Exit.MALFORMED

    @pytest.mark.parametrize("missing", ["tee", "evidence", "now"])
    def test_a_field_that_is_missing(self, missing: str) -> None:
        assert judged(genuine(**{missing: None}))[0] is Exit.MALFORMED

    @pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"null", b"[" * 100_000, b'{"tee": "\xff"}', b"{" * 5000])
    def test_bytes_that_are_no_request(self, data: bytes) -> None:
        assert judged(data)[0] is Exit.MALFORMED

    @pytest.mark.parametrize("field", ["evidence", "endorsements", "collateral"])
    def test_nesting_of_any_depth(self, field: str) -> None:
        for depth in (100, 900, 1100, 50_000):
            for opening, closing in (("[", "]"), ('{"tee":', "}")):
                nested = json.dumps(genuine(**{field: "here"})).replace(
                    '"here"', opening * depth + "1" + closing * depth
                )
                assert judged(nested.encode())[0] in {Exit.REJECT, Exit.MALFORMED, Exit.ACCEPT}

    def test_a_tee_that_nobody_knows_is_unsupported(self) -> None:
        code, said = judged(genuine(tee="abacus"))
        assert (code, said["code"]) == (Exit.UNSUPPORTED, "request.unsupported")

    def test_a_request_that_is_too_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(request_module, "MAX_REQUEST_BYTES", 100)
        assert judged(genuine())[0] is Exit.MALFORMED

    @pytest.mark.parametrize("identity", ["row 5", 5, None])
    def test_the_id_comes_back_whatever_is_wrong(self, identity: str | int | None) -> None:
        for changes in ({}, {"now": "soon"}, {"tee": "abacus"}, {"evidence": "?"}):
            assert judged(genuine(id=identity, **changes))[1].get("id") == identity


class TestProcess:
    def run(self, data: bytes, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "blindai.conformance", *arguments],
            input=data,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert not ended.stderr or arguments == ("--more",)
        return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()]

    def test_one_request(self) -> None:
        code, (said,) = self.run(json.dumps(genuine()).encode())
        assert (code, said["verdict"], said["claims"]["report_data"]) == (0, "accept", REPORT_DATA.hex())

    def test_a_refusal(self) -> None:
        code, (said,) = self.run(json.dumps(genuine(expected_report_data="00")).encode())
        assert (code, said["verdict"], said["code"]) == (10, "reject", "binding.report_data")

    @pytest.mark.parametrize(
        ("data", "code"), [(b'{"tee":"x","evidence":0,"now":"2026-01-01T00:00:00Z"}', 20), (b"", 30)]
    )
    def test_the_other_two_codes(self, data: bytes, code: int) -> None:
        assert self.run(data)[0] == code

    def test_many_requests_in_one_go(self) -> None:
        lines = [genuine(id=1), genuine(id=2, tee="abacus"), genuine(id=3, expected_report_data="00")]
        code, said = self.run("\n\n".join(map(json.dumps, lines)).encode(), "--batch")
        assert code == 20
        assert [(each["id"], each["verdict"]) for each in said] == [(1, "accept"), (2, "unsupported"), (3, "reject")]

    def test_an_option_that_is_unknown(self) -> None:
        assert self.run(b"", "--more") == (30, [])


def test_a_line_that_is_too_long_spoils_only_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = json.dumps(genuine()).encode()
    for module in ("request", "__main__"):
        monkeypatch.setattr(f"blindai.conformance.{module}.MAX_REQUEST_BYTES", len(line))
    assert main(["--batch"], io.BytesIO(line + b"\n" + line * 3 + b"\n" + line)) is Exit.MALFORMED
    verdicts = [json.loads(answered)["verdict"] for answered in capsys.readouterr().out.splitlines()]
    assert verdicts == ["accept", "malformed", "accept"]


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)
_PARTS = ("quote", "signature", "pcrs", "report", "hcl_report", "certificates", "ak_public", "ek_public", "tee")
_parts = st.dictionaries(st.sampled_from(_PARTS), _json | st.binary(max_size=64).map(bytes.hex), max_size=9)
_TEES = (*request_module.ALIASES, "intel-sgx", "azure-tdx", "tpm", "nvidia-switch", "abacus")


@settings(max_examples=300, deadline=None)
@given(tee=st.sampled_from(_TEES), evidence=_json | _parts, endorsements=_json, collateral=_json, policy_text=_json)
def test_whatever_stands_in_the_fields_there_is_an_answer(
    tee: str, evidence: Any, endorsements: Any, collateral: Any, policy_text: Any
) -> None:
    fields = genuine() | {"tee": tee, "evidence": evidence, "endorsements": endorsements, "collateral": collateral}
    assert judged(fields)[0] is not Exit.ACCEPT
    judged(fields | {"policy": policy_text})


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_whatever_the_bytes_there_is_an_answer(data: bytes) -> None:
    assert judged(data)[0] is Exit.MALFORMED


def test_a_request_with_any_byte_changed_has_an_answer(vectors: Path) -> None:
    """Also of real evidence; what is accepted differs from the genuine in nothing that is signed."""
    dice = random.Random(4)
    azure = json.loads((vectors / "azure/snp_vtpm_evidence.json").read_text())
    chain = (vectors / "amd/ask_ark_milan.pem").read_text()
    real = {"tee": "azure", "evidence": azure, "endorsements": chain, "now": "2025-07-01T00:00:00Z"}
    seen: Counter[Exit] = Counter()
    for whole in (json.dumps(genuine()).encode(), json.dumps(real).encode()):
        for _ in range(1500):
            at, kind = dice.randrange(len(whole)), dice.randrange(3)
            middle = (bytes([whole[at] ^ 1 << dice.randrange(8)]), b"", dice.randbytes(3))[kind]
            code, _ = judged(whole[:at] + middle + whole[at + 1 :])
            seen[code] += 1
    assert set(seen) <= set(Exit)
    assert seen[Exit.REJECT] > 1000
    assert seen[Exit.MALFORMED] > 100


def test_expiry_is_judged_by_the_time_of_the_request() -> None:
    late = (NOW + timedelta(days=4000)).isoformat()
    step, code = refusal(genuine(now=late))
    assert (step, code.endswith("expired")) == ("endorsements", True)


@pytest.fixture(scope="module")
def of_a_tpm() -> dict[str, Any]:
    """Evidence of a simulated TPM, with the activation of its key, part by part."""
    tpm_root = SimulatedTpmRoot.generate(NOW)
    tpm = SimulatedTpm(tpm_root, clock=lambda: NOW)
    tpm.boot()
    evidence, identity = tpm.attest(REPORT_DATA), tpm.identity()
    challenge = Challenge.of(identity)
    answered = tpm.activate(challenge.credential.blob, challenge.credential.encrypted_secret)
    activation = challenge.answered(answered)
    assert evidence.tpm is not None
    assert evidence.tpm.event_log is not None
    return {
        "tee": "tpm2",
        "evidence": {
            "quote": encoded(evidence.quote),
            "signature": encoded(evidence.tpm.signature),
            "pcrs": {str(number): value.hex() for number, value in evidence.tpm.pcrs.items()},
            "event_log": encoded(evidence.tpm.event_log),
            "ak_public": encoded(identity.ak_public),
            "ek_public": encoded(identity.ek_public),
            "ek_certificates": [encoded(certificate) for certificate in identity.ek_certificates],
            "activation": {name: encoded(getattr(activation, name)) for name in activation.__struct_fields__},
        },
        "anchors": [{"vendor": "tpm", "spki_sha256": tpm_root.anchor.spki_sha256, "simulated": True}],
        "now": NOW.isoformat(),
    }


class TestTpm:
    @pytest.mark.parametrize("expected", [REPORT_DATA, hashlib.sha256(REPORT_DATA).digest()])
    def test_what_is_expected_or_its_digest_is_in_the_quote(self, of_a_tpm: dict[str, Any], expected: bytes) -> None:
        code, said = judged(of_a_tpm | {"expected_report_data": expected.hex()})
        assert (code, outcomes(said)["binding"]) == (Exit.ACCEPT, "PASS")

    def test_no_maker_is_built_in(self, of_a_tpm: dict[str, Any]) -> None:
        without = {name: value for name, value in of_a_tpm.items() if name != "anchors"}
        assert refusal(without)[0] == "endorsements"

    def test_another_answer_to_the_credential_is_refused(self, of_a_tpm: dict[str, Any]) -> None:
        activation = of_a_tpm["evidence"]["activation"] | {"answer": "00" * 32}
        changed = of_a_tpm | {"evidence": of_a_tpm["evidence"] | {"activation": activation}}
        assert judged(changed)[0] is Exit.REJECT

    def test_without_an_activation_the_key_proves_nothing(self, of_a_tpm: dict[str, Any]) -> None:
        evidence = {name: value for name, value in of_a_tpm["evidence"].items() if name != "activation"}
        assert judged(of_a_tpm | {"evidence": evidence})[0] is Exit.REJECT


@pytest.fixture(scope="module")
def device() -> tuple[SimulatedNvidiaRoot, DeviceEvidence]:
    nvidia = SimulatedNvidiaRoot.generate(NOW)
    return nvidia, SimulatedDevice(nvidia, now=NOW).attest(REPORT_DATA[:32])


class TestDevices:
    NONCE = REPORT_DATA[:32]

    @pytest.fixture
    def alone(self, device: tuple[SimulatedNvidiaRoot, DeviceEvidence]) -> dict[str, Any]:
        nvidia, evidence = device
        return {
            "tee": "nvidia",
            "evidence": {"report": evidence.report.hex(), "certificates": evidence.certificates},
            "anchors": [{"vendor": "nvidia", "spki_sha256": nvidia.anchor.spki_sha256, "simulated": True}],
            "now": NOW.isoformat(),
        }

    @pytest.fixture
    def beside(self, device: tuple[SimulatedNvidiaRoot, DeviceEvidence]) -> dict[str, Any]:
        """With the evidence of a processor."""
        nvidia, evidence = device
        own = json.loads(msgspec.structs.replace(good("tdx-v4"), devices=(evidence,)).encode())
        anchors = [*genuine()["anchors"], {"vendor": "nvidia", "spki_sha256": nvidia.anchor.spki_sha256}]
        return genuine(evidence=own, collateral=None, anchors=anchors)

    def test_a_device_alone(self, alone: dict[str, Any]) -> None:
        code, said = judged(alone | {"expected_report_data": self.NONCE.hex()})
        assert (code, said["simulated"]) == (Exit.ACCEPT, True)
        assert said["claims"]["nonce"] == self.NONCE.hex()
        assert {step for step, outcome in outcomes(said).items() if outcome == "PASS"} == {"devices"}

    def test_another_nonce_is_refused(self, alone: dict[str, Any], beside: dict[str, Any]) -> None:
        assert refusal(alone | {"expected_report_data": "00" * 32}) == ("devices", "devices.nonce")
        assert refusal(beside | {"expected_device_nonce": "00" * 32}) == ("devices", "devices.nonce")

    def test_devices_beside_a_processor_are_never_left_out(self, beside: dict[str, Any]) -> None:
        code, said = judged(beside | {"expected_device_nonce": self.NONCE.hex()})
        assert (code, len(said["devices"]), outcomes(said)["devices"]) == (Exit.ACCEPT, 1, "PASS")
        beside["evidence"]["devices"][0]["certificates"] = ""
        assert refusal(beside)[0] == "devices"

    def test_a_policy_wants_them_fresh(self, beside: dict[str, Any]) -> None:
        assert refusal(beside | {"policy": policy()})[0] == "devices"


def test_a_paravisor_report_that_the_guest_asked_for_is_refused(vectors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def verify_report(*args: Any, **options: Any) -> Claims:
        return msgspec.structs.replace(real(*args, **options), vmpl=2)

    real = amd.verify_report
    monkeypatch.setattr(amd, "verify_report", verify_report)
    fields = {
        "tee": "azure",
        "evidence": encoded((vectors / "azure/snp_hcl_report.bin").read_bytes()),
        "endorsements": (vectors / "azure/snp_hcl_vcek.pem").read_text(),
        "now": "2025-07-01T00:00:00Z",
    }
    assert refusal(fields) == ("platform", "platform.vmpl")
