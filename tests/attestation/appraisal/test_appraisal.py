"""Whole appraisals of evidence from the simulated platform, through the real verifier."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from blindai.attestation.anchors import Vendor
from blindai.attestation.appraisal.appraisal import NOT_REACHED, abbreviated, appraise
from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.attestation.evidence import TEE, Evidence, IntelCollateral, committed
from blindai.attestation.measure.simulated import measure_package
from blindai.attestation.policy import Policy
from blindai.attestation.policy.reference_values import CodeReference, HardwareReference
from blindai.attestation.policy.tcb import TcbPolicy
from blindai.attestation.result import STEPS, AttestationResult, Checklist, Mode, Outcome, Status
from blindai.attestation.simulated.intel import Faults
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.errors import AttestationError

CONFIG = "c0" * 32
KEYSET = "4b" * 32


class FixedBinding:
    def __init__(self, report_data: bytes) -> None:
        self.report_data = report_data

    def committed(self, tee: TEE) -> bytes:
        return committed(tee, self.report_data)

    def refusal(self, got: bytes) -> AttestationError:
        return AttestationError(
            "the evidence was not made for this connection",
            code="binding.report_data",
            step="binding",
            expected=self.report_data.hex(),
            got=got.hex(),
        )


@pytest.fixture(scope="module")
def root() -> SimulatedRoot:
    return SimulatedRoot.generate()


@pytest.fixture(scope="module")
def policy(root: SimulatedRoot) -> Policy:
    """What `blindai measure` writes down for this package, read back from its text."""
    measured = Policy.simulated({Vendor.INTEL: root.anchor.spki_sha256}, measure_package(), name="blindai")
    return Policy.parse(measured.to_toml(), "./manifest.toml")


Appraise = Callable[..., AttestationResult]


@pytest.fixture
def appraise_one(root: SimulatedRoot, policy: Policy) -> Appraise:
    """Let a simulated platform attest, and appraise what it sends. `change` alters the policy."""

    def make(
        *,
        faults: Faults | None = None,
        tee: TEE = TEE.INTEL_TDX,
        quote_version: int | None = None,
        measurements: dict[str, str] | None = None,
        platform_root: SimulatedRoot = root,
        change: dict[str, Any] | None = None,
        alter: Callable[[Evidence], Evidence] = lambda evidence: evidence,
        **arguments: Any,
    ) -> AttestationResult:
        attester = SimulatedAttester(
            tee=tee, root=platform_root, quote_version=quote_version, measurements=measurements, faults=faults
        )
        binding = FixedBinding(os.urandom(64))
        required = dataclasses.replace(policy, **(change or {}))
        now = datetime.now(UTC)
        defaults: dict[str, Any] = {
            "policy": required,
            "binding": binding,
            "config_digest": CONFIG,
            "keyset_digest": KEYSET,
            "now": now,
            "not_after": now + timedelta(days=1),
        }
        return appraise(alter(attester.attest(binding.report_data)), **(defaults | arguments))

    return make


def refusal(call: Appraise, step: str, code: str, **arguments: Any) -> AttestationError:
    """The refusal of an appraisal: its step and code, on the error, on the result, and on the check that failed."""
    with pytest.raises(AttestationError) as caught:
        call(**arguments)
    error = caught.value
    assert (error.step, error.code) == (step, code), error
    result = error.result
    assert result is not None
    assert (result.status, result.step, result.code) == (Status.CONTRAINDICATED, step, code)
    assert result.expires_at is None
    assert [check.step for check in result.checks] == list(STEPS)
    first = next(check for check in result.checks if check.outcome is Outcome.FAIL)
    assert (first.step, first.code) == (step, code)
    return error


def outcomes(result: AttestationResult | None) -> dict[str, str]:
    assert result is not None
    return {check.step: check.outcome.value for check in result.checks}


@pytest.mark.parametrize(
    ("tee", "quote_version"), [(TEE.INTEL_SGX, 3), (TEE.INTEL_TDX, 4), (TEE.INTEL_TDX, 5)], ids=["sgx", "tdx4", "tdx5"]
)
def test_the_package_on_a_simulated_platform_is_accepted(
    appraise_one: Appraise, policy: Policy, tee: TEE, quote_version: int
) -> None:
    checks = Checklist()
    with checks.check("channel", expected="TLS 1.3"):
        pass
    result = appraise_one(tee=tee, quote_version=quote_version, checks=checks)
    assert result.status is Status.AFFIRMING
    assert result.mode is Mode.FRESH
    assert result.simulated
    assert result.claims is not None
    assert result.claims.tee is tee
    assert (result.code, result.step) == ("", "")
    assert result.policy_digest == policy.digest
    assert result.keyset_digest == KEYSET
    assert [check.step for check in result.checks] == list(STEPS)
    skipped = [step for step, outcome in outcomes(result).items() if outcome == "SKIP"]
    assert skipped == ["hardware", "config", "devices"]
    assert result.tally() == (9, 9)


def test_without_a_connection_the_channel_is_skipped_not_passed(appraise_one: Appraise) -> None:
    result = appraise_one()
    assert outcomes(result)["channel"] == "SKIP"
    assert result.tally() == (8, 8)


def test_a_result_ends_with_the_keyset_or_the_collateral_whichever_is_first(appraise_one: Appraise) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert appraise_one(not_after=soon).expires_at == soon
    result = appraise_one(not_after=soon + timedelta(days=3650))
    assert result.claims is not None
    assert result.expires_at == result.claims.not_after


def test_pinned_hardware_and_configuration_are_checked(appraise_one: Appraise) -> None:
    measured = measure_package(tee=TEE.INTEL_TDX)
    shape = {"mrtd": measured["mrtd"], "rtmr0": measured["rtmr0"]}
    pinned = {
        "hardware": (HardwareReference(name="shape", tee=TEE.INTEL_TDX, measurements=shape),),
        "config_digests": (CONFIG,),
    }
    made = outcomes(appraise_one(change=pinned))
    assert [step for step, outcome in made.items() if outcome == "SKIP"] == ["channel", "devices"]


# Refusals before anything is believed: everything after them is not reached.


def test_evidence_that_is_no_quote(appraise_one: Appraise) -> None:
    error = refusal(
        appraise_one,
        "evidence",
        "evidence.malformed",
        alter=lambda evidence: msgspec.structs.replace(evidence, quote=b""),
    )
    assert error.result is not None
    assert error.result.claims is None
    assert list(outcomes(error.result).values()) == ["SKIP", "FAIL", *["SKIP"] * 10]
    assert {check.got for check in error.result.checks[2:]} == {NOT_REACHED}


def test_another_simulated_root(appraise_one: Appraise) -> None:
    refusal(appraise_one, "endorsements", "endorsements.anchor", platform_root=SimulatedRoot.generate())


def test_a_simulated_platform_where_the_policy_allows_none(appraise_one: Appraise) -> None:
    change = {"allow_simulated": False}
    error = refusal(appraise_one, "endorsements", "endorsements.anchor", change=change)
    assert "simulated" in error.likely


def test_expired_collateral_says_to_check_the_clock(appraise_one: Appraise) -> None:
    faults = Faults(collateral_shift=timedelta(days=-60))
    with pytest.raises(AttestationError) as caught:
        appraise_one(faults=faults)
    assert caught.value.step == "endorsements"
    assert caught.value.code.endswith(".expired")
    assert caught.value.hint.startswith("check the clock of this computer, which says 20")


def test_a_clock_that_is_behind(appraise_one: Appraise) -> None:
    past = datetime.now(UTC) - timedelta(days=3650)
    with pytest.raises(AttestationError) as caught:
        appraise_one(now=past, not_after=past + timedelta(days=1))
    assert caught.value.step == "endorsements"
    assert caught.value.code.endswith(".not_yet_valid")
    assert f"{past:%Y-%m-%d}" in caught.value.hint


def test_missing_collateral(appraise_one: Appraise) -> None:
    refusal(appraise_one, "endorsements", "endorsements.missing", faults=Faults(without_collateral=True))


def test_an_altered_quote(appraise_one: Appraise) -> None:
    def flip(evidence: Evidence) -> Evidence:
        quote = bytearray(evidence.quote)
        quote[200] ^= 1
        return msgspec.structs.replace(evidence, quote=bytes(quote))

    refusal(appraise_one, "quote", "quote.signature", alter=flip)


@pytest.mark.parametrize("tee", [TEE.INTEL_SGX, TEE.INTEL_TDX])
def test_a_debug_enclave(appraise_one: Appraise, tee: TEE) -> None:
    error = refusal(appraise_one, "debug", "platform.debug", tee=tee, faults=Faults(attributes=frozenset({"debug"})))
    assert outcomes(error.result)["code"] == "SKIP"


def test_a_revoked_tcb_level(appraise_one: Appraise) -> None:
    refusal(appraise_one, "tcb", "tcb.revoked", faults=Faults(tcb_status="Revoked"))


# Refusals by the policy: every other step is still made.


def test_evidence_for_another_connection(appraise_one: Appraise) -> None:
    error = refusal(appraise_one, "binding", "binding.report_data", binding=FixedBinding(bytes(64)))
    assert error.expected == "0000..00"
    assert error.result is not None
    binding = next(check for check in error.result.checks if check.step == "binding")
    assert binding.expected == "00" * 64
    assert error.result.claims is not None
    assert binding.got == error.result.claims.report_data.hex()
    assert outcomes(error.result)["code"] == "PASS"


def test_a_keyset_that_has_run_out_says_to_check_the_clock(appraise_one: Appraise) -> None:
    error = refusal(appraise_one, "binding", "binding.keyset_expired", not_after=datetime.now(UTC))
    assert error.hint.startswith("check the clock")


def test_a_tee_that_is_not_accepted(appraise_one: Appraise) -> None:
    change = {"accepted_tees": (TEE.INTEL_SGX,)}
    refusal(appraise_one, "platform", "platform.tee", change=change)


def test_a_processor_that_is_not_listed(appraise_one: Appraise) -> None:
    refusal(appraise_one, "platform", "chip.unknown", change={"chips": ("00" * 16,)})


def test_the_processor_that_is_listed(appraise_one: Appraise) -> None:
    claims = appraise_one().claims
    assert claims is not None
    assert appraise_one(change={"chips": (claims.chip_id,)}).status is Status.AFFIRMING


@pytest.mark.parametrize(("tee", "attribute"), [(TEE.INTEL_SGX, "provisioning_key"), (TEE.INTEL_SGX, "einittoken_key")])
def test_an_attribute_that_is_not_allowed(appraise_one: Appraise, policy: Policy, tee: TEE, attribute: str) -> None:
    faults = Faults(attributes=frozenset({attribute}))
    error = refusal(appraise_one, "debug", "platform.attributes", tee=tee, faults=faults)
    assert error.got == attribute
    assert (
        appraise_one(
            tee=tee, faults=faults, change={"allowed_attributes": (*policy.allowed_attributes, attribute)}
        ).claims
        is not None
    )


@pytest.mark.parametrize("status", ["OutOfDate", "ConfigurationNeeded", "OutOfDateConfigurationNeeded"])
def test_a_tcb_status_that_is_not_listed(appraise_one: Appraise, status: str) -> None:
    error = refusal(appraise_one, "tcb", "tcb.status", faults=Faults(tcb_status=status))
    assert error.got == status


def test_an_out_of_date_platform_within_and_after_its_grace(appraise_one: Appraise) -> None:
    faults = Faults(tcb_status="OutOfDate")
    long, short = ({"tcb": TcbPolicy(statuses=("OutOfDate",), grace_days=days)} for days in (1826, 1))
    assert appraise_one(faults=faults, change=long).status is Status.AFFIRMING
    refusal(appraise_one, "tcb", "tcb.grace", faults=faults, change=short)


def test_tcb_data_that_are_too_old(appraise_one: Appraise) -> None:
    change = {"tcb": TcbPolicy(minimum_evaluation_data_number=2**31 - 1)}
    refusal(appraise_one, "tcb", "tcb.evaluation_number", change=change)


def test_a_denied_advisory(appraise_one: Appraise) -> None:
    faults = Faults(tcb_status="SWHardeningNeeded", advisories=("INTEL-SA-00615",))
    assert appraise_one(faults=faults).claims is not None
    change = {"tcb": TcbPolicy(denied_advisories=("INTEL-SA-00615",))}
    refusal(appraise_one, "tcb", "tcb.advisory", faults=faults, change=change)


def test_other_code_reads_as_a_good_error(appraise_one: Appraise, policy: Policy) -> None:
    other = {**measure_package(tee=TEE.INTEL_TDX), "mrtd": "41be" + "00" * 45 + "77"}
    error = refusal(appraise_one, "code", "code.unknown", measurements=other)
    mrtd = measure_package()["mrtd"]
    line = policy.line("code", 1, "mrtd")
    assert str(error).split("\n") == [
        "the simulated enclave runs code you have not approved",
        "  check     code measurement (MRTD)        7 of 8 passed",
        f"  expected  {mrtd[:4]}..{mrtd[-2:]} (policy ./manifest.toml, line {line})",
        "  got       41be..77",
        "  likely    the server runs another version of BlindAI, or a changed copy",
        "  safe      no prompt, tensor or API key was sent",
        "  code      code.unknown",
    ]
    assert error.result is not None
    check = next(check for check in error.result.checks if check.step == "code")
    assert check.expected == f"{mrtd} (policy ./manifest.toml, line {line})"
    assert check.got == other["mrtd"]


def test_an_older_version_of_a_signed_product(appraise_one: Appraise) -> None:
    signer = {"mrsigner": measure_package()["mrsigner"]}
    for minimum, code in ((1, ""), (2, "code.outdated")):
        reference = CodeReference(
            name="product", tee=TEE.INTEL_SGX, measurements=signer, isv_prod_id=1, minimum_isv_svn=minimum
        )
        change = {"accepted_tees": (TEE.INTEL_SGX,), "code": (reference,)}
        if code:
            refusal(appraise_one, "code", code, tee=TEE.INTEL_SGX, change=change)
        else:
            assert appraise_one(tee=TEE.INTEL_SGX, change=change).status is Status.AFFIRMING


def test_an_unknown_machine_shape(appraise_one: Appraise) -> None:
    shape = {"mrtd": measure_package()["mrtd"], "rtmr0": "00" * 48}
    change = {"hardware": (HardwareReference(name="shape", tee=TEE.INTEL_TDX, measurements=shape),)}
    refusal(appraise_one, "hardware", "hardware.unknown", change=change)


def test_another_configuration(appraise_one: Appraise) -> None:
    refusal(appraise_one, "config", "config.unknown", change={"config_digests": ("00" * 32,)})


def test_the_first_of_several_failures_is_raised_and_all_are_recorded(appraise_one: Appraise) -> None:
    other = {**measure_package(tee=TEE.INTEL_TDX), "rtmr1": "00" * 48}
    error = refusal(
        appraise_one,
        "tcb",
        "tcb.status",
        faults=Faults(tcb_status="OutOfDate"),
        measurements=other,
        change={"config_digests": ("00" * 32,)},
    )
    failed = [(check.step, check.code) for check in error.result.checks if check.outcome is Outcome.FAIL]  # type: ignore[union-attr]  # refusal() has looked
    assert failed == [("tcb", "tcb.status"), ("code", "code.unknown"), ("config", "config.unknown")]


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("9f3a" + "0" * 90 + "1c", "9f3a..1c"),
        ("two: " + "ab" * 8 + " and " + "cd" * 32, "two: abab..ab and cdcd..cd"),
        ("abcdef", "abcdef"),
        ("at 2026-11-01T12:00:00Z", "at 2026-11-01T12:00:00Z"),
        ("", ""),
    ],
)
def test_long_hex_is_abbreviated_for_people(text: str, short: str) -> None:
    assert abbreviated(text) == short


# Real processors: the quotes in BLINDAI_VECTORS, each with the report data that it carries.

JULY = datetime(2025, 7, 1, tzinfo=UTC)
REAL = """\
version = 1
accepted_tees = ["intel-sgx", "intel-tdx"]

[[code]]
name = "td"
tee = "intel-tdx"
mrtd = "91eb2b44d141d4ece09f0c75c2c53d247a3c68edd7fafe8a3520c942a604a407de03ae6dc5f87f27428b2538873118b7"
rtmr1 = "0084452c01668329d4bc06acdf58a7205c26743304509973949e5619bf81a6a7aea8c323c173019b3093d54e579e9378"
rtmr2 = "d833feef2cd945148aa38ead2c53e9b7f138190aaaebfc551dccd829fc207aa3ba80b70870d7330733642e01d48c3132"

[[code]]
name = "enclave"
tee = "intel-sgx"
mrenclave = "33d8736db756ed4997e04ba358d27833188f1932ff7b1d156904d3f560452fbb"

[[hardware]]
name = "shape"
tee = "intel-tdx"
mrtd = "91eb2b44d141d4ece09f0c75c2c53d247a3c68edd7fafe8a3520c942a604a407de03ae6dc5f87f27428b2538873118b7"
rtmr0 = "44c0197b39157fdd7a4dcc44767f9d6b0bb3977c7a8e347b8492f827fe9d9e5c48aca29b220b80b6a540cf994b9bc9c0"
xfam = "e702060000000000"
"""


def appraise_real(vectors: Path, name: str, manifest: str) -> AttestationResult:
    tee = TEE.INTEL_SGX if name.startswith("sgx") else TEE.INTEL_TDX
    quote = (vectors / "intel" / f"{name}_quote.bin").read_bytes()
    collateral = (vectors / "intel" / f"{name}_collateral.json").read_bytes()
    start = 368 if tee is TEE.INTEL_SGX else 568  # report_data: the end of the report body
    return appraise(
        Evidence(tee, quote, msgspec.json.decode(collateral, type=IntelCollateral)),
        policy=Policy.parse(manifest, "./manifest.toml"),
        binding=FixedBinding(quote[start : start + 64]),
        config_digest=CONFIG,
        now=JULY,
        not_after=JULY + timedelta(days=1),
    )


def test_a_real_trust_domain_is_accepted_under_the_default_policy(vectors: Path) -> None:
    result = appraise_real(vectors, "tdx_v4", REAL)
    assert not result.simulated
    assert list(outcomes(result).values()) == ["SKIP", *["PASS"] * 9, "SKIP", "SKIP"]


def test_a_real_trust_domain_with_other_code(vectors: Path) -> None:
    with pytest.raises(AttestationError) as caught:
        appraise_real(vectors, "tdx_v4", REAL.replace('rtmr2 = "d833', 'rtmr2 = "0000'))
    assert (caught.value.step, caught.value.code) == ("code", "code.unknown")
    assert caught.value.message == "the enclave is genuine, but runs code you have not approved"
    assert caught.value.expected == "0000..32 (policy ./manifest.toml, line 9)"
    assert caught.value.got == "d833..32"


def test_a_real_enclave_with_an_open_weakness(vectors: Path) -> None:
    with pytest.raises(AttestationError) as caught:
        appraise_real(vectors, "sgx_v3", REAL)
    assert (caught.value.step, caught.value.code) == ("tcb", "tcb.status")
    assert caught.value.got == "ConfigurationAndSWHardeningNeeded"
    listed = REAL + '[tcb]\nstatuses = ["ConfigurationAndSWHardeningNeeded"]\n'
    assert appraise_real(vectors, "sgx_v3", listed).status is Status.AFFIRMING
    with pytest.raises(AttestationError) as caught:
        appraise_real(vectors, "sgx_v3", listed + 'denied_advisories = ["INTEL-SA-00615"]\n')
    assert (caught.value.step, caught.value.code) == ("tcb", "tcb.advisory")
