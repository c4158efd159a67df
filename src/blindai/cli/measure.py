"""`blindai measure`: manifests for the code that is installed here, and for releases on real platforms."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blindai.attestation.evidence import TEE
from blindai.attestation.measure.boot import InnerKernel
from blindai.attestation.measure.snp import DEFAULT_GUEST_FEATURES, Hypervisor
from blindai.attestation.measure.tdx import PageOrder
from blindai.cli.console import err, print_json, reported
from blindai.cli.target import Json
from blindai.errors import ConfigurationError

if TYPE_CHECKING:
    from blindai.attestation.policy import Policy
    from blindai.attestation.policy.reference_values import CodeReference, HardwareReference

app = typer.Typer(
    help="Write the manifest that accepts a release. Alone: this very code on this installation's simulated platform.",
    epilog="Each platform has a command of its own; docs/measuring.md says which files it needs and how to check it.",
)

Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write here; standard output without it.")
]
Merge = Annotated[
    Path | None,
    typer.Option(
        "--merge",
        metavar="FILE",
        help="Add to this manifest and keep what it has; its comments are written anew. Without -o it is replaced.",
    ),
]
Name = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="How verdicts call the release; else this version.")
]
Firmware = Annotated[
    Path, typer.Option("--firmware", metavar="FILE", help="The firmware image that the machine is launched with.")
]


class TpmPlatform(StrEnum):
    """The platforms whose code is told by PCRs."""

    TPM = TEE.TPM
    AZURE_SEV_SNP = TEE.AZURE_SEV_SNP
    AZURE_TDX = TEE.AZURE_TDX


@app.callback(invoke_without_command=True)
def measure(context: typer.Context, output: Output = None, as_json: Json = False) -> None:
    """Write the manifest that accepts this very code on this installation's simulated platform."""
    if context.invoked_subcommand is None:
        simulated(output=output, as_json=as_json)
    elif output is not None or as_json:
        raise typer.BadParameter(f"options belong behind {context.invoked_subcommand!r}")


@app.command()
def simulated(output: Output = None, as_json: Json = False) -> None:
    """This very code on this installation's simulated platform: what `blindai measure` alone writes."""
    with reported(as_json=as_json):
        from blindai.attestation.measure.local import local_policy

        _deliver(local_policy(), output, as_json=as_json)


@app.command()
def snp(
    firmware: Firmware,
    vcpus: Annotated[str, typer.Option("--vcpus", metavar="N,N", help="Numbers of vCPUs, such as 1,2,4.")],
    vcpu_type: Annotated[
        str, typer.Option("--vcpu-type", metavar="TYPE,TYPE", help="QEMU's CPU models, such as EPYC-v4,EPYC-Genoa.")
    ] = "",
    kernel: Annotated[
        Path | None, typer.Option("--kernel", metavar="FILE", help="A kernel that QEMU boots with kernel-hashes=on.")
    ] = None,
    initrd: Annotated[Path | None, typer.Option("--initrd", metavar="FILE", help="Its initrd.")] = None,
    cmdline: Annotated[str, typer.Option("--cmdline", metavar="TEXT", help="Its command line.")] = "",
    guest_features: Annotated[
        str, typer.Option("--guest-features", metavar="N", help="SEV_FEATURES of the guest.")
    ] = f"{DEFAULT_GUEST_FEATURES:#x}",
    hypervisor: Annotated[Hypervisor, typer.Option("--hypervisor", help="Who launches the guest.")] = Hypervisor.QEMU,
    name: Name = None,
    output: Output = None,
    merge: Merge = None,
    as_json: Json = False,
) -> None:
    """AMD SEV-SNP: the launch digest of each number and type of vCPUs, from the firmware image."""
    with reported(as_json=as_json):
        from blindai.attestation.measure.snp import Boot, launch_digests
        from blindai.attestation.policy.reference_values import CodeReference

        if kernel is None and (initrd is not None or cmdline):
            raise ConfigurationError("--initrd and --cmdline need --kernel", code="measure.option")
        digests = launch_digests(
            firmware,
            vcpus=[_integer(number, "--vcpus") for number in vcpus.split(",")],
            vcpu_types=[kind for kind in vcpu_type.split(",") if kind],
            boot=None if kernel is None else Boot(kernel, initrd, cmdline),
            guest_features=_integer(guest_features, "--guest-features"),
            hypervisor=hypervisor,
        )
        code = [
            CodeReference(
                name=f"{_release(name)}, {digest.vcpus} x {digest.vcpu_type or hypervisor}",
                tee=TEE.AMD_SEV_SNP,
                measurements={"launch_digest": digest.value},
            )
            for digest in digests
        ]
        _deliver_references(code, (), output, merge, as_json=as_json)


@app.command()
def tdx(
    firmware: Firmware,
    event_log: Annotated[
        Path, typer.Option("--event-log", metavar="FILE", help="The CCEL of a boot of this release (CCEL table data).")
    ],
    page_order: Annotated[
        PageOrder, typer.Option("--page-order", help="How the hypervisor adds pages; see docs/measuring.md.")
    ] = PageOrder.PAGE,
    name: Name = None,
    output: Output = None,
    merge: Merge = None,
    as_json: Json = False,
) -> None:
    """Intel TDX: MRTD from the firmware image, RTMR0 to RTMR2 from the event log of one boot."""
    with reported(as_json=as_json):
        from blindai.attestation.eventlog import MAX_EVENT_LOG_BYTES
        from blindai.attestation.measure.artefact import read_artefact
        from blindai.attestation.measure.boot import replayed_rtmrs
        from blindai.attestation.measure.firmware import MAX_FIRMWARE_BYTES
        from blindai.attestation.measure.release import tdx_references
        from blindai.attestation.measure.tdx import mrtd

        value = mrtd(read_artefact(firmware, MAX_FIRMWARE_BYTES), page_order)
        rtmrs = replayed_rtmrs(read_artefact(event_log, MAX_EVENT_LOG_BYTES))
        code, hardware = tdx_references(_release(name), value, rtmrs)
        _deliver_references(code, hardware, output, merge, as_json=as_json)


@app.command()
def tpm(
    uki: Annotated[
        Path | None, typer.Option("--uki", metavar="FILE", help="The unified kernel image: gives PCR 4 and 11.")
    ] = None,
    loader: Annotated[
        list[Path] | None,
        typer.Option("--loader", metavar="FILE", help="An image that is loaded before the UKI; may be repeated."),
    ] = None,
    inner_kernel: Annotated[
        InnerKernel, typer.Option("--inner-kernel", help="Whether firmware measures the UKI's kernel into PCR 4.")
    ] = InnerKernel.AUTO,
    phases: Annotated[
        str | None,
        typer.Option(
            "--phases",
            metavar="NAME:NAME",
            help="Boot phases in PCR 11; empty where nothing extends them; else those of a full boot with systemd.",
        ),
    ] = None,
    event_log: Annotated[
        Path | None,
        typer.Option("--event-log", metavar="FILE", help="binary_bios_measurements of a boot: gives PCR 0, 2 and 7."),
    ] = None,
    tpm_root: Annotated[
        list[str] | None,
        typer.Option(
            "--tpm-root",
            metavar="SHA256",
            help="A maker of TPMs to believe, by the key of its root certificate (SPKI); needed for --tee tpm.",
        ),
    ] = None,
    tee: Annotated[TpmPlatform, typer.Option("--tee", help="The platform.")] = TpmPlatform.TPM,
    name: Name = None,
    output: Output = None,
    merge: Merge = None,
    as_json: Json = False,
) -> None:
    """A TPM, or a confidential VM of Azure: PCR 4 and 11 from the UKI, and what the event log of a boot adds."""
    with reported(as_json=as_json):
        from blindai.attestation.eventlog import MAX_EVENT_LOG_BYTES
        from blindai.attestation.measure.artefact import read_artefact
        from blindai.attestation.measure.boot import confirmed, predict, replayed_pcrs
        from blindai.attestation.measure.pcr import PHASES
        from blindai.attestation.measure.pe import MAX_IMAGE_BYTES, PeImage
        from blindai.attestation.measure.release import tpm_references

        entered = PHASES if phases is None else tuple(phase for phase in phases.split(":") if phase)
        logged = None if event_log is None else replayed_pcrs(read_artefact(event_log, MAX_EVENT_LOG_BYTES), entered)
        images = [
            PeImage.parse(read_artefact(path, MAX_IMAGE_BYTES)) for path in [*(loader or ()), *filter(None, [uki])]
        ]
        if uki is None and images:
            raise ConfigurationError("--loader needs --uki", code="measure.option")
        if uki is not None:
            predicted = predict(images, inner_kernel, entered)
            predicted = predicted if logged is None else {"": confirmed(predicted, logged)}
        elif logged is not None:
            predicted = {"": logged}
        else:
            raise ConfigurationError("give --uki, --event-log or both", code="measure.option")

        code: list[CodeReference] = []
        hardware: tuple[HardwareReference, ...] = ()
        for suffix, pcrs in predicted.items():
            more, _ = tpm_references(_release(name) + suffix, pcrs, TEE(tee))
            code += more
        if logged is not None and tee is TpmPlatform.TPM:
            _, hardware = tpm_references(_release(name), logged)
        roots = [root.lower() for root in tpm_root or ()]
        _deliver_references(code, hardware, output, merge, as_json=as_json, tpm_roots=roots)


@app.command()
def sgx(
    sigstruct: Annotated[
        Path | None, typer.Option("--sigstruct", metavar="FILE", help="The signed enclave's SIGSTRUCT (Gramine: .sig).")
    ] = None,
    mrenclave: Annotated[str | None, typer.Option("--mrenclave", metavar="HEX", help="MRENCLAVE itself.")] = None,
    by_signer: Annotated[
        bool,
        typer.Option("--by-signer", help="Accept this and later versions by the same signer, instead of this enclave."),
    ] = False,
    name: Name = None,
    output: Output = None,
    merge: Merge = None,
    as_json: Json = False,
) -> None:
    """Intel SGX: MRENCLAVE, or signer, product and version, from a SIGSTRUCT whose signature is verified."""
    with reported(as_json=as_json):
        from blindai.attestation.measure.artefact import read_artefact
        from blindai.attestation.measure.sgx import SIGSTRUCT_BYTES, read_sigstruct
        from blindai.attestation.policy.reference_values import CodeReference

        if (sigstruct is None) is (mrenclave is None) or (by_signer and sigstruct is None):
            raise ConfigurationError(
                "give --sigstruct or --mrenclave; --by-signer needs --sigstruct", code="measure.option"
            )
        if sigstruct is None:
            reference = CodeReference(
                name=_release(name), tee=TEE.INTEL_SGX, measurements={"mrenclave": (mrenclave or "").lower()}
            )
        else:
            signed = read_sigstruct(read_artefact(sigstruct, SIGSTRUCT_BYTES))
            if by_signer:
                reference = CodeReference(
                    name=_release(name),
                    tee=TEE.INTEL_SGX,
                    measurements={"mrsigner": signed.mrsigner},
                    isv_prod_id=signed.isv_prod_id,
                    minimum_isv_svn=signed.isv_svn,
                )
            else:
                reference = CodeReference(
                    name=_release(name), tee=TEE.INTEL_SGX, measurements={"mrenclave": signed.mrenclave}
                )
        _deliver_references([reference], (), output, merge, as_json=as_json)


def _release(name: str | None) -> str:
    import blindai

    return f"blindai {blindai.__version__}" if name is None else name


def _integer(text: str, option: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ConfigurationError(f"{option}: {text!r} is no number", code="measure.option") from None


def _deliver_references(
    code: Sequence[CodeReference],
    hardware: Sequence[HardwareReference],
    output: Path | None,
    merge: Path | None,
    *,
    as_json: bool,
    tpm_roots: Sequence[str] = (),
) -> None:
    from blindai.attestation.measure.release import manifest, merged
    from blindai.attestation.policy import Policy

    if merge is None:
        _deliver(manifest(code, hardware, tpm_roots=tpm_roots), output, as_json=as_json)
        return
    policy = merged(Policy.load(merge), code, hardware, tpm_roots=tpm_roots)
    if output is None:
        _replace(merge, policy.to_toml())
    _deliver(policy, output, as_json=as_json, printed=output is None)


def _deliver(policy: Policy, output: Path | None, *, as_json: bool, printed: bool = False) -> None:
    """Write a manifest; `printed` says that it is in its file already."""
    if output is not None:
        _write(output, policy.to_toml())
    if as_json:
        print_json(_fields(policy))
    elif output is not None:
        err.print(f"wrote {output}", markup=False)
    elif printed:
        err.print(f"wrote {policy.source}", markup=False)
    else:
        print(policy.to_toml(), end="")


def _fields(policy: Policy) -> dict[str, Any]:
    def rows(references: Sequence[HardwareReference]) -> list[dict[str, Any]]:
        return [{"name": entry.name, "tee": entry.tee, **entry.measurements, **entry.numbers()} for entry in references]

    return {
        "simulated_roots": dict(policy.simulated_roots),
        "code": rows(policy.code),
        "hardware": rows(policy.hardware),
    }


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigurationError(
            f"{path} exists", code="configuration.output", hint="a policy is not overwritten: move it away first"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error}", code="configuration.output") from error


def _replace(path: Path, text: str) -> None:
    """Replace a file so that no reader ever sees half of it."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        _write(new, text)
        new.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be replaced: {error}", code="configuration.output") from error
    finally:
        new.unlink(missing_ok=True)
