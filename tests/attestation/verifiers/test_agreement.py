"""The verifier and a second one, written on its own, must agree on thousands of altered quotes and collaterals.

There is no list of exceptions: where they differ, one of them is wrong.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from tests.attestation import dcap_oracle
from tests.attestation.simulation import KINDS, NOW, anchor, collateral_of, good, healthy, resigned, with_collateral

from blindai.attestation.anchors import INTEL_SGX_ROOT, Anchor
from blindai.attestation.evidence import TEE, Evidence, IntelCollateral
from blindai.attestation.result import Checklist
from blindai.attestation.verifiers import verify
from blindai.errors import AttestationError

REAL = {
    "sgx_v3": (TEE.INTEL_SGX, datetime(2025, 6, 25, tzinfo=UTC)),
    "tdx_v4": (TEE.INTEL_TDX, datetime(2025, 6, 25, tzinfo=UTC)),
}
SOURCES = (*REAL, *KINDS)
FIELDS = IntelCollateral.__struct_fields__[:-1]

QUOTES_PER_SOURCE = 640
COLLATERALS_PER_SOURCE = 260
RESIGNED_PER_KIND = 240
TIMES_PER_SOURCE = 60
ALTERED = (
    len(SOURCES) * (QUOTES_PER_SOURCE + COLLATERALS_PER_SOURCE + TIMES_PER_SOURCE) + len(KINDS) * RESIGNED_PER_KIND
)


class Case(NamedTuple):
    what: str
    evidence: Evidence
    anchor: Anchor
    now: datetime


Sources = dict[str, Case]
Value = dict[str, Any]


@pytest.fixture(scope="module")
def sources(vectors: Path) -> Sources:
    found = {kind: Case(kind, good(kind), anchor(), NOW) for kind in KINDS}
    for name, (tee, now) in REAL.items():
        quote = (vectors / "intel" / f"{name}_quote.bin").read_bytes()
        collateral = (vectors / "intel" / f"{name}_collateral.json").read_bytes()
        evidence = Evidence(tee, quote, msgspec.json.decode(collateral, type=IntelCollateral))
        found[name] = Case(name, evidence, INTEL_SGX_ROOT, now)
    return found


def verdicts(case: Case) -> tuple[tuple[bytes, str] | None, tuple[bytes, str] | None]:
    """What the verifier and the oracle say: report_data and TCB status, or None for a refusal."""
    evidence = case.evidence
    try:
        claims = verify(evidence, anchors=(case.anchor,), now=case.now, checks=Checklist())
        ours = (claims.report_data, claims.tcb_status)
    except AttestationError:
        ours = None
    fields = {name: getattr(evidence.intel_collateral, name) for name in FIELDS}
    try:
        accepted = dcap_oracle.verify(evidence.tee, evidence.quote, fields, case.anchor.spki_sha256, case.now)
        theirs = (accepted.report_data, accepted.status)
    except dcap_oracle.Refused:
        theirs = None
    return ours, theirs


def flip(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at : at + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", rng.randbytes(4)])[: len(data) - at]


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def cut_out(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.randrange(1, 64)]


def insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = rng.randbytes(rng.randrange(1, 16))


def append(data: bytearray, rng: random.Random) -> None:
    data += rng.choice([bytes(rng.randrange(1, 40)), rng.randbytes(5)])


def swap(data: bytearray, rng: random.Random) -> None:
    size = rng.choice([1, 2, 32, 48, 64])
    a, b = (rng.randrange(max(1, len(data) - size)) for _ in range(2))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(flip,) * 5,
    overwrite,
    truncate,
    cut_out,
    insert,
    append,
    swap,
)


def altered_quotes(good_case: Case) -> Iterator[Case]:
    rng = random.Random(f"quotes {good_case.what}")
    # Half of the changes go where few random ones would: header, body, lengths, signatures, keys.
    near = 48 + 648 + 4 + 128 + 6 + 384 + 64 + 40
    for index in range(QUOTES_PER_SOURCE):
        data = bytearray(good_case.evidence.quote)
        mutate = rng.choice(MUTATIONS)
        if index % 2 and mutate is not truncate:
            head, tail = data[:near], data[near:]
            mutate(head, rng)
            data = head + tail
        else:
            mutate(data, rng)
        evidence = msgspec.structs.replace(good_case.evidence, quote=bytes(data))
        yield good_case._replace(what=f"{good_case.what}, quote {index}, {mutate.__name__}", evidence=evidence)


def altered_collaterals(good_case: Case, sources: Sources) -> Iterator[Case]:
    rng = random.Random(f"collateral {good_case.what}")
    others = [collateral_of(other.evidence) for other in sources.values() if other is not good_case]
    for index in range(COLLATERALS_PER_SOURCE):
        field = rng.choice(FIELDS)
        mutate = rng.choice(TEXT_MUTATIONS)
        value = mutate(collateral_of(good_case.evidence), rng.choice(others), field, rng)
        evidence = with_collateral(good_case.evidence, **{field: value})
        what = f"{good_case.what}, {field} {index}, {mutate.__name__}"
        yield good_case._replace(what=what, evidence=evidence)


def damaged(own: IntelCollateral, other: IntelCollateral, field: str, rng: random.Random) -> str:
    data = bytearray(getattr(own, field).encode())
    rng.choice(MUTATIONS)(data, rng)
    return data.decode("utf-8", "replace")


def other_digit(own: IntelCollateral, other: IntelCollateral, field: str, rng: random.Random) -> str:
    value = str(getattr(own, field))
    at = rng.choice(list(re.finditer(r"\d", value))).start()
    return value[:at] + rng.choice("0123456789") + value[at + 1 :]


def other_field(own: IntelCollateral, other: IntelCollateral, field: str, rng: random.Random) -> str:
    return str(getattr(own, rng.choice(FIELDS)))


def foreign(own: IntelCollateral, other: IntelCollateral, field: str, rng: random.Random) -> str:
    return str(getattr(other, field))


def other_case(own: IntelCollateral, other: IntelCollateral, field: str, rng: random.Random) -> str:
    return str(getattr(own, field)).swapcase()


def empty(own: IntelCollateral, other: IntelCollateral, field: str, rng: random.Random) -> str:
    return ""


TEXT_MUTATIONS = (*(damaged,) * 3, *(other_digit,) * 2, other_field, foreign, other_case, empty)


def other_times(good_case: Case) -> Iterator[Case]:
    rng = random.Random(f"time {good_case.what}")
    collateral = collateral_of(good_case.evidence)
    edges = [
        datetime.fromisoformat(json.loads(text)[name])
        for text in (collateral.tcb_info, collateral.qe_identity)
        for name in ("issueDate", "nextUpdate")
    ]
    for index in range(TIMES_PER_SOURCE):
        if index % 2:
            now = rng.choice(edges) + timedelta(seconds=rng.randrange(-2, 3))
        else:
            far = rng.randrange(-4_000_000_000, 4_000_000_000)
            now = good_case.now + timedelta(seconds=far // 10 ** rng.randrange(5))
        yield good_case._replace(what=f"{good_case.what} at {now}", now=now)


STATUSES = [
    *("UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"),
    *("OutOfDate", "OutOfDateConfigurationNeeded", "Revoked"),
]


def edit_tcb_info(info: Value, rng: random.Random) -> None:
    """What Intel could sign: other levels, modules, families of processors."""
    edit_levels(info["tcbLevels"], rng)
    edits: list[tuple[str, list[Any]]] = [
        *[("tcbType", [0])] * 8,
        ("fmspc", ["00906ED50000", "00906ed50000", "00906ED50001", "0090"]),
        ("pceId", ["0000", "0001"]),
        ("id", ["SGX", "TDX", "tdx"]),
        ("version", [2, 3, 4]),
    ]
    name, values = rng.choice(edits)
    info[name] = rng.choice(values)
    for module in [info["tdxModule"], *info["tdxModuleIdentities"]] if "tdxModule" in info else []:
        edit_module(module, rng)


def edit_levels(levels: list[Value], rng: random.Random) -> None:
    for _ in range(rng.randrange(3)):
        level = json.loads(json.dumps(rng.choice(levels)))
        level["tcbStatus"] = rng.choice(STATUSES)
        components = level["tcb"][rng.choice([name for name in level["tcb"] if name.endswith("components")])]
        component = rng.choice(components)
        component["svn"] = max(0, component["svn"] + rng.choice([-1, 1, 3]))
        level["tcb"]["pcesvn"] += rng.choice([0, 0, -1, 1])
        levels.insert(rng.randrange(len(levels) + 1), level)
    levels.sort(  # as Intel publishes them, from new to old
        key=lambda level: (
            [component["svn"] for component in level["tcb"]["sgxtcbcomponents"]],
            level["tcb"]["pcesvn"],
            [component["svn"] for component in level["tcb"].get("tdxtcbcomponents", ())],
        ),
        reverse=True,
    )


def edit_module(module: Value, rng: random.Random) -> None:
    for name, values in {
        "mrsigner": ["00" * 48, "01" * 48, "00" * 47],
        "attributes": ["00" * 8, "0000000000000001"],
        "attributesMask": ["FF" * 8, "00" * 8],
        "id": ["TDX_01", "tdx_01", "TDX_03", "TDX_1"],
    }.items():
        if name in module and rng.random() < 0.1:
            module[name] = rng.choice(values)
    for level in module.get("tcbLevels", ()):
        if rng.random() < 0.2:
            level["tcb"]["isvsvn"] = rng.choice([1, 4, 5, 6])
        if rng.random() < 0.2:
            level["tcbStatus"] = rng.choice(["UpToDate", "OutOfDate", "Revoked"])


def edit_qe_identity(identity: Value, rng: random.Random) -> None:
    """What Intel could sign about its quoting enclaves."""
    for name, values in {
        "mrsigner": [identity["mrsigner"].lower(), "00" * 32],
        "isvprodid": [1, 2],
        "miscselect": ["00000000", "00000001", "01000000"],
        "miscselectMask": ["FFFFFFFF", "FFFFFFFE", "00000000"],
        "attributes": ["11" + "00" * 15, "15" + "00" * 15, "13" + "00" * 15],
        "attributesMask": ["FBFFFFFFFFFFFFFF0000000000000000", "FF" * 16, "00" * 16],
        "id": ["QE", "TD_QE", "QVE"],
        "version": [2, 3],
    }.items():
        if rng.random() < 0.05:
            identity[name] = rng.choice(values)
    if rng.random() < 0.3:
        svn = rng.choice([3, 4, 5, 8, 9])
        level = {"tcb": {"isvsvn": svn}, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": rng.choice(STATUSES)}
        identity["tcbLevels"].append(level)
        identity["tcbLevels"].sort(key=lambda item: -item["tcb"]["isvsvn"])


def signed_anew(kind: str) -> Iterator[Case]:
    rng = random.Random(f"signed {kind}")
    for index in range(RESIGNED_PER_KIND):
        evidence = resigned(
            healthy(kind),
            tcb_info=lambda info: edit_tcb_info(info, rng),
            qe_identity=lambda identity: edit_qe_identity(identity, rng),
        )
        collateral = collateral_of(evidence)
        what = f"{kind}, signed {index}:\n{collateral.tcb_info}\n{collateral.qe_identity}"
        yield Case(what, evidence, anchor(), NOW)


def test_verifier_and_oracle_agree_on_thousands_of_altered_quotes_and_collaterals(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    families: dict[str, Iterable[Case]] = {
        "good": sources.values(),
        "altered quotes": chain.from_iterable(altered_quotes(case) for case in sources.values()),
        "altered collateral": chain.from_iterable(altered_collaterals(case, sources) for case in sources.values()),
        "other times": chain.from_iterable(other_times(case) for case in sources.values()),
        "collateral signed anew": chain.from_iterable(signed_anew(kind) for kind in KINDS),
    }
    tally: dict[str, Counter[str]] = {}
    for family, cases in families.items():
        count = tally[family] = Counter()
        for case in cases:
            ours, theirs = verdicts(case)
            if ours != theirs:
                (tmp_path / "evidence.json").write_bytes(
                    case.evidence.encode()
                )  # simulated keys differ from run to run
            assert ours == theirs, f"{case.what}: {tmp_path / 'evidence.json'} at {case.now}, root {case.anchor}"
            count["refused" if ours is None else "accepted"] += 1
        assert count["accepted"], f"nothing was accepted among {family}: the comparison shows little"
    total = sum(count.total() for count in tally.values())
    with capsys.disabled():
        print(f"\nverifier and oracle agree on {total} cases")  # noqa: T201 - the count is the result
        for family, count in tally.items():
            print(f"  {family:<24} {count['accepted']:>5} accepted {count['refused']:>5} refused")  # noqa: T201 - as above
    assert tally["good"] == Counter(accepted=len(sources))
    assert total - len(sources) == ALTERED >= 5000
