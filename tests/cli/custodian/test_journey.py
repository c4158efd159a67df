"""The custodian at the command line, as its operators use it: in this process, on files of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner, Result

from blindai.attestation.measure.local import local_policy
from blindai.cli.app import app
from blindai.custody.ledger import Ledger
from blindai.custody.operators import Role
from blindai.enclave.config import Custody, EnclaveConfig
from blindai.errors import Unavailable
from calling_instance import CallingInstance
from custodian import RunningCustodian
from custodian_processes import place_options
from enclave_server import node_model
from lent_models import OPERATOR, PASSWORD, Loan, opened

pytestmark = pytest.mark.usefixtures("cheap_passwords")

HARDWARE_POLICY = """\
version = 1
accepted_tees = ["intel-tdx"]
{chips}
[[code]]
tee = "intel-tdx"
name = "a release"
mrtd = "{digest}"
rtmr1 = "{digest}"
rtmr2 = "{digest}"
"""


class Desk:
    """The command line of one custodian.

    Attributes:
        folder: the custodian's.
    """

    def __init__(self, folder: Path, url: str | None) -> None:
        self.folder = folder
        self.url = url
        with opened(folder, url):
            pass
        self.password = folder / "password"
        self.password.write_text(PASSWORD + "\n")
        node = onnx.helper.make_node("Add", ["x", "b"], ["y"])
        (folder / "model.onnx").write_bytes(node_model(node, size=4, b=np.ones((1, 4), np.float32)))
        (folder / "manifest.toml").write_text(local_policy().to_toml())

    def look(self, *arguments: str | Path) -> Result:
        """A command that decides nothing."""
        return CliRunner().invoke(
            app, ["custodian", *map(str, arguments), *map(str, place_options(self.folder, self.url))]
        )

    def act(self, *arguments: str | Path, by: str = OPERATOR) -> Result:
        """A command of an operator."""
        return self.look(*arguments, "--as", by, "--password-file", self.password)

    def json(self, *arguments: str | Path, by: str = OPERATOR) -> Any:
        """What a command of an operator prints as JSON."""
        done = self.act(*arguments, "--json", by=by)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def shown(self, lease: str) -> Any:
        return json.loads(self.look("lease", "show", lease, "--json").stdout)

    def leases(self) -> Any:
        return json.loads(self.look("lease", "list", "--json").stdout)

    def refused(self, result: Result, code: str, exit_code: int) -> None:
        assert (result.exit_code, code in result.output) == (exit_code, True), result.output

    def lend(self, *more: str | Path) -> Any:
        return self.json(
            "lease",
            "create",
            "Resnet for the clinic",
            "--model",
            self.folder / "model.onnx",
            "--model-id",
            "acme/resnet",
            "--policy",
            self.folder / "manifest.toml",
            "--budget",
            "1000",
            *more,
        )


@pytest.fixture
def desk(tmp_path: Path, database_url: str) -> Desk:
    return Desk(tmp_path / "custodian", database_url)


@pytest.fixture
def small_desk(tmp_path: Path) -> Desk:
    """As `desk`, on SQLite alone: for what has nothing to do with the database."""
    return Desk(tmp_path / "custodian", None)


def test_a_lease_is_made_shown_stopped_and_resumed(desk: Desk) -> None:
    made = desk.lend("--consumer", "clinic=100", "--consumer", "lab", "--borrower", "Hospital")
    lease = made["lease"]["id"]
    assert [(one["consumer"], one["budget"]) for one in made["lease"]["accounts"]] == [("clinic", 100), ("lab", None)]
    assert set(made["tokens"]) == {"clinic", "lab"}
    assert (made["lease"]["soft_ms"], made["lease"]["ttl_ms"]) == (45_000, 60_000)
    artefact = Path(made["artefact"])
    assert artefact.parent == desk.folder / "artefacts"
    assert artefact.stat().st_mode & 0o777 == 0o600

    # What is printed for the borrower is what an enclave reads.
    toml = "\n".join(["[custody]", *(f'{name} = "{value}"' for name, value in made["custody"].items())])
    custody = EnclaveConfig.parse(toml, "test").custody
    assert isinstance(custody, Custody)
    assert (custody.lease, custody.model_id) == (lease, "acme/resnet")

    listed = desk.look("lease", "list")
    assert lease in listed.stdout
    shown = desk.look("lease", "show", lease)
    assert made["custody"]["public_key"] in shown.stdout
    assert "clinic" in shown.stdout
    assert desk.json("stop", lease, "--reason", "audit")["state"] == "stopped"
    assert "audit" in desk.look("lease", "show", lease).stdout
    assert desk.json("resume", lease)["state"] == "active"
    assert desk.json("pause", lease)["state"] == "paused"
    assert desk.json("resume", lease)["state"] == "active"


def test_requests_are_granted_and_denied(desk: Desk) -> None:
    lease = desk.lend("--consumer", "clinic=100", "--consumer", "lab=100")["lease"]["id"]
    with opened(desk.folder, desk.url) as custodian:
        running = RunningCustodian(custodian)
        try:
            loan = Loan(lease, "acme/resnet", b"", b"", Path(), {}, custodian.keys.public_key)
            instance = CallingInstance(loan, running.enclaves).call()
            clinic, lab = (instance.request(name, 50) for name in ("clinic", "lab"))
            assert desk.json("budget", "grant", clinic.id, "--amount", "30")["state"] == "approved"
            assert desk.json("budget", "deny", lab.id, "--reason", "enough")["state"] == "denied"
            assert clinic.id in desk.look("lease", "show", lease).stdout
            instance.hang_up()
        finally:
            running.close()
    assert [one["budget"] for one in desk.shown(lease)["accounts"]] == [130, 100]


def test_budgets_are_raised(desk: Desk) -> None:
    lease = desk.lend("--consumer", "clinic=100")["lease"]["id"]
    assert desk.json("budget", "raise", lease, "500") == {"lease": lease, "consumer": None, "raised": 500}
    assert desk.json("budget", "raise", lease, "50", "--consumer", "clinic")["raised"] == 50
    shown = desk.shown(lease)
    assert (shown["budget"], shown["accounts"][0]["budget"]) == (1500, 150)


@pytest.mark.parametrize("amount", ["0", "-5", "1000000000001"])
def test_amounts_that_are_none_are_refused(small_desk: Desk, amount: str) -> None:
    lease = small_desk.lend("--open")["lease"]["id"]
    assert small_desk.act("budget", "raise", lease, "--", amount).exit_code in {2, 5}
    assert small_desk.shown(lease)["budget"] == 1000


def test_two_must_agree(desk: Desk) -> None:
    with opened(desk.folder, desk.url) as custodian:
        custodian.operators.add("bob", Role.OPERATOR, PASSWORD)
    lease = desk.lend("--open", "--approvals", "2")["lease"]["id"]
    desk.json("stop", lease)
    proposed = desk.json("resume", lease)
    assert (proposed["state"], proposed["agreed"]) == ("open", [OPERATOR])
    assert "waits for 1 more" in desk.act("resume", lease).stdout
    assert proposed["id"] in desk.look("lease", "show", lease).stdout
    assert desk.json("agree", proposed["id"], by="bob")["state"] == "carried"
    assert desk.shown(lease)["state"] == "active"
    raising = desk.json("budget", "raise", lease, "5")
    assert desk.json("withdraw", raising["id"], by="bob")["state"] == "withdrawn"


def test_consumers_come_and_their_tokens_go(desk: Desk) -> None:
    lease = desk.lend("--consumer", "clinic")["lease"]["id"]
    added = desk.json("consumer", "add", lease, "lab", "--budget", "10")
    assert added["token"].startswith("bct_")
    assert desk.json("consumer", "token", lease, "lab")["token"].startswith("bct_")
    words = desk.act("consumer", "token", lease, "clinic")
    assert words.stdout.strip().startswith("bct_")  # alone on standard output: for a pipe
    assert desk.json("consumer", "revoke", lease, "lab") == {"lease": lease, "revoked": "lab"}
    accounts = desk.shown(lease)["accounts"]
    assert {one["consumer"]: one["token_epoch"] for one in accounts} == {"clinic": 0, "lab": 1}


def test_an_export_can_be_audited(desk: Desk, tmp_path: Path) -> None:
    lease = desk.lend("--open")["lease"]["id"]
    desk.json("stop", lease)
    file = tmp_path / "export.jsonl"
    assert desk.look("export", lease, "--output", file).exit_code == 0
    assert desk.look("export", lease).stdout.splitlines()[:-1] == file.read_text().splitlines()[:-1]
    assert CliRunner().invoke(app, ["custodian", "audit", str(file)]).exit_code == 0
    again = desk.look("export", lease, "--output", file)
    desk.refused(again, "configuration.output", 2)


def test_words_are_for_people_and_json_for_programs(small_desk: Desk) -> None:
    assert "no leases" in small_desk.look("lease", "list").stdout
    assert small_desk.leases() == []
    lease = small_desk.lend("--open")["lease"]["id"]
    for arguments in (("stop", lease), ("resume", lease), ("pause", lease), ("budget", "raise", lease, "5")):
        assert small_desk.act(*arguments).exit_code == 0
    words = small_desk.act("lease", "create", "A [bold]name[/]", *_creation(small_desk), "--consumer", "clinic")
    assert words.exit_code == 0
    assert "[custody]" in words.stdout
    assert "bct_" in words.stdout


def _creation(desk: Desk) -> list[str | Path]:
    return [
        "--model",
        desk.folder / "model.onnx",
        "--model-id",
        "acme/resnet",
        "--policy",
        desk.folder / "manifest.toml",
        "--budget",
        "10",
    ]


# Refusals.


def test_nobody_decides_without_a_name(small_desk: Desk) -> None:
    small_desk.refused(small_desk.look("stop", "lease-" + "a" * 16), "operator.unnamed", 2)


def test_a_wrong_password_decides_nothing(small_desk: Desk) -> None:
    lease = small_desk.lend("--open")["lease"]["id"]
    small_desk.password.write_text("another password altogether")
    small_desk.refused(small_desk.act("stop", lease), "authentication.password", 6)
    assert small_desk.shown(lease)["state"] == "active"


def test_a_viewer_may_not_stop(small_desk: Desk) -> None:
    with opened(small_desk.folder) as custodian:
        custodian.operators.add("vera", Role.VIEWER, PASSWORD)
    lease = small_desk.lend("--open")["lease"]["id"]
    small_desk.refused(small_desk.act("stop", lease, by="vera"), "operator.role", 6)


def test_a_custodian_without_operators_says_how_to_make_one(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["custodian", "stop", "lease-" + "a" * 16, "--data", str(tmp_path), "--as", "x"])
    assert (result.exit_code, "operator.none" in result.output) == (2, True)
    assert "operator add" in result.output


def test_an_unknown_lease_is_named(small_desk: Desk) -> None:
    small_desk.refused(small_desk.look("lease", "show", "lease-" + "a" * 16), "lease.unknown", 5)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), "lease.consumers"),
        (("--open", "--consumer", "clinic"), "lease.consumers"),
        (("--consumer", "clinic=ten"), "lease.consumers"),
        (("--consumer", "clinic=1_0"), "lease.consumers"),
        (("--consumer", "clinic=-1"), "lease.consumers"),
        (("--consumer", "clinic", "--consumer", "clinic=5"), "lease.consumers"),
        (("--consumer", "Clinic!"), "lease.consumers"),
        (("--consumer", "clinic=0"), "amount.zero"),
        (("--open", "--soft", "60", "--ttl", "30"), "lease.time"),
        (("--open", "--soft", "0"), "lease.time"),
        (("--open", "--max-instances", "0"), "lease.max_instances"),
        (("--open", "--approvals", "99"), "lease.approvals"),
        (("--open", "--model-id", "resnet"), "lease.model_id"),
        (("--open", "--budget", "0"), "amount.zero"),
        (("--open", "--model", "nothing.onnx"), "model.file_missing"),
        (("--open", "--policy", "nothing.toml"), "policy.missing"),
    ],
)
def test_terms_that_are_none_leave_nothing_behind(small_desk: Desk, arguments: tuple[str, ...], code: str) -> None:
    done = small_desk.act("lease", "create", "name", *_creation(small_desk), *arguments)
    assert done.exit_code in {2, 5}
    assert code in done.output
    assert small_desk.leases() == []
    folder = small_desk.folder / "artefacts"
    assert not folder.exists() or not list(folder.iterdir())


def test_a_policy_that_lists_no_chips_is_refused_in_words(small_desk: Desk) -> None:
    manifest = small_desk.folder / "manifest.toml"
    manifest.write_text(HARDWARE_POLICY.format(chips="", digest="ab" * 48))
    done = small_desk.act("lease", "create", "name", *_creation(small_desk), "--open")
    small_desk.refused(done, "lease.chips", 2)
    for word in ("TEE.fail", "Battering RAM", "WireTap", "--any-chip"):
        assert word in done.output
    assert small_desk.act("lease", "create", "name", *_creation(small_desk), "--open", "--any-chip").exit_code == 0
    manifest.write_text(HARDWARE_POLICY.format(chips=f'[chips]\nallowed = ["{"ab" * 16}"]', digest="ab" * 48))
    assert small_desk.act("lease", "create", "name", *_creation(small_desk), "--open").exit_code == 0


def test_a_database_that_changed_its_mind_leaves_no_artefact(small_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise Unavailable("the disk is full", code="unavailable.disk_full")

    monkeypatch.setattr(Ledger, "create", full)
    done = small_desk.act("lease", "create", "name", *_creation(small_desk), "--open")
    small_desk.refused(done, "unavailable.disk_full", 8)
    assert not list((small_desk.folder / "artefacts").iterdir())
