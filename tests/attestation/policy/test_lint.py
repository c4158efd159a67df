from __future__ import annotations

import pytest

from blindai.attestation.claims import FLAGS
from blindai.attestation.evidence import TEE
from blindai.attestation.policy import Policy
from blindai.attestation.policy.lint import Finding, Level, errors, warnings
from blindai.attestation.policy.summary import TEE_NAMES, summary
from blindai.errors import ConfigurationError

ROOT, CHIP, CONFIG = "44" * 32, "5a" * 64, "66" * 32

STRICT = f"""\
version = 1
accepted_tees = ["amd-sev-snp"]

[[code]]
name = "guest"
tee = "amd-sev-snp"
launch_digest = "{"11" * 48}"

[amd]
products = ["Milan"]
minimum_tcb.Milan = {{ microcode = 209 }}

[chips]
allowed = ["{CHIP}"]

[config]
digests = ["{CONFIG}"]
"""

TDX = f"""\
version = 1
accepted_tees = ["intel-tdx"]

[[code]]
name = "td"
tee = "intel-tdx"
mrtd = "{"11" * 48}"
rtmr1 = "{"11" * 48}"
rtmr2 = "{"11" * 48}"

[[hardware]]
name = "8 vCPU"
tee = "intel-tdx"
mrtd = "{"11" * 48}"
rtmr0 = "{"11" * 48}"

[chips]
allowed = ["{"5a" * 16}"]

[config]
digests = ["{CONFIG}"]
"""

TPM = f"""\
version = 1
accepted_tees = ["tpm"]

[[code]]
name = "machine"
tee = "tpm"
pcr4 = "{"11" * 32}"
pcr11 = "{"11" * 32}"

[[hardware]]
name = "board"
tee = "tpm"
pcr0 = "{"11" * 32}"

[tpm]
roots = ["{ROOT}"]

[chips]
allowed = ["{"5a" * 32}"]

[config]
digests = ["{CONFIG}"]
"""

SGX = f"""\
[[code]]
name = "enclave"
tee = "intel-sgx"
mrsigner = "{"11" * 32}"
isv_prod_id = 1
minimum_isv_svn = 1
"""


def lint(text: str) -> list[tuple[str, int | None]]:
    found = warnings(Policy.parse(text, "m"))
    assert all(finding.level is Level.WARNING for finding in found)
    return [(finding.code.removeprefix("lint."), finding.line) for finding in found]


def edited(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize("text", [STRICT, TDX])
def test_a_strict_manifest_has_nothing_to_remark(text: str) -> None:
    assert lint(text) == []


def test_a_tpm_always_has_a_warning() -> None:
    assert lint(TPM) == [("no_isolation", 2)]


# (manifest, text replaced, replacement, code, line)
WEAK: list[tuple[str, str, str, str, int | None]] = [
    (STRICT, "version = 1", f'version = 1\nallow_simulated = true\nsimulated_roots.amd = "{ROOT}"', "simulated", 2),
    (STRICT, "version = 1", f'version = 1\nsimulated_roots.amd = "{ROOT}"', "unused", 2),
    (STRICT, f'["{CHIP}"]', "[]", "chips_open", 14),
    (STRICT, f'[chips]\nallowed = ["{CHIP}"]', "", "chips_open", None),
    (STRICT, f'["{CONFIG}"]', "[]", "config_open", 17),
    (STRICT, "[amd]", "[amd]\nrequire_crl = false", "crl_optional", 10),
    (STRICT, "minimum_tcb.Milan = { microcode = 209 }", "", "tcb_open", 10),
    (STRICT, '["Milan"]', '["Milan", "Genoa"]', "tcb_open", 10),
    (STRICT, "[chips]", '[attributes]\nallowed = [\n"smt",\n"migratable"]\n[chips]', "attribute", 16),
    (STRICT, "[chips]", "[tcb]\nminimum_evaluation_data_number = 1\n[chips]", "unused", 13),
    (STRICT, "[chips]", f'[tpm]\nroots = ["{ROOT}"]\n[chips]', "unused", 13),
    (STRICT, "[amd]", SGX + "[amd]", "unused", 9),
    (
        STRICT,
        "[amd]",
        f'[[code]]\nname = "b"\ntee = "amd-sev-snp"\nlaunch_digest = "{"11" * 48}"\n[amd]',
        "duplicate",
        9,
    ),
    (TDX, "[chips]", "[amd]\nrequire_crl = false\n[chips]", "unused", 17),
    (TDX, "[chips]", '[tcb]\nstatuses = ["UpToDate", "ConfigurationNeeded"]\n[chips]', "tcb_weak", 18),
    (TDX, "[chips]", '[tcb]\ndenied_advisories = ["INTEL-SA-00615"]\n[chips]', "advisories_unjudged", 18),
    (TDX, TDX[TDX.index("[[hardware]]") : TDX.index("[chips]")], "", "hardware_open", 2),
    (TDX, '["intel-tdx"]', '["intel-tdx", "intel-sgx"]\n' + SGX, "signer_only", 6),
    (TDX, "[chips]", f'[[hardware]]\nname = "x"\ntee = "tpm"\npcr0 = "{ROOT}"\n[chips]', "unused", 17),
]


@pytest.mark.parametrize(("text", "old", "new", "code", "line"), WEAK, ids=[case[3] for case in WEAK])
def test_a_weakness_is_one_warning_at_its_line(text: str, old: str, new: str, code: str, line: int | None) -> None:
    assert [code for code, _ in lint(edited(text, old, new))].count(code) == 1
    assert (code, line) in lint(edited(text, old, new))


def test_a_grace_of_more_than_a_round_of_updates() -> None:
    statuses = '[tcb]\nstatuses = ["UpToDate", "OutOfDate"]\ngrace_days = '
    assert lint(edited(TDX, "[chips]", statuses + "90\n[chips]")) == [("tcb_weak", 18)]
    assert lint(edited(TDX, "[chips]", statuses + "91\n[chips]")) == [("tcb_weak", 18), ("long_grace", 19)]


def test_a_boot_loader_that_may_start_any_kernel() -> None:
    assert ("kernel_open", 4) in lint(edited(TPM, f'pcr11 = "{"11" * 32}"\n', ""))


def test_advisories_that_the_data_know() -> None:
    tcb = '[tcb]\ndenied_advisories = ["INTEL-SA-00615"]\nminimum_evaluation_data_number = 17\n[chips]'
    assert lint(edited(TDX, "[chips]", tcb)) == []


def problems(text: str, source: str = "./m: 1, line 2.toml") -> tuple[Finding, ...]:
    found: list[ConfigurationError] = []
    with pytest.raises(ConfigurationError):
        Policy.parse(text, source, problems=found)
    return errors(found, source)


def test_errors_are_in_the_order_of_lines() -> None:
    found = problems(edited(edited(STRICT, CONFIG, "00"), '"Milan"', '"Rome"'))
    assert [(finding.level, finding.code, finding.line) for finding in found] == [
        (Level.ERROR, "policy.unknown_value", 10),
        (Level.ERROR, "policy.length", 17),
    ]
    assert found[0].message.startswith("unknown product line 'Rome'; ")


def test_an_error_without_a_line() -> None:
    (found,) = problems("version = [")
    assert (found.code, found.line) == ("policy.syntax", None)
    assert found.message.startswith("this is not valid TOML: ")


# The summary


def told(text: str) -> list[tuple[str, str, int | None]]:
    sections = summary(Policy.parse(text, "m"))
    return [(section.title, line.text, line.line) for section in sections for line in section.statements]


def test_what_is_accepted_is_said_with_its_line() -> None:
    title = "AMD SEV-SNP guests (amd-sev-snp)"
    said = told(STRICT)
    assert (title, f"runs guest: launch_digest {'11' * 48}", 4) in said
    assert (title, "product line: Milan", 10) in said
    assert (title, "firmware and microcode of Milan: microcode at least 209", 11) in said
    assert (title, "AMD's revocation list must travel with the evidence", 9) in said
    assert (title, f"processor: {CHIP}", 14) in said
    assert (title, "machine shape and firmware: not measured apart from the code", None) in said
    assert ("On all of them", f"measured configuration: {CONFIG}", 17) in said
    others = "other TEEs: intel-sgx, intel-tdx, azure-sev-snp, azure-tdx, tpm"
    assert ("Refused, whatever else holds", others, 2) in said
    assert ("Refused, whatever else holds", "simulated platforms", None) in said


def test_what_is_left_open_is_said() -> None:
    text = edited(edited(STRICT, f'["{CHIP}"]', "[]"), f'["{CONFIG}"]', "[]")
    text = edited(text, "minimum_tcb.Milan = { microcode = 209 }", "require_crl = false")
    texts = [text for _, text, _ in told(text + "[resume]\nmax_age_seconds = 0\n")]
    for words in (
        "processor: every genuine one",
        "measured configuration: any",
        "AMD's revocation list may be left out",
        "firmware and microcode of Milan: any version",
        "a new quote for every connection",
    ):
        assert words in texts


def test_trust_domains() -> None:
    title = "Intel TDX trust domains (intel-tdx)"
    tcb = """\
[tcb]
statuses = ["UpToDate", "OutOfDate"]
grace_days = 30
minimum_evaluation_data_number = 17
denied_advisories = ["INTEL-SA-00615"]
"""
    said = told(edited(TDX, "[chips]", tcb + "[chips]"))
    assert (title, "firmware and microcode: UpToDate or OutOfDate", 18) in said
    assert (title, "OutOfDate for 30 days after the date of the TCB level", 19) in said
    assert (title, "judged by TCB data of edition 17 or later", 20) in said
    assert (title, "none of these advisories: INTEL-SA-00615", 21) in said
    assert (title, f"machine shape and firmware: 8 vCPU: mrtd {'11' * 48}, rtmr0 {'11' * 48}", 11) in said
    texts = [text for _, text, _ in told(edited(TDX, TDX[TDX.index("[[hardware]]") : TDX.index("[chips]")], ""))]
    assert "machine shape and firmware: any" in texts


def test_chips_of_another_tee_leave_none() -> None:
    text = edited(STRICT, '["amd-sev-snp"]', '["amd-sev-snp", "intel-sgx"]') + SGX
    assert ("Intel SGX enclaves (intel-sgx)", "processor: none, [chips] lists only those of other TEEs", 14) in told(
        text
    )


def test_devices() -> None:
    gpus = """\
[gpus]
count = 8
switches = 4
drivers = ["570.124.06"]
[[gpus.golden]]
architecture = "hopper"
vbios = "96.00.9F.00.01"
driver = "570.124.06"
[gpus.golden.measurements]
9 = ["{}"]
[[gpus.golden]]
architecture = "ls10"
vbios = "96.10.57.00.01"
[gpus.golden.measurements]
9 = ["{}"]
""".format("ab" * 48, "cd" * 48)
    said = [(text, line) for title, text, line in told(STRICT + gpus) if title == "On all of them"]
    assert ("GPUs: exactly 8, hopper or blackwell, beside exactly 4 switches", 18) in said
    assert ("driver of GPUs: 570.124.06", 21) in said
    assert ("measured firmware: hopper, VBIOS 96.00.9F.00.01, driver 570.124.06, 1 measurements", 22) in said
    assert ("measured firmware: ls10, VBIOS 96.10.57.00.01, 1 measurements", 28) in said
    assert lint(STRICT + gpus) == []
    said = [(text, line) for _, text, line in told(STRICT + "[gpus]\nminimum = 1\n")]
    assert ("GPUs: at least 1, hopper or blackwell, beside exactly 0 switches", 18) in said
    assert ("measured firmware of GPUs and switches: any", 18) in said
    assert lint(STRICT + "[gpus]\nminimum = 1\n") == [("devices_open", 18)]
    assert ("On all of them", "GPUs and switches: none", None) in told(STRICT)


def test_where_every_tee_is_accepted_no_other_is_refused() -> None:
    pcr = "".join(
        f'[[code]]\nname = "{tee}"\ntee = "{tee}"\npcr4 = "{ROOT}"\n' for tee in ("azure-sev-snp", "azure-tdx", "tpm")
    )
    tees = ", ".join(f'"{tee}"' for tee in TEE)
    td = TDX[TDX.index("[[code]]") : TDX.index("[chips]")]
    text = edited(STRICT, '["amd-sev-snp"]', f"[{tees}]") + td + SGX + pcr + f'[tpm]\nroots = ["{ROOT}"]\n'
    assert not [said for _, said, _ in told(text) if said.startswith("other TEEs")]


def test_tpms() -> None:
    title = "machines with a TPM 2.0 (tpm)"
    said = told(TPM)
    assert (title, "vouched for by TPM root 44444444", 16) in said
    assert (title, f"TPM: {'5a' * 32}", 19) in said
    assert (title, "firmware and microcode: not checked, a TPM does not report their state", None) in said


def test_simulation_is_said_and_not_listed_as_refused() -> None:
    text = edited(STRICT, "version = 1", f'version = 1\nallow_simulated = true\nsimulated_roots.amd = "{ROOT}"')
    said = told(text)
    assert ("On all of them", "simulated platforms are accepted, which protect nothing", 2) in said
    assert "simulated platforms" not in [text for _, text, _ in said]


def test_every_attribute_allowed_and_every_tee_named() -> None:
    listed = ", ".join(f'"{name}"' for name in FLAGS)
    said = told(edited(STRICT, "[chips]", f"[attributes]\nallowed = [{listed}]\n[chips]"))
    assert not [text for title, text, _ in said if title.startswith("Refused") and text.startswith("attributes")]
    assert set(TEE_NAMES) == set(TEE)
