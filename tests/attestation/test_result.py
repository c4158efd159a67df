from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from blindai.attestation.claims import Claims
from blindai.attestation.evidence import TEE
from blindai.attestation.result import STEPS, AttestationResult, Check, Checklist, Mode, Outcome, Status
from blindai.errors import AttestationError, BlindAIError, ConfigurationError

END = datetime(2026, 11, 1, 12, tzinfo=UTC)
CLAIMS = Claims(
    tee=TEE.INTEL_TDX,
    simulated=True,
    anchor="SIMULATED root",
    report_data=bytes(range(64)),
    measurements={"mrtd": "11" * 48},
    debug=False,
    not_after=END,
    tcb_date=END - timedelta(days=1),
    advisories=("INTEL-SA-00615",),
)


def result(
    *, status: Status = Status.AFFIRMING, claims: Claims | None = CLAIMS, expires_at: datetime | None = END
) -> AttestationResult:
    check = Check(step="code", name=STEPS["code"], outcome=Outcome.PASS, expected="11" * 48, got="11" * 48)
    return AttestationResult(
        status=status,
        checks=(check,),
        mode=Mode.FRESH,
        policy_digest="ab" * 32,
        claims=claims,
        expires_at=expires_at,
    )


def test_a_result_is_valid_until_just_before_it_expires() -> None:
    result().require_valid(END - timedelta(microseconds=1))


def test_an_expired_result() -> None:
    with pytest.raises(AttestationError) as caught:
        result().require_valid(END)
    assert (caught.value.step, caught.value.code) == ("binding", "result.expired")
    assert caught.value.expected == "a request before 2026-11-01T12:00:00Z"
    assert caught.value.result == result()


def test_an_expired_result_in_another_time_zone() -> None:
    late = datetime(2026, 11, 1, 14, tzinfo=timezone(timedelta(hours=1)))
    with pytest.raises(AttestationError) as caught:
        result().require_valid(late)
    assert caught.value.got == "2026-11-01T13:00:00Z"


@pytest.mark.parametrize(
    "refused", [result(status=Status.CONTRAINDICATED), result(expires_at=None)], ids=["contraindicated", "endless"]
)
def test_a_result_that_is_not_affirming_allows_nothing(refused: AttestationResult) -> None:
    with pytest.raises(AttestationError) as caught:
        refused.require_valid(END - timedelta(days=1))
    assert caught.value.code == "result.refused"


def test_a_result_in_the_types_of_json() -> None:
    plain = json.loads(result().to_json())
    assert plain == json.loads(json.dumps(result().to_builtins()))
    assert plain["status"] == "affirming"
    assert plain["mode"] == "fresh"
    assert plain["simulated"] is True
    assert plain["expires_at"] == "2026-11-01T12:00:00Z"
    assert plain["claims"]["report_data"] == bytes(range(64)).hex()
    assert plain["claims"]["tee"] == "intel-tdx"
    assert plain["checks"] == [
        {
            "step": "code",
            "name": "code measurement",
            "outcome": "PASS",
            "code": "",
            "expected": "11" * 48,
            "got": "11" * 48,
            "ranges": [],
        }
    ]


def test_a_refused_result_without_claims_in_the_types_of_json() -> None:
    plain = result(status=Status.CONTRAINDICATED, claims=None, expires_at=None).to_builtins()
    assert plain["claims"] is None
    assert plain["expires_at"] is None
    assert plain["simulated"] is False


def fail(checks: Checklist, step: str, error: BlindAIError, *, expected: str = "", got: str = "") -> None:
    """Make a check of `step` that ends with `error`."""

    def make() -> None:
        with checks.check(step, expected=expected) as check:
            check.got = got
            raise error

    with pytest.raises(type(error)) as caught:
        make()
    assert caught.value is error


def test_a_check_that_ends_is_a_pass() -> None:
    checks = Checklist()
    with checks.check("tcb", expected="UpToDate") as check:
        check.got = "UpToDate"
    assert checks.checks == (
        Check(step="tcb", name=STEPS["tcb"], outcome=Outcome.PASS, expected="UpToDate", got="UpToDate"),
    )


def test_a_check_that_raises_is_a_failure_and_names_itself_on_the_error() -> None:
    checks = Checklist()
    error = AttestationError("too old", code="tcb.status")
    fail(checks, "tcb", error, expected="UpToDate", got="OutOfDate")
    assert (error.step, error.check) == ("tcb", STEPS["tcb"])
    (check_made,) = checks.checks
    assert (check_made.outcome, check_made.code) == (Outcome.FAIL, "tcb.status")
    assert (check_made.expected, check_made.got) == ("UpToDate", "OutOfDate")


def test_what_an_error_says_for_itself_is_kept() -> None:
    checks = Checklist()
    error = AttestationError("no", code="x.y", step="code", check="code (MRTD)", expected="a", got="b")
    fail(checks, "code", error, expected="other", got="other")
    assert (error.step, error.check) == ("code", "code (MRTD)")
    assert (checks.checks[0].expected, checks.checks[0].got) == ("a", "b")


def test_another_error_is_no_check() -> None:
    checks = Checklist()
    fail(checks, "code", ConfigurationError("no manifest"))
    assert checks.checks == ()


def test_a_skip_never_counts_as_a_pass() -> None:
    checks = Checklist()
    checks.skip("hardware", got="not pinned")
    with checks.check("code"):
        pass
    fail(checks, "tcb", AttestationError("no", code="tcb.status"))
    made = AttestationResult(
        status=Status.CONTRAINDICATED, checks=checks.checks, mode=Mode.FRESH, policy_digest="", code="tcb.status"
    )
    assert made.tally() == (1, 2)


def test_the_steps_that_were_not_reached_are_skipped() -> None:
    checks = Checklist()
    with checks.check("channel"):
        pass
    checks.skip_rest("not reached")
    assert [check.step for check in checks.checks] == list(STEPS)
    assert {check.outcome for check in checks.checks[1:]} == {Outcome.SKIP}
    assert {check.got for check in checks.checks[1:]} == {"not reached"}
