"""The story of `blindai demo`, from nothing to a confidential prediction, and five attacks that fail.

Everything in it is real but the hardware: processes, sockets, TLS, quotes, verifiers, the model and the patients.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from rich.markup import escape
from rich.table import Table

from blindai.attestation.measure.local import local_policy
from blindai.client.connection import Connection
from blindai.demo import programs
from blindai.demo.attacks import ATTACKS, Attack
from blindai.demo.enclaves import RUNTIME, served
from blindai.demo.patients import MODEL_FILE, Patients, load_model, load_patients
from blindai.errors import AttestationError

if TYPE_CHECKING:
    from rich.console import Console

MODEL_ID = "clinic/breast-cancer"

# Where `blindai serve` listens unless told otherwise.
_ADDRESS = "https://127.0.0.1:9443"

# Patients of each diagnosis that are shown on the terminal; all of them are diagnosed.
_SHOWN = 3


class StoryFailed(Exception):
    """Something that must not happen in the story did; the message says what."""


@dataclass
class Refusal:
    """How one attack ended."""

    title: str
    code: str
    message: str
    application_bytes: int


@dataclass
class Summary:
    """What the story found, for machines."""

    simulated: bool = True
    patients: int = 0
    correct: int = 0
    largest_difference: float = 0.0
    refusals: list[Refusal] = field(default_factory=list)
    seconds: float = 0.0

    def to_builtins(self) -> dict[str, Any]:
        return asdict(self)


def tell(console: Console) -> Summary:
    """Play the story on `console`.

    Raises:
        StoryFailed: a prediction differs from the local run, or an attack was not refused as it must be.
        BlindAIError: a step failed.
    """
    started = time.perf_counter()
    summary = Summary()
    console.print("[bold]BlindAI[/]: a prediction that only you can see          [bold yellow]SIMULATED platform[/]")
    console.print("[dim]Real processes, TLS, quotes and verifiers; only the hardware is played by software.[/]\n")
    with tempfile.TemporaryDirectory(prefix="blindai-demo-") as folder, served() as address:
        manifest = Path(folder, "manifest.toml")
        manifest.write_text(local_policy().to_toml(), encoding="utf-8")
        console.print(f"[bold]1.[/] An enclave starts in a process of its own: {escape(address)}")
        console.print("   The policy says which code it must run: that of this package, measured here.\n")
        if RUNTIME:
            console.print("   [dim]This system cannot confine models: they run in the server's own process.[/]\n")
        with Connection(address, policy=manifest, progress=False) as client:
            _show_attestation(console, client)
            _predict(console, client, summary)
    console.print("[bold]4.[/] Now the attacks. Each stands where the enclave stood, and asks for the same patient.\n")
    for attack in ATTACKS:
        summary.refusals.append(_attack(console, attack))
    summary.seconds = time.perf_counter() - started
    _end(console, summary)
    return summary


def _show_attestation(console: Console, client: Connection) -> None:
    passed, total = client.attestation.tally()
    console.print("[bold]2.[/] The client attests it, before a byte of data leaves:")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 3))
    for check in client.attestation.checks:
        if check.outcome == "PASS":
            table.add_row("[green]PASS[/]", check.name)
    console.print(table)
    console.print(f"   {passed} of {total} required checks passed on this very connection\n")


def _predict(console: Console, client: Connection, summary: Summary) -> None:
    model = load_model()
    patients = load_patients()
    uploaded = client.upload_model(model, model_id=MODEL_ID)
    console.print(f"[bold]3.[/] A classifier of breast tumours is uploaded: {MODEL_ID}, {uploaded.size:,} bytes")
    console.print(f"   {len(patients.cases)} patients it has never seen are diagnosed inside the enclave:")
    prediction = client.predict(MODEL_ID, patients.features)
    labels, probabilities = (output.as_numpy() for output in prediction.output)
    local_labels, local_probabilities = _local_run(model, patients)
    summary.simulated = client.simulated
    summary.patients = len(patients.cases)
    summary.correct = int(np.sum(labels == patients.malignant))
    summary.largest_difference = float(np.max(np.abs(probabilities - local_probabilities)))
    if not np.array_equal(labels, local_labels) or summary.largest_difference != 0:
        raise StoryFailed("the enclave's predictions differ from those of a local run")
    _show_patients(console, patients, labels, probabilities)
    console.print(f"   {summary.correct} of {summary.patients} as the pathologist found")
    console.print("   [green]equal[/] to a local run of the same model, bit for bit\n")


def _local_run(model: bytes, patients: Patients) -> list[Any]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    outputs: list[Any] = session.run(None, {session.get_inputs()[0].name: patients.features})
    return outputs


def _show_patients(console: Console, patients: Patients, labels: Any, probabilities: Any) -> None:
    table = Table(box=None, padding=(0, 2, 0, 3), header_style="dim")
    for column in ("case", "diagnosis", "probability", "pathologist"):
        table.add_column(column)
    names = ("benign", "malignant")
    for row in sorted(row for malignant in (0, 1) for row in np.flatnonzero(patients.malignant == malignant)[:_SHOWN]):
        label = int(labels[row])
        table.add_row(
            str(patients.cases[row]),
            names[label],
            f"{probabilities[row][label]:.3f}",
            names[int(patients.malignant[row])],
        )
    console.print(table)


def _attack(console: Console, attack: Attack) -> Refusal:
    console.print(f"   [bold]{attack.title}[/]\n   [dim]{attack.story}[/]")
    patient = load_patients().features[:1]
    with attack.trap() as trap:
        try:
            with Connection(trap.address, policy=local_policy(), progress=False) as client:
                client.predict(MODEL_ID, patient)
        except AttestationError as error:
            refused = error
        else:
            raise StoryFailed(f"{attack.title} was not refused")
        stolen = trap.application_bytes()
    if refused.code != attack.code or stolen:
        raise StoryFailed(f"{attack.title} was refused as {refused.code} after {stolen} bytes, not as {attack.code}")
    console.print(f"   [red]REFUSED[/] {escape(refused.message)}")
    console.print(f"           check {refused.check}, code {refused.code}")
    console.print(f"           the attacker received [bold]{stolen}[/] bytes of application data\n")
    return Refusal(attack.title, refused.code, refused.message, stolen)


def _end(console: Console, summary: Summary) -> None:
    console.print(
        f"[green]All {len(summary.refusals)} attacks were refused.[/] The whole story took {summary.seconds:.1f} s.\n"
    )
    program, python = programs.programs()
    console.print("[bold]Now you[/]. In one terminal:")
    console.print(f"   {program} serve --platform simulated-tdx\n", markup=False)
    console.print("In another:")
    for line in (
        f"{program} measure -o manifest.toml",
        f"{program} verify {_ADDRESS}",
        f"{program} models upload {programs.near(MODEL_FILE)} --id {MODEL_ID} --addr {_ADDRESS}",
    ):
        console.print(f"   {line}", markup=False)
    console.print(f"\nAnd in {python}, in the folder of that manifest.toml:")
    for line in (
        "import blindai",
        "from blindai.demo.patients import load_patients",
        f'with blindai.Connection(addr="{_ADDRESS}") as client:',
        f'    prediction = client.predict("{MODEL_ID}", load_patients().features)',
        "print(prediction.output[0].as_numpy())",
    ):
        console.print(f"   {line}", markup=False)
