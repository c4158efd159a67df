"""A control plane at work: both ports, from an account to a key that an enclave asks about."""

from __future__ import annotations

from blindai.wire import cloud as wire
from cloud_scene import CloudScene, question


def test_a_key_from_sign_up_to_its_refusal(scene: CloudScene) -> None:
    user = scene.join("alice")
    key = scene.key(user, "alice")
    enclave = scene.played()
    with scene.served() as running:
        line = enclave.call(running.enclaves)
        asked = question(key)
        (signed,) = line.ask(wire.AUTHORISATIONS, asked, wire.AuthorisationAnswer).assertions
        assert (signed.assertion.namespace, signed.assertion.key_id) == ("alice", key.id)
        scene.plane.accounts.revoke_key(user, "alice", key.id)
        answer = line.ask(wire.AUTHORISATIONS, asked, wire.AuthorisationAnswer)
        assert answer == wire.AuthorisationAnswer(refused=(wire.Refused(key.digest),))
        line.hang_up()
