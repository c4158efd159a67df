"""Who may use the proxy: names, origins, the token; each refusal before anything is sent on."""

from __future__ import annotations

import pytest

from attested_speaker import AttestedSpeaker
from blindai.client.proxy.admission import Admission
from blindai.client.proxy.request import RequestHead, RequestStream
from blindai.client.proxy.token import LocalToken
from blindai.errors import BlindAIError, ConfigurationError
from enclave_server import Wire

from .conftest import StartProxy

ORIGIN = "https://app.example"
TOKEN = LocalToken("0123456789abcdefTOKEN")


def head(*fields: str, method: str = "GET") -> RequestHead:
    stream = RequestStream()
    stream.feed("".join(f"{line}\r\n" for line in (f"{method} / HTTP/1.1", *fields, "")).encode("latin-1"))
    part = stream.parts.popleft()
    assert isinstance(part, RequestHead)
    return part


def code_of(admission: Admission, *fields: str) -> str | None:
    try:
        admission.require(head(*fields))
    except BlindAIError as error:
        return error.code
    return None


class TestHost:
    @pytest.mark.parametrize(
        "host",
        [
            "localhost",
            "LOCALHOST:9",
            "127.0.0.1:8080",
            "[::1]:1",
            "127.0.0.2:8080",
            "app.localhost",
            "localhost.",
            "b.x",
        ],
    )
    def test_names_of_this_machine_and_allowed_ones_pass(self, host: str) -> None:
        assert code_of(Admission(token=None, hosts=["B.x"], listens_on="127.0.0.2"), f"Host: {host}") is None

    @pytest.mark.parametrize(
        "host",
        [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.2",
            "notlocalhost",
            "a@localhost",
            "localhost:8080:8080",
            "localhost:",
            "[localhost]",
            "",
            "169.254.169.254",
            "[::]",
        ],
    )
    def test_any_other_is_a_page_that_was_led_here(self, host: str) -> None:
        assert code_of(Admission(token=None), f"Host: {host}") == "proxy.host"


class TestOrigin:
    @pytest.mark.parametrize(
        "fields",
        [
            ("Origin: https://evil.example",),
            ("Origin: null",),
            ("Origin: http://app.example",),
            ("Origin: https://app.example:444",),
            ("Origin: https://app.example.evil.example",),
            ("Origin: http://localhost:8080",),
            ("Origin: https://app.example", "Origin: https://app.example"),
            ("Origin: ",),
            ("Sec-Fetch-Site: cross-site",),
            ("Sec-Fetch-Site: same-site",),
        ],
    )
    def test_pages_that_were_not_allowed(self, fields: tuple[str, ...]) -> None:
        admission = Admission(token=TOKEN, origins=[ORIGIN])
        token = f"Proxy-Authorization: Bearer {TOKEN.reveal()}"
        assert code_of(admission, "Host: localhost", token, *fields) == "proxy.origin"

    def test_an_allowed_page_needs_the_token_too(self) -> None:
        admission = Admission(token=TOKEN, origins=[ORIGIN])
        fields = ("Host: localhost", f"Origin: {ORIGIN}", "Sec-Fetch-Site: cross-site")
        assert code_of(admission, *fields) == "proxy.token"
        assert code_of(admission, *fields, f"BlindAI-Proxy-Token: {TOKEN.reveal()}") is None

    def test_programs_send_none(self) -> None:
        assert code_of(Admission(token=None), "Host: localhost") is None
        assert code_of(Admission(token=None), "Host: localhost", "Sec-Fetch-Site: none") is None

    @pytest.mark.parametrize(
        "origin", ["*", "null", "", "app.example", "https://", "https://a/", "https://a b", "https://A"]
    )
    def test_what_cannot_be_allowed(self, origin: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            Admission(token=None, origins=[origin])
        assert caught.value.code == "proxy.allowed"

    @pytest.mark.parametrize("host", ["*", "", "a:80", "a/b", "a b"])
    def test_what_is_no_host(self, host: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            Admission(token=None, hosts=[host])
        assert caught.value.code == "proxy.allowed"


class TestToken:
    @pytest.mark.parametrize(
        "name", ["Proxy-Authorization: Bearer ", "proxy-authorization: bearer  ", "BlindAI-Proxy-Token: "]
    )
    def test_the_right_one(self, name: str) -> None:
        assert code_of(Admission(token=TOKEN), "Host: localhost", name + TOKEN.reveal()) is None

    @pytest.mark.parametrize(
        "fields",
        [
            (),
            ("Proxy-Authorization: Bearer wrong",),
            ("Proxy-Authorization: Bearer",),
            (f"Proxy-Authorization: Basic {TOKEN.reveal()}",),
            (f"Authorization: Bearer {TOKEN.reveal()}",),
            (f"BlindAI-Proxy-Token: {TOKEN.reveal()}x",),
            (f"BlindAI-Proxy-Token: {TOKEN.reveal()[:-1]}",),
            (f"BlindAI-Proxy-Token: {TOKEN.reveal()}", "BlindAI-Proxy-Token: wrong"),
            (f"BlindAI-Proxy-Token: {TOKEN.reveal()}", "Proxy-Authorization: Bearer wrong"),
            ("BlindAI-Proxy-Token: \xe9",),
        ],
    )
    def test_a_wrong_one_or_none(self, fields: tuple[str, ...]) -> None:
        assert code_of(Admission(token=TOKEN), "Host: localhost", *fields) == "proxy.token"


class TestOnTheWire:
    def test_a_refusal_is_a_problem_and_nothing_is_sent_on(
        self, start_proxy: StartProxy, speaker: AttestedSpeaker
    ) -> None:
        proxy = start_proxy(speaker.address, token=TOKEN)
        for line, status, code in [
            ("Host: localhost", 407, "proxy.token"),
            ("Host: evil.example", 421, "proxy.host"),
            ("Host: localhost\r\nOrigin: https://evil.example", 403, "proxy.origin"),
        ]:
            with Wire(proxy.port) as wire:
                wire.send(f"POST / HTTP/1.1\r\n{line}\r\nContent-Length: 6\r\n\r\nsecret".encode())
                answer = wire.response()
                answer.assert_problem(status, code)
                assert answer.headers["connection"] == "close"
                assert ("proxy-authenticate" in answer.headers) == (status == 407)
                assert "access-control-allow-origin" not in answer.headers
        assert (speaker.connections, bytes(speaker.heard)) == (0, b"")
        assert proxy.refused_codes == ["proxy.token", "proxy.host", "proxy.origin"]

    def test_an_allowed_page_may_read_the_answer(self, start_proxy: StartProxy, speaker: AttestedSpeaker) -> None:
        with Wire(start_proxy(speaker.address, token=TOKEN, origins=[ORIGIN]).port) as wire:
            # A browser asks without the token, which it keeps for the request itself.
            wire.send(
                f"OPTIONS /v2 HTTP/1.1\r\nHost: localhost\r\nOrigin: {ORIGIN}\r\n"
                "Access-Control-Request-Method: POST\r\n"
                "Access-Control-Request-Headers: blindai-proxy-token,content-type\r\n"
                "Access-Control-Request-Private-Network: true\r\n\r\n".encode()
            )
            answer = wire.response(head=True)
            assert answer.status == 204
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            assert answer.headers["access-control-allow-headers"] == "blindai-proxy-token,content-type"
            assert answer.headers["access-control-allow-private-network"] == "true"
            assert speaker.connections == 0
            wire.send(
                f"POST / HTTP/1.1\r\nHost: localhost\r\nOrigin: {ORIGIN}\r\nBlindAI-Proxy-Token: {TOKEN.reveal()}\r\n"
                "Content-Length: 2\r\n\r\nhi".encode()
            )
            answer = wire.response()
            assert (answer.status, answer.body) == (200, b"hi")
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            assert answer.headers["vary"] == "Origin"
        assert TOKEN.reveal().encode() not in speaker.heard

    @pytest.mark.parametrize("shown", ["", "BlindAI-Proxy-Token: wrong\r\n"])
    def test_an_allowed_page_can_read_that_its_token_is_wrong(
        self, start_proxy: StartProxy, speaker: AttestedSpeaker, shown: str
    ) -> None:
        """Browsers keep an answer 407 from pages."""
        proxy = start_proxy(speaker.address, token=TOKEN, origins=[ORIGIN])
        with Wire(proxy.port) as wire:
            wire.send(f"GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: {ORIGIN}\r\n{shown}\r\n".encode())
            answer = wire.response()
        answer.assert_problem(401, "proxy.token")
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["www-authenticate"] == 'Bearer realm="blindai proxy"'
        assert "proxy-authenticate" not in answer.headers
        assert [(one.status, one.error.code) for one in proxy.refusals] == [(401, "proxy.token")]
        assert speaker.connections == 0

    def test_a_foreign_page_is_not_told_that_it_may_ask(
        self, start_proxy: StartProxy, speaker: AttestedSpeaker
    ) -> None:
        with Wire(start_proxy(speaker.address, origins=[ORIGIN]).port) as wire:
            wire.send(
                b"OPTIONS / HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n"
                b"Access-Control-Request-Method: POST\r\n\r\n"
            )
            answer = wire.response()
            answer.assert_problem(403, "proxy.origin")
            assert "access-control-allow-origin" not in answer.headers
