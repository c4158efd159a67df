"""Which enclaves there are: admitted by their attestation, found in the directory, forgotten after a while."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from blindai.attestation.result import Status
from blindai.cloud import tables
from blindai.cloud.fleet import InstanceView, instances
from blindai.errors import PermissionDenied
from blindai.wire import cloud as wire
from cloud_scene import CloudScene, PlayedEnclave, Tenant


def view(scene: CloudScene, enclave: PlayedEnclave) -> InstanceView:
    (found,) = (one for one in scene.plane.fleet.instances() if one.id == enclave.id)
    return found


def addresses(scene: CloudScene) -> list[str]:
    return [one.address for one in scene.plane.fleet.directory("A cloud").endpoints]


def test_who_attested_itself_is_in_the_directory(scene: CloudScene, enclave: PlayedEnclave) -> None:
    directory = scene.plane.fleet.directory("A cloud")
    assert directory.name == "A cloud"
    assert [one.simulated for one in directory.endpoints if one.address == enclave.endpoint] == [True]
    shown = view(scene, enclave)
    assert (shown.endpoint, shown.simulated, shown.current, shown.present) == (enclave.endpoint, True, True, True)
    assert shown.verdict["status"] == "affirming"


def test_a_second_connection_is_no_second_instance(scene: CloudScene, enclave: PlayedEnclave) -> None:
    before = view(scene, enclave)
    scene.clock.shift = 100
    enclave.admit()
    after = view(scene, enclave)
    assert (after.first_seen, after.last_seen > before.last_seen) == (before.first_seen, True)


def test_the_endpoint_belongs_to_who_reported_last(scene: CloudScene, enclave: PlayedEnclave) -> None:
    again = scene.played(enclave.endpoint)
    assert (view(scene, enclave).current, view(scene, again).current) == (True, False)
    again.report(first=True)
    assert (view(scene, enclave).current, view(scene, again).current) == (False, True)
    assert addresses(scene).count(enclave.endpoint) == 1


def test_silence_ends_in_leaving_the_directory_and_a_word_in_coming_back(
    scene: CloudScene, enclave: PlayedEnclave
) -> None:
    scene.clock.shift = instances.PRESENCE_SECONDS + 2
    assert enclave.endpoint not in addresses(scene)
    assert not view(scene, enclave).present
    enclave.report()
    assert enclave.endpoint in addresses(scene)


def test_a_question_is_a_sign_of_life(scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant) -> None:
    before = view(scene, enclave).last_seen
    scene.clock.shift = instances.TOUCH_SECONDS + 2
    enclave.ask(tenant.key)
    assert view(scene, enclave).last_seen > before


def test_who_is_gone_for_long_is_forgotten(scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant) -> None:
    enclave.report(totals=(wire.UsageTotal(namespace=tenant.name, key_id=tenant.key.id, queries=1),))
    scene.clock.shift = instances.MEMORY_SECONDS + 2
    scene.played("https://newcomer.test:9443")
    assert enclave.id not in {one.id for one in scene.plane.fleet.instances()}
    with scene.plane.database.read() as connection:
        kept = sa.select(sa.func.count()).select_from(tables.totals).where(tables.totals.c.instance == enclave.id)
        assert connection.execute(kept).scalar_one() == 0


@pytest.mark.parametrize("config", [{"name": "x"}, {"cloud": {"address": "a:1", "public_key": "ab" * 32}}])
def test_another_control_plane_in_the_configuration_is_refused(scene: CloudScene, config: dict[str, Any]) -> None:
    with pytest.raises(PermissionDenied) as caught:
        scene.played(**config)
    assert caught.value.code == "fleet.config"


@pytest.mark.parametrize("change", [{"status": Status.CONTRAINDICATED}, {"keyset_digest": "ab" * 32}])
def test_a_verdict_that_is_no_acceptance_is_refused(
    scene: CloudScene, enclave: PlayedEnclave, change: dict[str, Any]
) -> None:
    caller = enclave.caller()
    other = caller._replace(result=msgspec.structs.replace(caller.result, **change))
    with pytest.raises(PermissionDenied) as caught:
        scene.plane.fleet.admit(other)
    assert caught.value.code == "fleet.attestation"
