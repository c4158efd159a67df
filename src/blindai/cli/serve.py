"""`blindai serve`: the enclave server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from blindai.attestation.attesters.platform import BOOT_LOG_FILE, TPM_TCTI, Platform
from blindai.cli.console import err, print_json, reported
from blindai.cli.extras import require_extra
from blindai.cli.target import Json
from blindai.errors import ConfigurationError

if TYPE_CHECKING:
    from blindai.channel.calling import CallingEnd
    from blindai.channel.end import AttestedEnd
    from blindai.enclave.config import EnclaveConfig

DEFAULT_PORT = 9443


class LogFormat(StrEnum):
    """For people, or for programs."""

    CONSOLE = "console"
    JSON = "json"


def serve(
    platform: Annotated[
        Platform, typer.Option("--platform", help="What to attest with. auto says why it chose.")
    ] = Platform.AUTO,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 takes a free one.")] = DEFAULT_PORT,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Limits and runtime settings (TOML). They are attested."),
    ] = None,
    sealed_model: Annotated[
        Path | None,
        typer.Option(
            "--sealed-model",
            metavar="FILE",
            help="The model on loan, still sealed. Without it the custodian of the configuration is asked for it.",
        ),
    ] = None,
    spool: Annotated[
        Path | None,
        typer.Option(
            "--spool",
            metavar="FOLDER",
            help="Where uploaded models lie, encrypted; on a disk. Default: the system's folder for temporary files.",
        ),
    ] = None,
    devices: Annotated[
        str,
        typer.Option("--devices", help="GPUs to attest with it: none, auto, nvidia, simulated or simulated:2."),
    ] = "none",
    collateral_url: Annotated[
        str | None,
        typer.Option(
            "--collateral-url", metavar="URL", help="A PCCS or a mirror of AMD's KDS, in place of Intel's or AMD's own."
        ),
    ] = None,
    collateral_dir: Annotated[
        Path | None,
        typer.Option(
            "--collateral-dir",
            metavar="FOLDER",
            help="Where endorsements are kept. Without --collateral-url: all there are; nothing is fetched.",
        ),
    ] = None,
    tpm_tcti: Annotated[
        str, typer.Option("--tpm-tcti", metavar="TCTI", help="Where the TPM is, as tpm2-tss writes it.")
    ] = TPM_TCTI,
    tpm_certificates: Annotated[
        Path | None, typer.Option("--tpm-certificates", metavar="FILE", help="Certificates of the TPM's maker (PEM).")
    ] = None,
    tpm_event_log: Annotated[
        Path, typer.Option("--tpm-event-log", metavar="FILE", help="The firmware's boot log.")
    ] = Path(BOOT_LOG_FILE),
    log_format: Annotated[LogFormat, typer.Option("--log-format", help="How to log.")] = LogFormat.CONSOLE,
    as_json: Json = False,
) -> None:
    """Serve models behind attested TLS, until interrupted. --json prints the address as JSON once it listens."""
    with reported(as_json=as_json):
        require_server_extra()
        import msgspec
        import structlog

        from blindai.attestation.attesters import opening
        from blindai.attestation.attesters.detection import detect
        from blindai.attestation.attesters.devices import open_devices
        from blindai.channel.calling import CallingEnd
        from blindai.channel.end import AttestedEnd
        from blindai.channel.logs import configure_logs
        from blindai.enclave.config import EnclaveConfig
        from blindai.enclave.server import run

        settings = EnclaveConfig() if config is None else EnclaveConfig.load(config)
        _require_custodian(settings, sealed_model)
        why: tuple[str, ...] = ()
        if platform is Platform.AUTO:
            finding = detect()
            platform, why = finding.platform, finding.explanation
            for line in () if as_json else why:
                err.print(f"[dim]{escape(line)}[/]")
        tpm = opening.TpmOptions(tcti=tpm_tcti, certificates=tpm_certificates, event_log=tpm_event_log)
        attester, beside = opening.bare(platform, tpm=tpm), open_devices(devices)
        configure_logs(sys.stderr, as_json=log_format is LogFormat.JSON)
        log = structlog.get_logger("blindai.collateral").warning
        with opening.stapled(attester, url=collateral_url, directory=collateral_dir, log=log) as endorsed:
            measured = msgspec.to_builtins(settings)
            end = AttestedEnd(endorsed, measured, devices=beside)
            calling = CallingEnd(endorsed, measured, devices=beside) if settings.custody or settings.cloud else None
            announce = _announcer(platform, why, settings, simulated=end.simulated, as_json=as_json)
            run(_serve(end, settings, host, port, announce, calling=calling, sealed_model=sealed_model, spool=spool))


async def _serve(
    end: AttestedEnd,
    config: EnclaveConfig,
    host: str,
    port: int,
    ready: Callable[[str, int], None],
    *,
    calling: CallingEnd | None,
    sealed_model: Path | None,
    spool: Path | None,
) -> None:
    from blindai.channel.server import AttestedProtocols
    from blindai.enclave.app import Application
    from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
    from blindai.enclave.server import serve as serve_application

    protocols = AttestedProtocols(end)
    engine = OnnxRuntimeEngine(threads=config.runtime.threads)
    application = Application(config, engine, end=calling, sealed_model=sealed_model, signer=end, spool=spool)
    try:
        await serve_application(
            application,
            config=config,
            protocol_factory=protocols,
            host=host,
            port=port,
            ready=ready,
            simulated=end.simulated,
        )
    finally:
        protocols.close()
        await asyncio.sleep(0)  # lets the loop close what was cut


def _announcer(
    platform: Platform, why: Sequence[str], config: EnclaveConfig, *, simulated: bool, as_json: bool
) -> Callable[[str, int], None]:
    custody, cloud = config.custody, config.cloud

    def ready(host: str, port: int) -> None:
        address = f"https://{f'[{host}]' if ':' in host else host}:{port}"
        if as_json:
            leased = {"leased": custody.model_id} if custody else {}
            joined = {"cloud": cloud.address} if cloud else {}
            said = {"address": address, "platform": platform, "why": why, "simulated": simulated}
            print_json({**said, **leased, **joined})
            sys.stdout.flush()
            return
        err.print(f"serving at [bold]{escape(address)}[/] on [bold]{platform}[/], press Ctrl-C to stop")
        if custody:
            err.print(f"  on loan     {escape(custody.model_id)}, from the custodian at {escape(custody.address)}")
        if cloud:
            err.print(f"  in a cloud  whose control plane at {escape(cloud.address)} says who may do what")
        if simulated:
            err.print("[bold yellow]SIMULATED[/]: no hardware protects what this server is sent")
            err.print(f"  check it    blindai verify {escape(address)} --simulation", markup=True)
            err.print("  pin it      blindai measure > manifest.toml")
        else:
            err.print(f"  check it    blindai verify {escape(address)} --policy manifest.toml", markup=True)

    return ready


def _require_custodian(config: EnclaveConfig, sealed_model: Path | None) -> None:
    if sealed_model is not None and not config.custody:
        raise ConfigurationError(
            "--sealed-model is of no use without a custodian who has its key",
            code="configuration.custody",
            hint="name the custodian in the table [custody] of the file that --config names",
        )


def require_server_extra() -> None:
    """Refuse in words where only the client is installed.

    Raises:
        ConfigurationError: `configuration.server_missing`.
    """
    modules = ("uvicorn", "blindai.enclave.engines.onnxruntime")
    require_extra("server", "server", *modules, code="configuration.server_missing")
