from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindai.attestation.anchors import INTEL_SGX_ROOT, Vendor
from blindai.attestation.claims import FLAGS
from blindai.attestation.evidence import TEE
from blindai.attestation.policy.amd import MAX_PART_VERSION, PRODUCT_PARTS, SIGNING_KEYS, AmdPolicy
from blindai.attestation.policy.gpus import (
    ARCHITECTURES,
    GPU_ARCHITECTURES,
    MAX_DEVICES,
    MAX_INDEX,
    MEASUREMENT_BYTES,
    MODES,
    GoldenMeasurements,
    GpuPolicy,
)
from blindai.attestation.policy.manifest import MAX_MANIFEST_BYTES, Origin
from blindai.attestation.policy.policy import CHIP_ID_BYTES, DEFAULT_ATTRIBUTES, MAX_AGE_SECONDS, Policy
from blindai.attestation.policy.reference_values import CODE_FORMS, HARDWARE_FORMS, REGISTER_BYTES, CodeReference
from blindai.attestation.policy.reference_values import HardwareReference as Hardware
from blindai.attestation.policy.tcb import (
    MAX_EVALUATION_DATA_NUMBER,
    MAX_GRACE_DAYS,
    OUT_OF_DATE_STATUSES,
    TCB_STATUSES,
    TcbPolicy,
)
from blindai.attestation.policy.tpm import TpmPolicy
from blindai.attestation.verifiers.amd_product import PRODUCTS
from blindai.errors import ConfigurationError

MRTD, RTMR0, RTMR1, RTMR2, RTMR3 = ("11" * 48, "a0" * 48, "a1" * 48, "a2" * 48, "a3" * 48)
MAKER = "77" * 32
MRENCLAVE, MRSIGNER, ROOT, CHIP, CONFIG = ("22" * 32, "33" * 32, "44" * 32, "55" * 16, "66" * 32)

MANIFEST = f"""\
version = 1
accepted_tees = ["intel-tdx", "intel-sgx"]
allow_debug = false
allow_simulated = true

[[code]]
name = "td 1.0"
tee = "intel-tdx"
mrtd = "{MRTD}"
rtmr1 = "{RTMR1.upper()}"
rtmr2 = "{RTMR2}"
rtmr3 = "{RTMR3}"

[[code]]
name = "enclave 1.0"
tee = "intel-sgx"
mrenclave = "{MRENCLAVE}"

[[code]]
name = "enclave 2.x"
tee = "intel-sgx"
mrsigner = "{MRSIGNER}"
isv_prod_id = 7
minimum_isv_svn = 2

[[hardware]]
name = "8 vCPU"
tee = "intel-tdx"
mrtd = "{MRTD}"
rtmr0 = "{RTMR0}"

[tcb]
statuses = ["UpToDate", "OutOfDate"]
grace_days = 30
minimum_evaluation_data_number = 17
denied_advisories = ["INTEL-SA-00615"]

[attributes]
allowed = ["smt"]

[chips]
allowed = ["{CHIP}"]

[config]
digests = ["{CONFIG}"]

[amd]
products = ["Milan", "Turin"]
keys = ["vcek"]
require_crl = false
minimum_tcb.Milan = {{ boot_loader = 3, microcode = 209 }}
minimum_tcb.Turin = {{ fmc = 1 }}

[tpm]
roots = ["{MAKER.upper()}"]

[resume]
max_age_seconds = 60

[simulated_roots]
intel = "{ROOT}"
"""

SMALLEST = f"""\
version = 1
accepted_tees = ["intel-sgx"]
[[code]]
name = "enclave 1.0"
tee = "intel-sgx"
mrenclave = "{MRENCLAVE}"
"""


def refused(text: str, code: str, *, line: int | None = None, says: str = "") -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        Policy.parse(text, "./manifest.toml")
    error = caught.value
    assert error.code == f"policy.{code}", error
    place = "./manifest.toml" if line is None else f"./manifest.toml, line {line}"
    assert error.message.startswith(f"{place}: ")
    assert says in error.message
    return error


def edited(old: str, new: str, text: str = MANIFEST) -> str:
    assert old in text
    return text.replace(old, new, 1)


def line_of(mark: str, text: str = MANIFEST) -> int:
    return next(number for number, line in enumerate(text.split("\n"), 1) if mark in line)


def test_every_setting_is_read() -> None:
    assert Policy.parse(MANIFEST, "m") == Policy(
        accepted_tees=(TEE.INTEL_TDX, TEE.INTEL_SGX),
        code=(
            CodeReference(
                name="td 1.0",
                tee=TEE.INTEL_TDX,
                measurements={"mrtd": MRTD, "rtmr1": RTMR1, "rtmr2": RTMR2, "rtmr3": RTMR3},
            ),
            CodeReference(name="enclave 1.0", tee=TEE.INTEL_SGX, measurements={"mrenclave": MRENCLAVE}),
            CodeReference(
                name="enclave 2.x",
                tee=TEE.INTEL_SGX,
                measurements={"mrsigner": MRSIGNER},
                isv_prod_id=7,
                minimum_isv_svn=2,
            ),
        ),
        hardware=(Hardware(name="8 vCPU", tee=TEE.INTEL_TDX, measurements={"mrtd": MRTD, "rtmr0": RTMR0}),),
        tcb=TcbPolicy(
            statuses=("UpToDate", "OutOfDate"),
            grace_days=30,
            minimum_evaluation_data_number=17,
            denied_advisories=("INTEL-SA-00615",),
        ),
        amd=AmdPolicy(
            products=("Milan", "Turin"),
            keys=("vcek",),
            require_crl=False,
            minimum_tcb={"Milan": {"boot_loader": 3, "microcode": 209}, "Turin": {"fmc": 1}},
        ),
        tpm=TpmPolicy(roots=(MAKER,)),
        allowed_attributes=("smt",),
        chips=(CHIP,),
        config_digests=(CONFIG,),
        allow_simulated=True,
        simulated_roots={Vendor.INTEL: ROOT},
        max_age_seconds=60,
    )


def test_what_is_left_out_is_refused_by_default() -> None:
    policy = Policy.parse(SMALLEST, "m")
    assert policy.tcb == TcbPolicy(
        statuses=("UpToDate", "SWHardeningNeeded"),
        grace_days=0,
        minimum_evaluation_data_number=0,
        denied_advisories=(),
    )
    assert not policy.allow_simulated
    assert policy.simulated_roots == {}
    assert policy.max_age_seconds == 600
    assert policy.anchors() == (INTEL_SGX_ROOT,)
    assert set(FLAGS) - set(policy.allowed_attributes) >= {
        "provisioning_key",
        "einittoken_key",
        "migratable",
        "perfmon",
    }


def test_hex_in_capitals_is_the_same_policy() -> None:
    capitals = re.sub(r'"[0-9a-f]{32,}"', lambda match: match[0].upper(), MANIFEST)
    assert capitals != MANIFEST
    assert Policy.parse(capitals, "m") == Policy.parse(MANIFEST, "m")


# (what, text replaced, replacement, code, mark of the line that the error must name, words in the message)
WRONG: list[tuple[str, str, str, str, str, str]] = [
    ("unknown key", "grace_days", "grace_day", "unknown_key", "grace_day =", "did you mean 'grace_days'?"),
    ("unknown key at the top", "allow_debug", "alow_debug", "unknown_key", "alow_debug", "'allow_debug'"),
    ("unknown table", "[chips]", "[chip]", "unknown_key", "[chip]", "did you mean 'chips'?"),
    ("unknown register", "mrenclave =", "mrenclav =", "unknown_key", "mrenclav =", "did you mean 'mrenclave'?"),
    ("register of another TEE", "mrenclave =", "mrtd =", "unknown_key", f'mrtd = "{MRENCLAVE}', "for intel-sgx"),
    ("number in hardware", "rtmr0 =", "isv_prod_id = 1\nrtmr0 =", "unknown_key", "isv_prod_id = 1", "[[hardware]]"),
    ("unknown attribute key", "[attributes]\nallowed", "[attributes]\nallow", "unknown_key", "allow = ", "'allowed'"),
    ("unknown config key", "digests", "digest", "unknown_key", "digest =", "'digests'"),
    ("unknown resume key", "max_age_seconds", "max_age", "unknown_key", "max_age =", "'max_age_seconds'"),
    ("number as text", "grace_days = 30", 'grace_days = "30"', "type", "grace_days", "must be an integer"),
    ("switch as number", "allow_simulated = true", "allow_simulated = 1", "type", "allow_simulated", "true or false"),
    ("number as switch", "isv_prod_id = 7", "isv_prod_id = true", "type", "isv_prod_id", "must be an integer"),
    ("register as number", f'"{MRTD}"', "3", "type", "mrtd = 3", "must be a string"),
    ("list as text", '["smt"]', '"smt"', "type", 'allowed = "smt"', "must be a list"),
    ("text as list", '"td 1.0"', '["td 1.0"]', "type", "td 1.0", "must be a string"),
    ("odd digit in hex", MRENCLAVE, "x" + MRENCLAVE[1:], "hex", "mrenclave =", "it contains 'x'"),
    ("prefix on hex", MRENCLAVE, "0x" + MRENCLAVE[2:], "hex", "mrenclave =", "it contains 'x'"),
    ("hex too short", MRENCLAVE, MRENCLAVE[2:], "length", "mrenclave =", "64 (32 bytes) hex digits, it has 62"),
    ("TDX register of SGX length", RTMR2, RTMR2[:64], "length", "rtmr2 =", "96 (48 bytes) hex digits, it has 64"),
    ("empty register", RTMR3, "", "length", "rtmr3 =", "it has 0"),
    ("odd digit in chip", CHIP, "g" + CHIP[1:], "hex", "[chips]+1", "it contains 'g'"),
    ("chip too long", CHIP, CHIP + "00", "length", "[chips]+1", "32 (16 bytes)"),
    ("config digest too short", CONFIG, CONFIG[1:], "length", "digests", "64 (32 bytes)"),
    ("simulated root too short", ROOT, ROOT[1:], "length", "intel =", "64 (32 bytes)"),
    ("simulated root not hex", ROOT, "-" * 64, "hex", "intel =", "it contains '-'"),
    (
        "simulated root of real hardware",
        ROOT,
        INTEL_SGX_ROOT.spki_sha256,
        "simulated_root",
        "intel =",
        "real hardware",
    ),
    (
        "simulated without root",
        f'[simulated_roots]\nintel = "{ROOT}"',
        "",
        "simulated_root",
        "allow_simulated",
        "needs [simulated_roots]",
    ),
    ("debug", "allow_debug = false", "allow_debug = true", "debug", "allow_debug", "no manifest can allow it"),
    ("unknown TEE", '"intel-sgx"]', '"intel-sgx2"]', "unknown_value", "accepted_tees", "did you mean 'intel-sgx'?"),
    ("unknown TEE of code", 'tee = "intel-tdx"', 'tee = "amd-sev"', "unknown_value", "amd-sev", "allowed: intel-sgx"),
    ("unknown status", '"UpToDate"', '"UptoDate"', "unknown_value", "statuses", "did you mean 'UpToDate'?"),
    ("unknown attribute", '["smt"]', '["smp"]', "unknown_value", '["smp"]', "did you mean 'smt'?"),
    ("not an advisory", "INTEL-SA-00615", "SA-615", "unknown_value", "denied_advisories", "such as INTEL-SA-00615"),
    ("revoked allowed", '"OutOfDate"', '"Revoked"', "revoked", "statuses", "cannot be allowed"),
    ("no status", '["UpToDate", "OutOfDate"]', "[]", "missing_key", "statuses", "no platform could be accepted"),
    ("out of date without grace", "grace_days = 30", "", "grace", "statuses", "set 'grace_days'"),
    ("grace without out of date", ', "OutOfDate"', "", "grace", "grace_days", "has no effect"),
    ("negative grace", "= 30", "= -1", "range", "grace_days", "from 0 to"),
    ("grace without end", "= 30", f"= {MAX_GRACE_DAYS + 1}", "range", "grace_days", f"0 to {MAX_GRACE_DAYS}"),
    ("evaluation number", "= 17", f"= {MAX_EVALUATION_DATA_NUMBER + 1}", "range", "minimum_ev", "from 0 to"),
    ("age", "seconds = 60", f"seconds = {MAX_AGE_SECONDS + 1}", "range", "max_age", f"0 to {MAX_AGE_SECONDS}"),
    ("negative age", "seconds = 60", "seconds = -1", "range", "max_age", "it is -1"),
    ("version number", "minimum_isv_svn = 2", "minimum_isv_svn = 65536", "range", "minimum_isv_svn", "0 to 65535"),
    ("product number", "isv_prod_id = 7", "isv_prod_id = -1", "range", "isv_prod_id", "0 to 65535"),
    ("name missing", 'name = "td 1.0"\n', "", "missing_key", "[[code]]", "'name' is missing in [[code]]"),
    ("TEE missing", 'tee = "intel-tdx"\n', "", "missing_key", "[[code]]", "'tee' is missing in [[code]]"),
    ("register missing", f'rtmr2 = "{RTMR2}"\n', "", "missing_key", "[[code]]", "give mrtd + rtmr1 + rtmr2"),
    ("RTMR0 missing", f'rtmr0 = "{RTMR0}"', "", "missing_key", "[[hardware]]", "give mrtd + rtmr0"),
    ("lowest version missing", "minimum_isv_svn = 2", "", "missing_key", "[[code]]+13", "minimum_isv_svn"),
    ("product missing", "isv_prod_id = 7", "", "missing_key", "[[code]]+13", "isv_prod_id"),
    ("nothing pinned", f'mrenclave = "{MRENCLAVE}"', "", "code_form", "[[code]]+8", "pins nothing"),
    (
        "only RTMR3 pinned",
        f'mrtd = "{MRTD}"\nrtmr1 = "{RTMR1.upper()}"\nrtmr2 = "{RTMR2}"\n',
        "",
        "code_form",
        "[[code]]",
        "pins nothing",
    ),
    (
        "both ways to name code",
        f'mrenclave = "{MRENCLAVE}"',
        f'mrenclave = "{MRENCLAVE}"\nmrsigner = "{MRSIGNER}"',
        "code_form",
        "[[code]]+8",
        "either mrenclave, or mrsigner + isv_prod_id + minimum_isv_svn",
    ),
    (
        "version beside MRENCLAVE",
        f'mrenclave = "{MRENCLAVE}"',
        f'mrenclave = "{MRENCLAVE}"\nminimum_isv_svn = 1',
        "code_form",
        "[[code]]+8",
        "mixes two ways",
    ),
    (
        "hardware of SGX",
        'name = "8 vCPU"\ntee = "intel-tdx"',
        'name = "8 vCPU"\ntee = "intel-sgx"',
        "unknown_value",
        "8 vCPU+1",
        "intel-sgx measures no hardware",
    ),
    ("name twice", '"enclave 2.x"', '"enclave 1.0"', "duplicate", "[[code]]+14", "./manifest.toml, line 14"),
    ("empty name", '"td 1.0"', '""', "name", "name =", "1 to 128 printable"),
    ("long name", '"td 1.0"', f'"{"x" * 129}"', "name", "name =", "1 to 128 printable"),
    ("name with a control character", '"td 1.0"', '"td\\u001b[2J"', "name", "name =", "printable"),
    ("name with a space at its end", '"td 1.0"', '"td "', "name", "name =", "space at either end"),
    ("no TEE", '["intel-tdx", "intel-sgx"]', "[]", "missing_key", "accepted_tees", "name at least one"),
    ("unknown product line", '"Milan", "Turin"', '"Milan", "Naples"', "unknown_value", "products", "unknown product"),
    ("no product line", '["Milan", "Turin"]', "[]", "missing_key", "products", "no processor of AMD"),
    ("unknown kind of key", '"vcek"', '"vcak"', "unknown_value", "keys", "did you mean 'vcek'?"),
    ("no kind of key", '["vcek"]', "[]", "missing_key", "keys =", "no processor of AMD"),
    ("list as word", "require_crl = false", 'require_crl = "no"', "type", "require_crl", "true or false"),
    ("unknown key of AMD", "require_crl", "require_crls", "unknown_key", "require_crls", "'require_crl'"),
    ("floor of an unknown line", "minimum_tcb.Milan", "minimum_tcb.Rome", "unknown_key", "Rome", "minimum_tcb"),
    ("floor of no part", "{ fmc", "{ fcm", "unknown_key", "fcm", "did you mean 'fmc'?"),
    ("part of another line", "{ boot_loader", "{ fmc = 1, boot_loader", "unknown_key", "minimum_tcb.Milan", "'fmc'"),
    ("floor of a line not accepted", ', "Turin"]', "]", "unknown_value", "minimum_tcb.Turin", "not among 'products'"),
    ("floor out of range", "= 209", "= 256", "range", "209".replace("209", "256"), "from 0 to 255"),
    ("floor as text", "= 209", '= "209"', "type", '"209"', "must be an integer"),
    ("maker's root too short", MAKER, MAKER[1:], "length", "roots = ", "64 (32 bytes)"),
    ("maker's root not hex", MAKER, "-" * 64, "hex", "roots = ", "it contains '-'"),
    ("maker's root that is simulated", MAKER, ROOT, "simulated_root", "intel =", "real hardware"),
    ("unknown key of TPMs", 'roots = ["', 'root = ["', "unknown_key", "root = [", "'roots'"),
    ("devices without a number", "[chips]", "[gpus]\n[chips]", "gpus", "[gpus]", "either 'count'"),
    ("two numbers of devices", "[chips]", "[gpus]\ncount = 1\nminimum = 1\n[chips]", "gpus", "minimum = 1", "either"),
    ("too many devices", "[chips]", "[gpus]\ncount = 25\n[chips]", "range", "count", "0 to 24"),
    (
        "no architecture",
        "[chips]",
        "[gpus]\ncount = 1\narchitectures = []\n[chips]",
        "missing_key",
        "architectures",
        "no GPU could be accepted",
    ),
    (
        "odd driver",
        "[chips]",
        '[gpus]\ncount = 1\ndrivers = ["-1"]\n[chips]',
        "unknown_value",
        "drivers",
        "not a version",
    ),
    (
        "golden without measurement",
        "[chips]",
        '[gpus]\ncount = 1\n[[gpus.golden]]\narchitecture = "hopper"\nvbios = "96"\n[chips]',
        "missing_key",
        "[[gpus.golden]]",
        "nothing would be pinned",
    ),
    (
        "golden without values",
        "[chips]",
        '[gpus]\ncount = 1\n[[gpus.golden]]\narchitecture = "hopper"\nvbios = "96"\nmeasurements.9 = []\n[chips]',
        "missing_key",
        "measurements.9",
        "no value",
    ),
    ("syntax", "[tcb]", "[tcb", "syntax", "", "not valid TOML"),
]


@pytest.mark.parametrize(
    ("old", "new", "code", "mark", "says"), [case[1:] for case in WRONG], ids=[c[0] for c in WRONG]
)
def test_a_wrong_manifest_is_refused_at_its_line(old: str, new: str, code: str, mark: str, says: str) -> None:
    text = edited(old, new)
    mark, _, offset = mark.partition("+")
    refused(text, code, line=line_of(mark, text) + int(offset or 0) if mark else None, says=says)


@pytest.mark.parametrize("key", ["tcb", "amd", "tpm", "attributes", "chips", "config", "resume", "simulated_roots"])
def test_a_value_in_place_of_a_table(key: str) -> None:
    refused(f"{key} = 3\n{SMALLEST}", "type", line=1, says="must be a table")


def test_one_table_in_place_of_an_array_of_tables() -> None:
    refused(
        SMALLEST.replace("[[code]]", "[code]"),
        "type",
        line=3,
        says="must be written as tables [[code]], this is a table",
    )
    refused(SMALLEST + "[hardware]\n", "type", line=7, says="must be written as tables [[hardware]]")


def test_the_second_of_two_elements_has_its_own_line() -> None:
    text = edited('["UpToDate", "OutOfDate"]', '[\n  "UpToDate",\n  "Outdated",\n]')
    refused(text, "unknown_value", line=line_of('"Outdated"', text), says="did you mean 'OutOfDate'?")


def test_two_hardware_references_of_one_name() -> None:
    block = MANIFEST[MANIFEST.index("[[hardware]]") : MANIFEST.index("[tcb]")]
    text = MANIFEST.replace(block, block + block)
    refused(text, "duplicate", line=line_of("[[hardware]]") + 7, says="another [[hardware]]")


@pytest.mark.parametrize(
    "text",
    [
        SMALLEST[: SMALLEST.index("[[code]]")],
        SMALLEST[: SMALLEST.index("[[code]]")] + "code = []",
        edited('["intel-sgx"]', "[]", SMALLEST[: SMALLEST.index("[[code]]")]),
    ],
)
def test_a_manifest_that_pins_no_code(text: str) -> None:
    error = refused(text, "no_code", line=3 if "code =" in text else None)
    assert "nothing would be pinned" in error.message


def test_an_accepted_tee_without_code() -> None:
    text = edited('["intel-sgx"]', '["intel-sgx",\n"intel-tdx"]', SMALLEST)
    refused(text, "no_code", line=3, says="intel-tdx is accepted, but no [[code]]")


def test_an_empty_code_table() -> None:
    refused(SMALLEST + "[[code]]\n", "missing_key", line=7)


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("", "missing_key", None),
        ("version = 2\nnew_key = 1", "version", 1),
        ('version = "1"', "type", 1),
        ("version = true", "type", 1),
    ],
)
def test_a_manifest_of_no_or_another_version(text: str, code: str, line: int | None) -> None:
    refused(text, code, line=line, says="version")


def test_accepted_tees_cannot_be_left_out() -> None:
    refused(edited('accepted_tees = ["intel-sgx"]', "", SMALLEST), "missing_key", says="'accepted_tees'")


@given(st.text(max_size=400) | st.text(alphabet='[]{}="\n# abcodetrvsin_1.', max_size=200))
def test_arbitrary_text_is_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^m\.toml[:,]"):
        Policy.parse(text, "m.toml")


@given(st.data())
def test_a_manifest_with_arbitrary_edits_is_a_policy_or_a_configuration_error(data: st.DataObject) -> None:
    text = MANIFEST
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 40)))
        text = text[:start] + data.draw(st.text(max_size=6)) + text[end:]
    try:
        policy = Policy.parse(text, "m.toml")
    except ConfigurationError:
        return
    assert policy.code
    assert Policy.parse(policy.to_toml(), "m.toml") == policy


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")) | st.just(" "), min_size=1, max_size=40)


def hexes(size: int) -> st.SearchStrategy[str]:
    return st.binary(min_size=size, max_size=size).map(bytes.hex)


def registers(names: tuple[str, ...], tee: TEE) -> dict[str, st.SearchStrategy[str]]:
    return {name: hexes(REGISTER_BYTES[tee][name]) for name in names}


@st.composite
def references(draw: st.DrawFn, kind: type[Hardware], tee: TEE, name: str) -> Hardware:
    form = draw(st.sampled_from((CODE_FORMS if kind is CodeReference else HARDWARE_FORMS)[tee]))
    measurements = draw(st.fixed_dictionaries(registers(form.registers, tee), optional=registers(form.optional, tee)))
    optional = [number for number in form.optional_numbers if draw(st.booleans())]
    numbers = {number: draw(st.integers(0, 65535)) for number in (*form.numbers, *optional)}
    return kind(name=name, tee=tee, measurements=measurements, **numbers)


VERSIONS = st.from_regex(r"\A[0-9A-Za-z][0-9A-Za-z._-]{0,9}\Z")


@st.composite
def gpu_policies(draw: st.DrawFn) -> GpuPolicy:
    exact = draw(st.booleans())
    number = draw(st.integers(0, MAX_DEVICES))
    values = st.lists(hexes(MEASUREMENT_BYTES), min_size=1, max_size=2).map(tuple)
    golden = st.builds(
        GoldenMeasurements,
        architecture=st.sampled_from(ARCHITECTURES),
        vbios=VERSIONS,
        driver=st.just("") | VERSIONS,
        measurements=st.dictionaries(st.integers(1, MAX_INDEX), values, min_size=1, max_size=3),
    )
    return GpuPolicy(
        count=number if exact else None,
        minimum=None if exact else number,
        switches=draw(st.integers(0, MAX_DEVICES)),
        architectures=tuple(draw(st.lists(st.sampled_from(GPU_ARCHITECTURES), min_size=1, unique=True))),
        drivers=tuple(draw(st.lists(VERSIONS, max_size=2))),
        vbios=tuple(draw(st.lists(VERSIONS, max_size=2))),
        modes=tuple(draw(st.lists(st.sampled_from(MODES), unique=True))),
        golden=tuple(draw(st.lists(golden, max_size=2))),
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    tees = draw(st.permutations(list(TEE)).flatmap(lambda order: st.sampled_from([order, order[:1]])))
    names = draw(st.lists(NAMES.map(str.strip).filter(bool), min_size=12, max_size=12, unique=True))
    code = [draw(references(CodeReference, tee, name)) for tee, name in zip([*tees, *tees], names, strict=False)]
    shapes = draw(st.lists(st.sampled_from(list(HARDWARE_FORMS)), max_size=3))
    hardware = [draw(references(Hardware, tee, name)) for tee, name in zip(shapes, names, strict=False)]
    statuses = draw(st.lists(st.sampled_from(TCB_STATUSES), min_size=1, unique=True))
    advisories = st.from_regex(r"\AINTEL-SA-[0-9]{5}\Z")
    roots = draw(st.dictionaries(st.sampled_from(list(Vendor)), hexes(32)))
    products = draw(st.lists(st.sampled_from(list(PRODUCT_PARTS)), min_size=1, unique=True))
    floors = {
        product: draw(st.dictionaries(st.sampled_from(PRODUCT_PARTS[product]), st.integers(0, MAX_PART_VERSION)))
        for product in products
        if draw(st.booleans())
    }
    makers = draw(st.lists(hexes(32).filter(lambda root: root not in roots.values()), min_size=1, max_size=2))
    return Policy(
        accepted_tees=tuple(tees),
        code=tuple(reference for reference in code if isinstance(reference, CodeReference)),
        hardware=tuple(hardware),
        tcb=TcbPolicy(
            statuses=tuple(statuses),
            grace_days=draw(st.integers(1, MAX_GRACE_DAYS)) if OUT_OF_DATE_STATUSES & set(statuses) else 0,
            minimum_evaluation_data_number=draw(st.integers(0, MAX_EVALUATION_DATA_NUMBER)),
            denied_advisories=tuple(draw(st.lists(advisories, max_size=2))),
        ),
        amd=AmdPolicy(
            products=tuple(products),
            keys=tuple(draw(st.lists(st.sampled_from(SIGNING_KEYS), min_size=1, unique=True))),
            require_crl=draw(st.booleans()),
            minimum_tcb=floors,
        ),
        tpm=TpmPolicy(roots=tuple(makers)),
        gpus=draw(st.none() | gpu_policies()),
        allowed_attributes=tuple(draw(st.lists(st.sampled_from(sorted(FLAGS)), unique=True))),
        chips=tuple(draw(st.lists(st.sampled_from(tees).flatmap(lambda tee: hexes(CHIP_ID_BYTES[tee])), max_size=2))),
        config_digests=tuple(draw(st.lists(hexes(32), max_size=2))),
        allow_simulated=bool(roots) and draw(st.booleans()),
        simulated_roots=roots,
        max_age_seconds=draw(st.integers(0, MAX_AGE_SECONDS)),
    )


@given(policies())
@settings(max_examples=40)  # each is a whole manifest with everything that may be in one
def test_what_is_written_reads_back_as_the_same_policy(policy: Policy) -> None:
    text = policy.to_toml()
    again = Policy.parse(text, "m.toml")
    assert again == policy
    assert again.to_toml() == text
    assert again.digest == policy.digest == hashlib.sha256(text.encode()).hexdigest()
    assert all(len(line) <= 120 for line in text.split("\n") if line.startswith("#"))


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"code": ()}, "no_code"),
        ({"accepted_tees": ()}, "missing_key"),
        ({"accepted_tees": (TEE.INTEL_TDX,)}, "no_code"),
        ({"tcb": TcbPolicy(statuses=("Revoked",))}, "revoked"),
        ({"tcb": TcbPolicy(statuses=("OutOfDate",))}, "grace"),
        ({"allow_simulated": True}, "simulated_root"),
        ({"amd": AmdPolicy(minimum_tcb={"Milan": {"fmc": 1}})}, "unknown_key"),
        ({"amd": AmdPolicy(products=())}, "missing_key"),
        ({"chips": ("AB" * 16,)}, "hex"),
        ({"max_age_seconds": 3601}, "range"),
    ],
)
def test_no_code_can_make_a_policy_that_no_manifest_could_state(settings: dict[str, object], code: str) -> None:
    sound: dict[str, object] = {
        "accepted_tees": (TEE.INTEL_SGX,),
        "code": (CodeReference(name="x", tee=TEE.INTEL_SGX, measurements={"mrenclave": MRENCLAVE}),),
    }
    Policy(**sound)  # type: ignore[arg-type]  # the parameters vary in type
    with pytest.raises(ConfigurationError) as caught:
        Policy(**(sound | settings))  # type: ignore[arg-type]  # as above
    assert caught.value.code == f"policy.{code}"
    assert caught.value.message.startswith("the policy: ")


def test_the_policy_of_simulation_pins_the_measured_package() -> None:
    measured = {"mrtd": MRTD, "rtmr0": RTMR0, "rtmr1": RTMR1, "rtmr2": RTMR2, "mrenclave": MRENCLAVE}
    policy = Policy.simulated({Vendor.INTEL: ROOT}, measured)
    assert policy.accepted_tees == (TEE.INTEL_SGX, TEE.INTEL_TDX)
    assert [(code.tee, set(code.measurements)) for code in policy.code] == [
        (TEE.INTEL_SGX, {"mrenclave"}),
        (TEE.INTEL_TDX, {"mrtd", "rtmr1", "rtmr2"}),
    ]
    assert policy.allow_simulated
    assert [anchor.simulated for anchor in policy.anchors()] == [False, True]
    assert policy.anchors()[1].spki_sha256 == ROOT
    assert policy.anchors()[1].name.startswith("SIMULATED")
    assert policy.source == "simulation=True"
    assert policy.place("code", 0) == "policy simulation=True"
    assert Policy.simulated({Vendor.INTEL: ROOT}, {"mrenclave": MRENCLAVE}).accepted_tees == (TEE.INTEL_SGX,)


def test_the_policy_of_simulation_needs_measurements() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Policy.simulated({Vendor.INTEL: ROOT}, {"mrtd": MRTD})
    assert caught.value.code == "policy.no_code"


TPM_MANIFEST = f"""\
version = 1
accepted_tees = ["tpm"]
[[code]]
name = "machine"
tee = "tpm"
pcr4 = "{MAKER}"
"""


def test_a_tpm_without_a_maker_that_is_believed() -> None:
    refused(TPM_MANIFEST, "missing_key", says="no maker of TPMs")
    refused(TPM_MANIFEST + f'[simulated_roots]\ntpm = "{ROOT}"\n', "missing_key", says="no maker of TPMs")
    refused(TPM_MANIFEST + "[tpm]\nroots = []\n", "missing_key", line=8)


def test_the_makers_of_tpms_are_trust_anchors() -> None:
    (anchor,) = Policy.parse(TPM_MANIFEST + f'[tpm]\nroots = ["{MAKER}"]\n', "m").anchors()
    assert (anchor.vendor, anchor.spki_sha256, anchor.simulated) == (Vendor.TPM, MAKER, False)
    assert anchor.name == "TPM root 77777777"


def test_a_simulated_tpm_needs_no_maker() -> None:
    text = edited("version = 1", "version = 1\nallow_simulated = true", TPM_MANIFEST)
    (anchor,) = Policy.parse(text + f'[simulated_roots]\ntpm = "{ROOT}"\n', "m").anchors()
    assert (anchor.vendor, anchor.spki_sha256, anchor.simulated) == (Vendor.TPM, ROOT, True)


def test_makers_of_tpms_are_no_anchors_where_no_tpm_is_accepted() -> None:
    assert Vendor.TPM not in {anchor.vendor for anchor in Policy.parse(MANIFEST, "m").anchors()}


def test_the_parts_of_amds_firmware_are_those_that_the_verifier_reads() -> None:
    assert {name: set(parts) for name, parts in PRODUCT_PARTS.items()} == {
        product.name: set(product.tcb) for product in PRODUCTS.values()
    }


def test_all_that_is_wrong_is_noted() -> None:
    text = edited('"UpToDate"', '"Uptodate"', edited('["vcek"]', '["vcak"]', edited(RTMR2, "00")))
    problems: list[ConfigurationError] = []
    with pytest.raises(ConfigurationError) as caught:
        Policy.parse(text, "m", problems=problems)
    assert [problem.code for problem in problems] == ["policy.length", "policy.unknown_value", "policy.unknown_value"]
    assert caught.value is problems[0]


def test_values_of_wrong_types_are_noted_before_wrong_values() -> None:
    text = edited("grace_days = 30", 'grace_days = "30"', edited('["vcek"]', "3", edited(RTMR2, "00")))
    problems: list[ConfigurationError] = []
    with pytest.raises(ConfigurationError):
        Policy.parse("unknown = 1\n" + text, "m", problems=problems)
    assert [problem.code for problem in problems] == ["policy.type", "policy.type", "policy.unknown_key"]


def test_a_root_alone_does_not_allow_simulation() -> None:
    policy = Policy.parse(edited("allow_simulated = true", "allow_simulated = false"), "m")
    assert policy.anchors() == (INTEL_SGX_ROOT,)


def test_a_copy_with_other_settings_has_another_digest() -> None:
    policy = Policy.parse(MANIFEST, "m")
    assert policy.digest == hashlib.sha256(MANIFEST.encode()).hexdigest()
    copy = dataclasses.replace(policy, chips=())
    assert copy.digest == hashlib.sha256(copy.to_toml().encode()).hexdigest() != policy.digest


def test_both_tees_of_intel_share_one_anchor() -> None:
    assert [anchor.simulated for anchor in Policy.parse(MANIFEST, "m").anchors()] == [False, True]


def test_a_file_is_read_and_its_digest_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "manifest.toml"
    data = MANIFEST.replace("\n", "\r\n").encode()
    path.write_bytes(data)
    policy = Policy.load(path)
    assert policy == Policy.parse(MANIFEST, "m")
    assert policy.digest == hashlib.sha256(data).hexdigest()
    assert policy.source == str(path)
    assert policy.line("code", 0, "mrtd") == 9
    assert policy.place("code", 0, "mrtd") == f"policy {path}, line 9"


def test_the_source_is_called_as_the_caller_called_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "manifest.toml").write_text(MANIFEST)
    monkeypatch.chdir(tmp_path)
    assert Policy.load("./manifest.toml").source == "./manifest.toml"


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "manifest.toml"
    path.write_bytes(b"\xef\xbb\xbf" + MANIFEST.encode())
    assert Policy.load(path).line("version") == 1


def not_loaded(path: str | Path, code: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        Policy.load(path)
    assert caught.value.code == f"policy.{code}"
    assert caught.value.message.startswith(f"{os.fspath(path)}: ")
    return caught.value


def test_no_file(tmp_path: Path) -> None:
    path = tmp_path / "manifest.toml"
    error = not_loaded(path, "missing")
    assert "no manifest" in error.message
    assert error.hint.endswith(f"blindai measure > {path}")


def test_a_directory(tmp_path: Path) -> None:
    assert "directory" in not_loaded(tmp_path, "unreadable").message


@pytest.mark.parametrize("name", ["manifest\0.toml", "x" * 5000])
def test_a_name_that_no_file_can_have(name: str) -> None:
    not_loaded(name, "unreadable")


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "manifest.toml"
    path.write_bytes(b"version = 1\n# caf\xe9\n")
    assert "line 2 is not UTF-8" in not_loaded(path, "encoding").message


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "manifest.toml"
    path.write_bytes(b"#" * (MAX_MANIFEST_BYTES + 1))
    not_loaded(path, "too_large")
    path.write_text(SMALLEST + "#" + "\u20ac" * (MAX_MANIFEST_BYTES // 2), encoding="utf-8")
    not_loaded(path, "too_large")  # though it has fewer characters than that
    path.write_bytes(b"#" * MAX_MANIFEST_BYTES)
    with pytest.raises(ConfigurationError) as caught:
        Policy.load(path)
    assert caught.value.code == "policy.missing_key"


def test_the_default_attributes_are_known() -> None:
    assert set(DEFAULT_ATTRIBUTES) <= set(FLAGS)


def test_origin_takes_no_part_in_equality() -> None:
    assert Policy.parse(MANIFEST, "a") == Policy.parse("\n" + MANIFEST, "b")
    assert Policy.parse(MANIFEST, "a").origin != Origin(source="a")
