"""Waiting for consent (RFC 8628), against a cloud that answers what a test says."""

from __future__ import annotations

from typing import Any

import pytest

from blindai.client.control_plane import ControlPlane
from blindai.client.login import wait_for_consent
from blindai.errors import AuthenticationError, BlindAIError, Unavailable
from blindai.wire.cloud_api import DENIED, EXPIRED, PENDING, SLOW_DOWN, AccessToken, DeviceCodes
from client_cloud import ClientCloud

TOKEN = AccessToken("bai_at_secret")


def refusal(code: str) -> BlindAIError:
    return BlindAIError("no", code=code)


def gone(code: str = "unavailable.connection") -> Unavailable:
    return Unavailable("gone", code=code)


class Script(ControlPlane):
    """A cloud that answers one thing after the other, and a clock that only moves when somebody sleeps."""

    def __init__(self, *answers: AccessToken | BlindAIError) -> None:
        super().__init__("https://cloud.example")
        self._answers = list(answers)
        self.slept: list[float] = []

    def device_token(self, device_code: str) -> AccessToken:
        assert device_code == "device"
        answer = self._answers.pop(0)
        if isinstance(answer, BlindAIError):
            raise answer
        return answer

    def wait(self, *, interval: int = 5, expires_in: int = 600) -> AccessToken:
        codes = DeviceCodes("device", "ABCD-EFGH", "", "", expires_in, interval)
        return wait_for_consent(self, codes, sleep=self.slept.append, monotonic=lambda: sum(self.slept))


def test_it_asks_by_the_interval_until_somebody_has_agreed() -> None:
    cloud = Script(refusal(PENDING), refusal(PENDING), TOKEN)
    assert cloud.wait(interval=3) == TOKEN
    assert cloud.slept == [3, 3, 3]


def test_it_asks_less_often_when_told() -> None:
    cloud = Script(refusal(SLOW_DOWN), refusal(PENDING), refusal(SLOW_DOWN), TOKEN)
    cloud.wait()
    assert cloud.slept == [5, 10, 10, 15]


def test_it_asks_again_when_nobody_answers_and_each_time_later() -> None:
    cloud = Script(gone(), gone(), gone(), gone(), TOKEN)
    cloud.wait(expires_in=1000)
    assert cloud.slept == [5, 10, 20, 40, 60]


@pytest.mark.parametrize(("interval", "waited"), [(0, 5), (-9, 1), (10**9, 60)])
def test_an_interval_that_no_cloud_would_want(interval: int, waited: int) -> None:
    cloud = Script(TOKEN)
    cloud.wait(interval=interval)
    assert cloud.slept == [waited]


@pytest.mark.parametrize("code", [DENIED, EXPIRED])
def test_somebody_declines_or_nobody_decides(code: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        Script(refusal(PENDING), refusal(code)).wait()
    assert caught.value.code == code


def test_it_gives_up_when_the_code_has_run_out() -> None:
    cloud = Script(*[refusal(PENDING) for _ in range(3)])
    with pytest.raises(AuthenticationError) as caught:
        cloud.wait(interval=5, expires_in=19)
    assert (caught.value.code, cloud.slept) == (EXPIRED, [5, 5, 5])


def test_it_gives_up_after_an_hour_whatever_the_cloud_says() -> None:
    cloud = Script(*[refusal(PENDING) for _ in range(60)])
    with pytest.raises(AuthenticationError):
        cloud.wait(interval=60, expires_in=10**9)
    assert sum(cloud.slept) == 3600


@pytest.mark.parametrize("error", [gone("unavailable.certificate"), gone("unavailable.protocol"), refusal("internal")])
def test_other_errors_end_it(error: BlindAIError) -> None:
    with pytest.raises(BlindAIError) as caught:
        Script(error).wait()
    assert caught.value is error


def test_the_whole_way(cloud: ClientCloud) -> None:
    plane, slept = cloud.plane(), []
    codes = plane.device_codes("a test")
    assert codes.verification_uri == f"{cloud.url}/device"
    assert codes.verification_uri_complete == f"{cloud.url}/device?code={codes.user_code}"

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        cloud.scene.clock.shift += seconds
        if len(slept) == 2:
            cloud.scene.plane.people.decide_device(cloud.acme.user, codes.user_code, approve=True)

    token: Any = wait_for_consent(plane, codes, sleep=sleep)
    assert slept == [codes.interval] * 2
    assert "bai_at_" not in repr(token)
    assert plane.with_token(token.access_token).account().email == "acme@example.com"
    with pytest.raises(AuthenticationError):
        wait_for_consent(plane, codes, sleep=lambda _: None)
