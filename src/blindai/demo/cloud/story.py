"""The story of `blindai demo cloud`: from signing up to a model that others query, and what stops them.

Everything in it is real but the hardware: the control plane and the enclave are processes, people fill in forms and
follow links in mails, keys travel over attested TLS. What commands do is done as the command line does it.
"""

from __future__ import annotations

import socket
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnxruntime
from rich.markup import escape

from blindai.client.connection import Connection
from blindai.demo import programs
from blindai.demo.cloud import resnet18
from blindai.demo.cloud.stage import MODEL_ID, OTHER, OWNER, Person, Stage, staged
from blindai.demo.processes import until
from blindai.demo.story import StoryFailed
from blindai.errors import AuthenticationError, ModelNotFound, PermissionDenied, QuotaExceeded
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud import Scope

if TYPE_CHECKING:
    from rich.console import Console

    from blindai.errors import BlindAIError

# What the operator leaves to the other account, once it has asked too much.
FEW_PER_MINUTE: Final = 3

# So many bytes of an input, of weights or of a key that lie in a row somewhere are no chance.
_SEARCHED_BYTES: Final = 16


@dataclass
class Ended:
    """A request that was refused, and must be."""

    title: str
    code: str
    message: str


@dataclass
class Summary:
    """What the story found, for machines. Times in milliseconds, but for the last."""

    simulated: bool = True
    model_bytes: int = 0
    uploaded_ms: float = 0.0
    label: int = 0
    largest_difference: float = 0.0
    refusals: list[Ended] = field(default_factory=list)
    revoked_ms: float = 0.0
    answered_after_revocation: int = 0
    retry_after_s: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    control_plane_bytes: int = 0
    found_at_control_plane: int = 0
    queries_counted: int = 0
    seconds: float = 0.0

    def to_builtins(self) -> dict[str, Any]:
        return asdict(self)


class Cast:
    """The people and their keys, as the story goes on.

    Attributes:
        owner, other: who signs up.
        answered: queries with a key that were answered.
    """

    def __init__(self) -> None:
        self.owner: Person
        self.other: Person
        self.owner_key = ""
        self.owner_key_id = ""
        self.other_key = ""
        self.answered = 0


def tell(console: Console) -> Summary:
    """Play the story on `console`.

    Raises:
        StoryFailed: something was not as it must be.
        BlindAIError: a step failed.
    """
    started = time.perf_counter()
    summary, people = Summary(), Cast()
    console.print("[bold]BlindAI Cloud[/]: your model, your key, no hardware       [bold yellow]SIMULATED platform[/]")
    console.print("[dim]Real processes, TLS, quotes, accounts; only the hardware is played by software.[/]\n")
    with tempfile.TemporaryDirectory(prefix="blindai-demo-") as folder, staged(console, Path(folder)) as stage:
        for scene in (
            _open,
            _sign_up,
            _log_in,
            _make_key,
            _upload,
            _strangers,
            _share,
            _publish,
            _limit,
            _revoke,
            _what_was_seen,
        ):
            scene(stage, people, summary)
            console.print()
    summary.seconds = time.perf_counter() - started
    _end(console, summary)
    return summary


def _open(stage: Stage, _people: Cast, _summary: Summary) -> None:
    stage.start_cloud()
    stage.head(1, f"A control plane starts in a process of its own: {escape(stage.url)}")
    stage.command("blindai cloud serve --simulation")
    stage.say("it says who may do what, and is trusted for nothing else: no data and no model ever go there")
    stage.start_enclave()
    stage.say(f"an enclave starts in another: {escape(stage.address)}. It has attested itself, and is in the directory")
    stage.command("blindai serve --config enclave.toml")


def _sign_up(stage: Stage, people: Cast, _summary: Summary) -> None:
    people.owner = stage.sign_up(OWNER)
    stage.head(2, f"{OWNER} signs up: an e-mail address, a name, a password")
    stage.say("the link in the mail, which lies in a folder here, confirms the address")


def _log_in(stage: Stage, people: Cast, _summary: Summary) -> None:
    codes = stage.sign_in_command_line(people.owner)
    stage.head(3, f"The command line of {OWNER} asks to be let in")
    stage.command("blindai login " + stage.url)
    stage.say(f"it shows {escape(codes.verification_uri)} and the code {escape(codes.user_code)}")
    stage.say(f"{OWNER} types the code there and agrees; no password was ever typed into the terminal")


def _make_key(stage: Stage, people: Cast, summary: Summary) -> None:
    created = stage.create_key(people.owner, Scope.QUERY, Scope.UPLOAD)
    people.owner_key, people.owner_key_id = created.api_key, created.entry.id
    stage.head(4, f"{OWNER} makes an API key: {created.entry.id}..., good to query and to upload")
    stage.command("blindai keys create story --scope query --scope upload")
    mistyped = people.owner_key[:-1] + ("0" if people.owner_key[-1] != "0" else "1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        try:
            _connect_to(stage, f"https://127.0.0.1:{listener.getsockname()[1]}", mistyped)
        except AuthenticationError as error:
            refused = error
        else:
            raise StoryFailed("a mistyped key was taken")
        try:
            listener.accept()
        except BlockingIOError:
            pass  # nobody has called
        else:
            raise StoryFailed("somebody was called with a mistyped key")
    _refused(stage, summary, "the key with one letter wrong", refused, "authentication.key_format")
    stage.say("by its checksum, on this side: nobody was asked, and nothing was sent")


def _upload(stage: Stage, people: Cast, summary: Summary) -> None:
    files = sorted(stage.model.parent.glob(f"{stage.model.name}*"))
    stage.head(5, f"{OWNER} uploads a model of the shape of ResNet-18, as torch.onnx.export writes it: two files")
    for file in files:
        stage.say(f"{file.name:<20} {file.stat().st_size:>12,} bytes")
    stage.command(f"blindai models upload {stage.model.name} --id {MODEL_ID}")
    with stage.connected(people.owner_key) as client:
        summary.simulated = client.simulated
        before = time.monotonic()
        uploaded = client.upload_model(stage.model, model_id=MODEL_ID)
        summary.uploaded_ms = (time.monotonic() - before) * 1000
        summary.model_bytes = uploaded.size
        stage.say(f"{MODEL_ID} is ready {summary.uploaded_ms / 1000:.1f} s later, encrypted on the way and on the disk")
        picture = resnet18.image()
        scores = client.predict(MODEL_ID, picture).output[0].as_numpy()
    people.answered += 1
    session = onnxruntime.InferenceSession(stage.model, providers=["CPUExecutionProvider"])
    (local,) = session.run(None, {session.get_inputs()[0].name: picture})
    summary.label = int(scores.argmax())
    summary.largest_difference = float(np.max(np.abs(scores - local)))
    if scores.shape != (1, resnet18.CLASSES) or summary.label != int(local.argmax()):
        raise StoryFailed("the enclave's answer differs from that of a local run")
    same = "equal to a local run, bit for bit" if not summary.largest_difference else "as in a local run"
    stage.say(f"a picture gets label {summary.label} out of {resnet18.CLASSES}, [green]{same}[/]")


def _strangers(stage: Stage, people: Cast, summary: Summary) -> None:
    people.other = stage.sign_up(OTHER)
    stage.sign_in_command_line(people.other)
    people.other_key = stage.create_key(people.other, Scope.QUERY, Scope.UPLOAD).api_key
    stage.head(6, f"{OTHER} has an account too, and asks for the model of {OWNER}")
    with stage.connected(people.other_key) as client:
        refused = stage.refused(client, "model.not_found", f"a query of {OTHER}")
        nothing = stage.refused(client, "model.not_found", "a query for no model", f"{OWNER}/no-such-model")
        _refused(stage, summary, f"a query of {OTHER}", refused, ModelNotFound.default_code)
        if refused.message.replace(MODEL_ID, "") != nothing.message.replace(f"{OWNER}/no-such-model", ""):
            raise StoryFailed("the refusal tells a model that is there from one that is not")
        stage.say("in the very words for a model that does not exist")
        try:
            client.upload_model(stage.model, model_id=f"{OWNER}/resnet19")
        except PermissionDenied as error:
            _refused(stage, summary, f"an upload of {OTHER} under the name of {OWNER}", error, "permission.namespace")
        else:
            raise StoryFailed(f"{OTHER} has uploaded a model under the name of {OWNER}")


def _share(stage: Stage, people: Cast, _summary: Summary) -> None:
    stage.head(7, f"{OWNER} shares it with {OTHER}")
    stage.command(f"blindai models share {MODEL_ID} {OTHER}")
    with stage.connected(people.owner_key) as owner, stage.connected(people.other_key) as other:
        owner.set_visibility(MODEL_ID, "shared", shared_with=[OTHER])
        _answered(stage, other, f"{OTHER} is [green]answered[/]")
        people.answered += 1


def _publish(stage: Stage, people: Cast, _summary: Summary) -> None:
    stage.head(8, f"{OWNER} publishes it: everybody may query it, and nobody has its weights")
    stage.command(f"blindai models publish {MODEL_ID}")
    with stage.connected(people.owner_key) as owner, stage.connected(None) as anybody:
        owner.set_visibility(MODEL_ID, "public")
        _answered(stage, anybody, "somebody without an account or a key is [green]answered[/]")


def _limit(stage: Stage, people: Cast, summary: Summary) -> None:
    stage.head(9, f"The operator allows {OTHER} no more than {FEW_PER_MINUTE} requests a minute")
    stage.set_requests_per_minute(OTHER, FEW_PER_MINUTE)
    with stage.connected(people.other_key) as other:

        def asked() -> BlindAIError | None:
            try:
                other.model(MODEL_ID)
            except QuotaExceeded as error:
                return error
            return None

        refused = until(asked, "the refusal of too many requests")
    summary.retry_after_s = refused.retry_after
    if not summary.retry_after_s:
        raise StoryFailed("the refusal does not say when to come back")
    _refused(stage, summary, "one more", refused, "quota.requests_per_minute")
    stage.say(f"HTTP status 429, Retry-After: {summary.retry_after_s} s; the enclave counts, in its own memory")


def _revoke(stage: Stage, people: Cast, summary: Summary) -> None:
    stage.head(10, f"{OWNER} revokes the key, in the middle of a conversation")
    stage.command(f"blindai keys revoke {people.owner_key_id}")
    with stage.connected(people.owner_key) as client:
        client.model(MODEL_ID)
        plane = people.owner.plane
        if plane is None:
            raise StoryFailed("nobody is signed in")
        plane.revoke_key(OWNER, people.owner_key_id)
        revoked = time.monotonic()

        def asked() -> BlindAIError | None:
            try:
                client.model(MODEL_ID)
            except AuthenticationError as error:
                return error
            summary.answered_after_revocation += 1
            return None

        refused = until(asked, "the refusal of a revoked key")
        summary.revoked_ms = (time.monotonic() - revoked) * 1000
    _refused(stage, summary, "the connection that was open", refused, "authentication.key")
    stage.say(f"{summary.revoked_ms / 1000:.1f} s after the revocation; five seconds are the most, whatever fails")


def _what_was_seen(stage: Stage, people: Cast, summary: Summary) -> None:
    stage.head(11, "What the control plane has seen: all that it keeps, and its log")

    def counted() -> int | None:
        reports = [person.plane.usage(person.name) for person in (people.owner, people.other) if person.plane]
        queries = sum(one.month_queries for one in reports)
        return queries if queries == people.answered else None

    summary.queries_counted = until(counted, "the counts of the enclave")
    summary.rows = {name: count for name, count in stage.rows().items() if count}
    files = [path for path in stage.place.data.rglob("*") if path.is_file() and path.parent != stage.place.outbox]
    kept = [path.read_bytes() for path in [*files, stage.cloud.log]]
    summary.control_plane_bytes = sum(map(len, kept))
    weights = stage.model.with_name(f"{stage.model.name}.data").read_bytes()
    # What a key is called in lists is no secret: the part behind that is.
    keys = [key.removeprefix(ApiKey(key).id).encode() for key in (people.owner_key, people.other_key)]
    secrets = [resnet18.image().tobytes(), weights, *keys]
    pieces = [secret[at : at + _SEARCHED_BYTES] for secret in secrets for at in _places(len(secret))]
    summary.found_at_control_plane = sum(piece in content for content in kept for piece in pieces)
    if summary.found_at_control_plane:
        raise StoryFailed(f"the control plane holds {summary.found_at_control_plane} pieces of what it must not see")
    shown = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in summary.rows.items())
    stage.say(escape(shown))
    stage.say(f"queries of {OWNER} and {OTHER} as counts: {summary.queries_counted}, as many as were answered")
    stage.say(
        f"{summary.control_plane_bytes:,} bytes in all, and in them [green]nothing[/] of {len(pieces):,} pieces of the"
    )
    stage.say("picture, the weights and the keys: no tensor, no model, and of keys only digests")


def _connect_to(stage: Stage, address: str, api_key: str) -> None:
    Connection(address, api_key=api_key, policy=stage.manifest, progress=False).close()


def _answered(stage: Stage, client: Connection, words: str) -> None:
    label = int(client.predict(MODEL_ID, resnet18.image()).output[0].as_numpy().argmax())
    stage.say(f"{words}: label {label}")


def _refused(stage: Stage, summary: Summary, title: str, error: BlindAIError, code: str) -> None:
    if error.code != code:
        raise StoryFailed(f"{title} ended as {error.code} ({error.message}), not as {code}")
    summary.refusals.append(Ended(title, error.code, error.message))
    stage.say(f"{title} is [red]REFUSED[/]: {error.code}, {escape(error.message)}")


def _places(length: int) -> range:
    """Where to take pieces of something long: everywhere in what is short, and here and there in what is not."""
    last = max(length - _SEARCHED_BYTES, 0)
    return range(0, last + 1, max(last // 200, 1))


def _end(console: Console, summary: Summary) -> None:
    console.print(
        f"[green]All {len(summary.refusals)} who may not were refused.[/] "
        f"The whole story took {summary.seconds:.1f} s.\n"
    )
    program, _ = programs.programs()
    console.print("[bold]Now you[/]. Start a cloud, and do what it says for its enclaves:")
    console.print(f"   {program} cloud serve --simulation\n", markup=False)
    console.print("Sign up on the page that it names, and then:")
    for line in (
        f"{program} login https://localhost:9447 --fingerprint SHA256",
        f"{program} keys create laptop --scope query --scope upload --store",
        f"{program} models upload resnet18.onnx --id NAME/resnet18",
    ):
        console.print(f"   {line}", markup=False)
