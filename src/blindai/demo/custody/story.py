"""The story of `blindai demo custody`: a model is lent, metered, stopped, resumed and expires; then everyone cheats.

Everything in it is real but the hardware: three processes, sockets, attested TLS, quotes and verifiers, the ledger, the
sealed model. What the operators do is done as the command line does it, on the custodian's database.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import onnxruntime
from rich.markup import escape
from rich.table import Table

from blindai.custody.log import Kind
from blindai.demo import programs
from blindai.demo.custody import memory
from blindai.demo.custody.attacks import ATTACKS, Attack
from blindai.demo.custody.stage import (
    DEPUTY,
    HOSPITAL,
    HOSPITAL_BUDGET,
    LEAD,
    MODEL_ID,
    SOFT_MS,
    TTL_MS,
    Stage,
    StopWatch,
    entropy,
    staged,
)
from blindai.demo.patients import MODEL_FILE
from blindai.demo.processes import until
from blindai.demo.story import Refusal, StoryFailed

if TYPE_CHECKING:
    from rich.console import Console

# More than the hospital asked for: an operator may approve another amount.
APPROVED: Final = 40

# How long the hospital's call waits for the operators.
_PATIENCE_SECONDS: Final = 30.0

# Between two looks at the dead man's switch.
_COUNTDOWN_SECONDS: Final = 1.0

# So many bytes of a model that occur in its sealed form are no chance.
_SEARCHED_BYTES: Final = 8


@dataclass
class Scan:
    """What a search of the enclave's memory found: occurrences of the key, and of pieces of the weights."""

    when: str
    key: int
    weights: int


@dataclass
class Summary:
    """What the story found, for machines. Times in milliseconds."""

    simulated: bool = True
    answered: int = 0
    largest_difference: float = 0.0
    exhausted: dict[str, Any] = field(default_factory=dict)
    approval_ms: float = 0.0
    stop_acknowledged_ms: float = 0.0
    stop_refused_ms: float = 0.0
    resume_ms: float = 0.0
    expiry_refused_ms: float = 0.0
    expiry_wiped_ms: float = 0.0
    scans: list[Scan] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    budget: int = 0
    granted: int = 0
    spent: int = 0
    ran: int = 0
    seconds: float = 0.0

    def to_builtins(self) -> dict[str, Any]:
        return asdict(self)


def tell(console: Console) -> Summary:
    """Play the story on `console`.

    Raises:
        StoryFailed: something was not as it must be.
        BlindAIError: a step failed.
    """
    started = time.perf_counter()
    summary = Summary()
    console.print("[bold]BlindAI[/]: a model on loan that its owner can stop       [bold yellow]SIMULATED platform[/]")
    console.print("[dim]Real processes, TLS, quotes, ledger; only the hardware is played by software.[/]\n")
    with tempfile.TemporaryDirectory(prefix="blindai-demo-") as folder, staged(console, Path(folder)) as stage:
        for scene in (_lend, _ship, _attest, _query, _exhaust, _approve, _stop, _resume, _expire):
            scene(stage, summary)
            console.print()
        console.print("[bold]10.[/] Now everyone cheats. Each attack is carried out on the processes above.\n")
        for attack in ATTACKS:
            summary.refusals.append(_attack(stage, attack))
        _settle(stage, summary)
    summary.seconds = time.perf_counter() - started
    _end(console, summary)
    return summary


def _lend(stage: Stage, _: Summary) -> None:
    stage.open_office()
    stage.start_custodian()
    stage.head(1, f"The custodian starts in a process of its own. Its operators: {LEAD} and {DEPUTY}")
    stage.command(f"blindai custodian operator add {LEAD}; blindai custodian serve")
    stage.say(f"enclaves call 127.0.0.1:{stage.custodian.port}, operators look at {escape(stage.custodian.dashboard)}")
    stage.seal_model()
    stage.lend()
    stage.command(
        f"blindai custodian lease create ... --consumer {HOSPITAL}={HOSPITAL_BUDGET} --max-instances 1 --approvals 2"
    )
    stage.say(f"{stage.lease_id}: {MODEL_ID}, {HOSPITAL_BUDGET} queries for the {HOSPITAL}")
    stage.say("the policy: this package's code, as measured here; one processor; one enclave at a time")
    stage.say(f"without a word from the custodian: no query after {SOFT_MS // 1000} s, wiped after {TTL_MS // 1000} s")


def _ship(stage: Stage, _: Summary) -> None:
    sealed = stage.ship()
    found = sum(
        stage.model[at : at + _SEARCHED_BYTES] in sealed for at in range(len(stage.model) - _SEARCHED_BYTES + 1)
    )
    if found:
        raise StoryFailed(f"{found} pieces of the model lie open in its sealed form")
    stage.head(2, f"The model is shipped encrypted: the borrower has {stage.shipped.name}, {len(sealed):,} bytes")
    stage.say(f"of {len(stage.model):,} bytes of the model, no {_SEARCHED_BYTES} in a row occur in it")
    stage.say(f"{entropy(sealed):.2f} bits of entropy for each byte, where the model has {entropy(stage.model):.2f}")


def _attest(stage: Stage, _: Summary) -> None:
    stage.line.cut()
    stage.enclave = stage.new_enclave()
    stage.start_hospital()
    stage.admit_hospital(stage.enclave)
    stage.head(3, f"The borrower's enclave starts: {escape(stage.enclave.address)}")
    stage.command("blindai serve --config enclave.toml --sealed-model model.sealed")
    early = stage.hospital.ask(0)
    stage.expect(early, "lease.waiting", "a query before the custodian was reached")
    stage.say(f"before it has reached the custodian a query is [red]refused[/]: {early.code}")
    stage.line.bend(stage.custodian.port)
    stage.enclave.logged(event="lease", state="serving")
    stage.say("it calls the custodian, who attests it before a key leaves:")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 3))
    verdict = stage.instance().verdict
    for check in verdict["checks"]:
        if check["outcome"] == "PASS":
            table.add_row("[green]PASS[/]", escape(check["name"]))
    stage.console.print(table)
    events = stage.office.ledger.events(stage.lease_id)
    attested, granted = (
        next(event.seq for event in events if event.kind == kind)
        for kind in (Kind.INSTANCE_ATTESTED, Kind.GRANT_ISSUED)
    )
    if attested > granted:
        raise StoryFailed("a grant was made before the enclave was attested")
    stage.say(f"entry {attested} of the signed log: attested; entry {granted}: granted, the key sealed to it alone")


def _query(stage: Stage, summary: Summary) -> None:
    stage.head(4, f"The {HOSPITAL}, in a process of its own, asks about {HOSPITAL_BUDGET} patients")
    session = onnxruntime.InferenceSession(stage.model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for patient in range(HOSPITAL_BUDGET):
        answer = stage.ask(patient)
        stage.expect(answer, "", f"query {patient + 1}")
        (_, probabilities) = session.run(None, {name: stage.patients.features[patient : patient + 1]})
        difference = abs(float(probabilities[0][1]) - float(answer.malignant or 0))
        summary.answered += 1
        summary.largest_difference = max(summary.largest_difference, difference)
    if summary.largest_difference:
        raise StoryFailed("the enclave's predictions differ from those of a local run")
    until(lambda: stage.spent(HOSPITAL) == HOSPITAL_BUDGET or None, "the record of the queries")
    stage.say(f"{summary.answered} answers, [green]equal[/] to a local run of the same model, bit for bit")
    stage.say(
        f"the ledger has counted {stage.spent(HOSPITAL)} of {HOSPITAL_BUDGET}, by records that the enclave signed"
    )


def _exhaust(stage: Stage, summary: Summary) -> None:
    answer = stage.ask(HOSPITAL_BUDGET)
    stage.expect(answer, "lease.budget_exhausted", f"query {HOSPITAL_BUDGET + 1}")
    if (answer.used, answer.granted) != (HOSPITAL_BUDGET, HOSPITAL_BUDGET) or not answer.request:
        raise StoryFailed(f"the refusal says {answer.used} of {answer.granted}, request {answer.request!r}")
    summary.exhausted = {
        "used": answer.used,
        "granted": answer.granted,
        "request_id": answer.request,
        "state": answer.state,
    }
    stage.head(5, f"Query {HOSPITAL_BUDGET + 1} is [red]refused[/]: {answer.code}")
    stage.say(f"used {answer.used}, granted {answer.granted}; the enclave filed {answer.request}, {answer.state}")


def _approve(stage: Stage, summary: Summary) -> None:
    ledger = stage.office.ledger
    stage.head(6, f"The {HOSPITAL} waits: predict(..., wait_for_budget={_PATIENCE_SECONDS:.0f})")
    stage.hospital.begin(HOSPITAL_BUDGET, wait_seconds=_PATIENCE_SECONDS)
    request = str(summary.exhausted["request_id"])
    stage.command(f"blindai custodian budget grant {request} --amount {APPROVED} --as {LEAD}")
    proposal = ledger.approve(request, amount=APPROVED, by=LEAD)
    if proposal is None:
        raise StoryFailed("one operator alone has raised a budget that needs two")
    stage.command(f"blindai custodian agree {proposal.id} --as {DEPUTY}")
    watch = StopWatch()
    ledger.agree(proposal.id, by=DEPUTY)
    answer = stage.hospital.answer()
    stage.expect(answer, "", "the query that waited")
    stage.ran[HOSPITAL] += 1
    summary.approval_ms = (answer.at - watch.started) * 1000
    stage.say(f"the query that waited [green]is answered[/] {summary.approval_ms:.0f} ms after {DEPUTY} agreed")


def _stop(stage: Stage, summary: Summary) -> None:
    ledger = stage.office.ledger
    stage.head(7, "An operator stops the model. One is enough for that")
    _scan(stage, summary, "while it serves", expected=True)
    stage.command(f"blindai custodian stop {stage.lease_id} --as {LEAD}")
    watch, mark = StopWatch(), stage.enclave.mark()
    version = ledger.stop(stage.lease_id, by=LEAD, reason="for a test").changed_version
    answer = stage.ask_until("lease.stopped")
    summary.stop_refused_ms = (answer.at - watch.started) * 1000
    acknowledged = until(
        lambda: stage.acknowledged(version),
        "the enclave's acknowledgement",
    )
    summary.stop_acknowledged_ms = (acknowledged - watch.started) * 1000
    stage.say(f"first query refused after {summary.stop_refused_ms:.0f} ms: {answer.code}, {escape(answer.message)}")
    stage.say(f"the enclave has acknowledged it after {summary.stop_acknowledged_ms:.0f} ms")
    stage.enclave.logged(mark, event="model_wiped", why="stopped")
    _scan(stage, summary, "after the stop", expected=False)


def _resume(stage: Stage, summary: Summary) -> None:
    ledger = stage.office.ledger
    stage.head(8, "Resuming it takes two operators")
    stage.command(f"blindai custodian resume {stage.lease_id} --as {LEAD}")
    proposal = ledger.resume(stage.lease_id, by=LEAD)
    if proposal is None:
        raise StoryFailed("one operator alone has resumed a lease that needs two")
    answer = stage.ask(0)
    stage.expect(answer, "lease.stopped", "a query after one of two had agreed")
    stage.say(f"{len(proposal.agreed)} of {proposal.needed} agree: a query is still [red]refused[/]")
    stage.command(f"blindai custodian agree {proposal.id} --as {DEPUTY}")
    watch = StopWatch()
    ledger.agree(proposal.id, by=DEPUTY)
    answer = stage.ask_until("")
    summary.resume_ms = (answer.at - watch.started) * 1000
    stage.say(f"[green]answered[/] again {summary.resume_ms:.0f} ms after {DEPUTY} agreed, by the same process")
    # The grant answers what was asked while the lease was stopped, and most of its time has gone.
    until(lambda: stage.hospital.look().soft_ms > SOFT_MS / 2 or None, "a renewal")


def _expire(stage: Stage, summary: Summary) -> None:
    before, mark = stage.lease, stage.enclave.mark()
    watch = StopWatch()
    stage.custodian.kill()
    stage.head(9, "The custodian is killed (kill -9), and says nothing any more: the dead man's switch")
    answer = stage.ask(0)
    stage.expect(answer, "", "a query right after the custodian was killed")
    while (view := stage.hospital.look()).soft_ms:
        stage.say(f"{view.soft_ms / 1000:.1f} s until no query starts, {view.hard_ms / 1000:.1f} s until it is wiped")
        time.sleep(min(view.soft_ms / 1000, _COUNTDOWN_SECONDS))
    answer = stage.ask_until("lease.expired")
    summary.expiry_refused_ms = (answer.at - watch.started) * 1000
    stage.say(f"[red]refused[/] {summary.expiry_refused_ms / 1000:.1f} s after the kill: {answer.code}")
    stage.enclave.logged(mark, event="model_wiped", why="expired")
    summary.expiry_wiped_ms = watch.ms
    stage.say(f"key and weights were wiped {summary.expiry_wiped_ms / 1000:.1f} s after the kill")
    _scan(stage, summary, "after the expiry", expected=False)
    stage.start_custodian()
    stage.ask_until("")
    after = stage.lease
    if after.budget != before.budget or after.granted < before.granted or after.spent < before.spent:
        raise StoryFailed("the custodian has forgotten what it granted")
    stage.say("the custodian starts again on its database, and the lease goes on; nothing was forgotten:")
    stage.say(f"budget {after.budget}, granted {after.granted}, spent {after.spent}; the enclave was not restarted")


def _scan(stage: Stage, summary: Summary, when: str, *, expected: bool) -> None:
    """Search the enclave's memory; it must hold the weights where `expected`, else neither key nor weights."""
    if not memory.searchable():
        stage.say(f"the enclave's memory {when} is not searched: that takes Linux with glibc")
        return
    try:
        key = memory.occurrences(stage.enclave.id, [stage.sealed.key[:16], stage.sealed.key[16:]])
        weights = memory.occurrences(stage.enclave.id, memory.weights(stage.model))
    except PermissionError:
        stage.say(f"the enclave's memory {when} is not searched: this system lets nobody look (ptrace_scope)")
        return
    summary.scans.append(Scan(when, key, weights))
    if expected and not weights:
        raise StoryFailed("the search of the memory does not find weights that are there")
    if not expected and (key or weights):
        raise StoryFailed(f"{when} the memory holds {weights} pieces of the weights and {key} of the key")
    used = " (wiped after use)" if expected and not key else ""
    stage.say(f"a search of the enclave's memory {when}: {weights} pieces of the weights, {key} of the key{used}")


def _attack(stage: Stage, attack: Attack) -> Refusal:
    stage.say(f"[bold]{attack.title}[/]")
    stage.say(f"[dim]{attack.story}[/]")
    outcome = attack.carry_out(stage)
    if outcome.code != attack.code:
        raise StoryFailed(f"{attack.title} ended as {outcome.code or 'a success'}, not as {attack.code}")
    stage.say(f"[red]REFUSED[/] {escape(outcome.message)}")
    for line in (f"code {outcome.code}", *outcome.kept):
        stage.say(f"        {escape(line)}")
    stage.console.print()
    return Refusal(attack.title, outcome.code, outcome.message, outcome.stolen)


def _settle(stage: Stage, summary: Summary) -> None:
    """End the enclave in good order, and compare what ran with what was paid."""
    stage.enclave.stop()
    lease = stage.lease
    summary.budget, summary.granted, summary.spent = lease.budget, lease.granted, lease.spent
    summary.ran = sum(stage.ran.values())
    if not summary.ran <= summary.granted <= summary.budget or summary.spent > summary.granted:
        raise StoryFailed(
            f"{summary.ran} queries ran, {summary.spent} are spent, {summary.granted} granted, of {summary.budget}"
        )
    stage.console.print(
        f"[bold]11.[/] {summary.ran} queries ran; spent {summary.spent} <= granted {summary.granted} <= "
        f"budget {summary.budget}: never overspent\n"
    )


def _end(console: Console, summary: Summary) -> None:
    console.print(
        f"[green]All {len(summary.refusals)} attacks were refused.[/] The whole story took {summary.seconds:.1f} s.\n"
    )
    program, python = programs.programs()
    model = programs.near(MODEL_FILE)
    _show(
        console,
        "[bold]Now you[/]. The custodian, and who may decide:",
        f"{program} custodian operator add {LEAD}",
        f"{program} custodian serve",
    )
    _show(
        console,
        "Its dashboard is at https://127.0.0.1:9445. In another terminal, lend the model:",
        f"{program} measure -o manifest.toml",
        f"{program} custodian lease create clinic --model {model} \\",
        f"    --model-id {MODEL_ID} --policy manifest.toml \\",
        f"    --budget 100 --consumer {HOSPITAL}=10 --as {LEAD}",
    )
    _show(
        console,
        r"It prints a table \[custody] and a token. The table is the borrower's enclave.toml:",
        f"{program} serve --platform simulated-tdx --config enclave.toml",
    )
    _show(
        console,
        f"The token is the {HOSPITAL}'s, in {python}, in the folder of that manifest.toml:",
        "import blindai",
        "from blindai.demo.patients import load_patients",
        'with blindai.Connection(addr="https://127.0.0.1:9443", api_key="bct_...") as client:',
        f'    prediction = client.predict("{MODEL_ID}", load_patients().features[:1])',
        "print(prediction.output[0].as_numpy())",
    )


def _show(console: Console, what: str, *lines: str) -> None:
    """What the reader can try."""
    console.print(what)
    for line in lines:
        console.print(f"   {line}", markup=False)
    console.print()
