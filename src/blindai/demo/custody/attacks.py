"""What a borrower may try, live. Each attack is carried out on the processes of the story, and must be refused."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

import blindai
from blindai.custody import log
from blindai.custody.audit import Finding, audit
from blindai.custody.keys import CustodianKeys
from blindai.demo.custody.forgery import Forgery
from blindai.demo.custody.processes import Enclave
from blindai.demo.custody.stage import HOSPITAL, INSURER, INSURER_BUDGET, MODEL_ID, Stage
from blindai.demo.story import StoryFailed
from blindai.errors import BlindAIError
from blindai.wire import custody as wire

RACERS: Final = 50

# What the back door adds to the enclave: it keeps the key of the model, and serves on as if nothing happened.
_BACK_DOOR: Final = """

_genuine_data_key = Keeper._data_key


def _stealing_data_key(self, sealed_key, grant):
    key = _genuine_data_key(self, sealed_key, grant)
    with open({loot!r}, "ab") as file:
        file.write(key)
    return key


Keeper._data_key = _stealing_data_key
"""


@dataclass(frozen=True)
class Outcome:
    """How an attack ended.

    Attributes:
        code: of the refusal; empty where there was none.
        message: of the refusal.
        kept: what has come of it otherwise, line by line.
        stolen: bytes that the attacker has.
    """

    code: str
    message: str
    kept: tuple[str, ...]
    stolen: int = 0


@dataclass(frozen=True)
class Attack:
    """One attack: what it is called, what the attacker does, how, and the code that must refuse it."""

    title: str
    story: str
    carry_out: Callable[[Stage], Outcome]
    code: str


def _forged_custodian(stage: Stage) -> Outcome:
    keys, mark = CustodianKeys.generate(), stage.enclave.mark()
    with Forgery(keys.sign, keys.public_key) as forgery, _bent(stage, forgery.port):
        refusal = stage.enclave.logged(mark, event="custodian", code="custodian.signature")
        heard = forgery.heard
    return _logged(refusal, f"the forger heard {heard} bytes behind its gate", stolen=heard)


def _replayed_grant(stage: Stage) -> Outcome:
    keys, recorded, mark = stage.office.keys, _latest_grant(stage), stage.enclave.mark()
    with Forgery(keys.sign, keys.public_key, {wire.RENEWALS: recorded}) as forgery, _bent(stage, forgery.port):
        before, granted = stage.hospital.look(), stage.granted(HOSPITAL)
        refusal = stage.enclave.logged(mark, event="custodian", code="lease.grant")
        after, gained = stage.hospital.look(), stage.granted(HOSPITAL) - granted
    if after.hard_ms >= before.hard_ms:
        raise StoryFailed("a replayed grant has given the enclave more time")
    return _logged(
        refusal, f"{gained} units were gained, and its time went on: {after.hard_ms} of {before.hard_ms} ms left"
    )


def _second_clone(stage: Stage) -> Outcome:
    before = _granted(stage)
    with stage.new_enclave("clone.log") as clone:
        refusal = clone.logged(event="custodian", code="lease.instances")
        answer = _asked(stage, clone, HOSPITAL)
    _require_no_grant(stage, before)
    return _logged(refusal, f"it got no grant and no key; its consumers are told {answer}")


def _restarted(stage: Stage) -> Outcome:
    stage.enclave.kill()
    lease, dead = stage.lease, stage.instance()
    lost = sum(dead.outstanding.values())
    left = next(one.budget or 0 for one in lease.accounts if one.consumer == HOSPITAL) - stage.granted(HOSPITAL)
    stage.enclave = stage.new_enclave("restarted.log")
    stage.enclave.logged(event="custodian", code="lease.instances")
    stage.enclave.logged(event="lease", state="serving")
    stage.admit_hospital(stage.enclave)
    ran = 0
    while not (answer := stage.ask(0)).code:
        ran += 1
    if ran != left:
        raise StoryFailed(f"the restarted enclave ran {ran} queries, where {left} were left")
    return Outcome(
        answer.code,
        answer.message,
        (
            f"{lost} units that the dead enclave held stay debited",
            f"it waited for that one's grant to run out, then ran {ran}: what had been granted to nobody",
        ),
    )


def _race(stage: Stage) -> Outcome:
    patient = stage.patients.features[:1]
    together = threading.Barrier(RACERS)

    def run(_: int) -> BlindAIError | None:
        with stage.connected(stage.enclave, INSURER) as client:
            client.model(MODEL_ID)
            together.wait()
            try:
                client.predict(MODEL_ID, patient)
            except BlindAIError as error:
                return error
            return None

    with ThreadPoolExecutor(RACERS, thread_name_prefix="racer") as racers:
        ends = list(racers.map(run, range(RACERS)))
    refusals = [end for end in ends if end is not None]
    ran = RACERS - len(refusals)
    stage.ran[INSURER] += ran
    codes = Counter(refusal.code for refusal in refusals)
    if ran != INSURER_BUDGET or len(codes) != 1:
        raise StoryFailed(f"of {RACERS} queries on a budget of {INSURER_BUDGET} {ran} ran; the others: {dict(codes)}")
    return Outcome(refusals[0].code, refusals[0].message, (f"{ran} of {RACERS} ran, {len(refusals)} were refused",))


def _edited_telemetry(stage: Stage) -> Outcome:
    keys, at = stage.office.keys, datetime.now(UTC)
    lines = [line.encode() for line in stage.office.ledger.export(stage.lease_id)]
    genuine = audit(lines, custodian=keys.public_key)
    if genuine.findings:
        raise StoryFailed(f"the genuine log is refused: {genuine.findings[0].message}")
    # Between the header and the footer.
    entries = [log.parse(line, log.SignedEntry) for line in lines[1:-1]]
    records = [number for number, signed in enumerate(entries) if signed.entry.kind is log.Kind.RECORD_ACCEPTED]
    for number in records:
        edited = _fewer(entries[number])
        by_borrower = [*lines[: number + 1], msgspec.json.encode(edited, order="sorted"), *lines[number + 2 :]]
        by_custodian = log.exported(
            keys.sign,
            custodian=keys.public_key,
            lease=stage.lease_id,
            entries=_signed_anew([*entries[:number], edited, *entries[number + 1 :]], keys.sign),
            at=at,
        )
        refusals = [
            _found(edition, number + 2, keys.public_key) for edition in (by_borrower, map(str.encode, by_custodian))
        ]
        if [refusal.code for refusal in refusals] != ["audit.signature", "audit.record"]:
            raise StoryFailed(f"the edited record is refused as {refusals}")
    return Outcome(
        refusals[0].code,
        f"line {refusals[0].line}: {refusals[0].message}",
        (
            f"each of {len(records)} records was edited, and found by its line among {len(lines)}",
            f"signed anew by the custodian himself: {refusals[1].code}, {refusals[1].message}",
        ),
    )


def _found(lines: Iterable[bytes], line: int, custodian: str) -> Finding:
    """The first thing that an audit finds, which must be in `line`."""
    findings = audit(lines, custodian=custodian).findings
    if not findings or findings[0].line != line:
        raise StoryFailed(f"the audit does not find what was changed in line {line}")
    return findings[0]


def _fewer(signed: log.SignedEntry) -> log.SignedEntry:
    """A record in which less was used than the enclave has counted; the signatures are those of before."""
    values = signed.entry.values
    for usage in values["record"]["counts"].values():
        usage["units"] = usage["queries"] = 0
    entry = msgspec.structs.replace(signed.entry, detail=log.detail(values))
    return msgspec.structs.replace(signed, entry=entry)


def _signed_anew(entries: Iterable[log.SignedEntry], sign: Callable[[bytes], bytes]) -> Iterator[log.SignedEntry]:
    """The same entries as a new chain, as whoever has the custodian's key can make it."""
    head = wire.FIRST
    for signed in entries:
        sealed = log.sealed(sign, msgspec.structs.replace(signed.entry, prev=head))
        head = sealed.entry.digest
        yield sealed


def _other_code(stage: Stage) -> Outcome:
    before = _granted(stage)
    with tempfile.TemporaryDirectory(prefix="blindai-demo-") as folder:
        loot = Path(folder, "loot")
        parent = install_key_thief(Path(folder, "package"), loot)
        with stage.new_enclave("back-door.log", package_parent=parent) as enclave:
            refusal = enclave.logged(event="custodian", code="code.unknown")
        stolen = loot.stat().st_size if loot.exists() else 0
    _require_no_grant(stage, before)
    return _logged(refusal, f"the back door has {stolen} bytes of the model's key", stolen=stolen)


def install_key_thief(folder: Path, loot: Path) -> Path:
    """Copy the running package into `folder`, with an enclave that writes the model's key to `loot`.

    Returns:
        The parent folder of the copy.
    """
    package = folder / "blindai"
    shutil.copytree(Path(blindai.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    with (package / "enclave" / "lease" / "keeper.py").open("a", encoding="utf-8") as file:
        file.write(_BACK_DOOR.format(loot=str(loot)))
    return folder


@contextmanager
def _bent(stage: Stage, port: int) -> Iterator[None]:
    """The borrower leads the enclave's calls elsewhere for a while."""
    with ExitStack() as after:
        after.callback(lambda: stage.line.bend(stage.custodian.port))
        stage.line.bend(port)
        yield


def _latest_grant(stage: Stage) -> bytes:
    """What the custodian last granted to the enclave, as an answer to any renewal."""
    instance = stage.instance().id
    granted = [
        event.detail
        for event in stage.office.ledger.events(stage.lease_id)
        if event.kind == log.Kind.GRANT_ISSUED and event.detail["grant"]["instance"] == instance
    ]
    answer: dict[str, Any] = {**granted[-1], "key": None, "version": stage.lease.version, "standings": {}}
    return msgspec.json.encode(answer)


def _granted(stage: Stage) -> set[str]:
    """The instances that were ever granted anything."""
    return {one.id for one in stage.lease.instances if one.grant_seq}


def _require_no_grant(stage: Stage, before: set[str]) -> None:
    """Nobody was granted anything who had not been `before`."""
    if _granted(stage) != before:
        raise StoryFailed("the attacker's enclave was granted something")


def _asked(stage: Stage, enclave: Enclave, consumer: str) -> str:
    """The code with which a query of a consumer's ends at another enclave."""
    try:
        with stage.connected(enclave, consumer) as client:
            client.predict(MODEL_ID, stage.patients.features[:1])
    except BlindAIError as error:
        return error.code
    stage.ran[consumer] += 1
    return "an answer"


def _logged(line: dict[str, Any], kept: str, *, stolen: int = 0) -> Outcome:
    """What an enclave has logged of a refusal."""
    return Outcome(line["code"], line["reason"], (kept,), stolen)


ATTACKS: Final = (
    Attack(
        "a forged custodian",
        "The borrower leads the enclave's calls to a custodian of his own: the same address, another key.",
        _forged_custodian,
        "custodian.signature",
    ),
    Attack(
        "a replayed grant",
        "He answers with a grant that he recorded, on a line that even passes for the custodian's own.",
        _replayed_grant,
        "lease.grant",
    ),
    Attack(
        "a second clone",
        "He starts the same enclave once more, with the same configuration and the same sealed model.",
        _second_clone,
        "lease.instances",
    ),
    Attack(
        "a race",
        f"The {INSURER} has a budget of {INSURER_BUDGET}, and sends {RACERS} queries at the same moment.",
        _race,
        "lease.budget_exhausted",
    ),
    Attack(
        "a restarted enclave",
        "He kills the enclave while it holds units, starts it again, and wants them back.",
        _restarted,
        "lease.budget_exhausted",
    ),
    Attack(
        "edited telemetry",
        "The log is exported, and in one record after the other somebody writes that less was used.",
        _edited_telemetry,
        "audit.signature",
    ),
    Attack(
        "an enclave that runs other code",
        "He adds a back door that keeps the model's key, and runs it in the same kind of enclave.",
        _other_code,
        "code.unknown",
    ),
)
