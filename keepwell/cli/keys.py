"""`keepwell keys`: make, show and rotate the keys that backups are sealed and signed with; never shows a secret."""

# ruff: noqa: PLC0415 - heavy imports happen when a command needs them, so that the console starts fast

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepwell.cli import console
from keepwell.cli.console import Outcome
from keepwell.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from keepwell.keyring import KeyFiles, Rotation
    from keepwell.settings import SealingSettings
    from keepwell.verdict import Finding

WHAT_LOSING_MEANS = (
    "Whoever loses both this machine's keys and the offline one has lost every backup: nobody can open them, and "
    "there is no other way in. Take the offline key away from this machine today, on paper or on a stick in a safe, "
    "together with a copy of the platform file."
)
_INSIST = (
    "Backups are sealed for two recipients at least, and one of their secrets must not lie on this machine: say which "
    "offline key there is."
)
_ONE_OF = (
    "--offline-recipient age1… names the public key of a pair that is kept elsewhere; --offline-identity-file PATH "
    "makes a pair and writes its secret there, to be taken away."
)

app = console.group("Make, show and rotate the keys that backups are sealed and signed with.")

OfflineRecipient = Annotated[
    str | None,
    typer.Option("--offline-recipient", metavar="age1…", help="Public key of a pair whose secret is kept elsewhere."),
]
OfflineFile = Annotated[
    Path | None,
    typer.Option(
        "--offline-identity-file", metavar="PATH", help="Make such a pair; its secret goes to PATH, to be taken away."
    ),
]


@app.command("make")
@console.command("keys.make")
def make(
    *,
    directory: Annotated[Path, typer.Option("--directory", metavar="DIR", help="Folder for this machine's keys.")],
    offline_recipient: OfflineRecipient = None,
    offline_identity_file: OfflineFile = None,
) -> Outcome:
    """Make this machine's keys, with an offline one beside them, and print the [sealing] lines."""
    from keepwell import keyring
    from keepwell.verdict import Verdict

    require_offline(offline_recipient, offline_identity_file)
    values = seal_with(keyring.make_key_files(directory), offline_recipient, offline_identity_file)
    lines = render_sealing(values)

    def show(screen: "Console") -> None:
        console.print_plain(
            screen, f"Made {values['identities_file']} and {values['signing_key_file']}, readable by you only."
        )
        if offline_identity_file:
            console.print_plain(screen, f"Made {offline_identity_file}: the offline key. Take it away from here.")
        console.print_plain(screen, f"{WHAT_LOSING_MEANS}\n\nFor the platform file:\n\n{lines}")

    return Outcome(
        Verdict.OK,
        data={"sealing": values, "lines": lines, "offline_identity_file": offline_identity_file},
        hint="Next: put these lines into the platform file, then keepwell keys show",
        show=show,
    )


@app.command("show")
@console.command("keys.show")
def show(
    *,
    pem: Annotated[
        bool, typer.Option("--pem", help="Print only the trusted signers' public keys, for openssl.")
    ] = False,
    platform: console.PlatformName = None,
) -> Outcome:
    """Show the public parts of a platform's keys, and whether they would hold."""
    from keepwell import keyring, sealing
    from keepwell.verdict import Verdict, worst

    settings = console.load_platform(platform).sealing
    seal = sealing.load_seal(settings)
    if pem:
        return _show_pem([sealing.render_signer_pem(key) for key in seal.trusted])
    ours = [sealing.public_of(identity) for identity in seal.identities]
    findings = keyring.judge_keys(settings)
    data = {
        "mode": settings.mode,
        "recipients": settings.recipients,
        "identities": ours,
        "signer": sealing.describe_signer(seal.signer.public_key()) if seal.signer else None,
        "trusted_signers": [sealing.describe_signer(key) for key in seal.trusted],
        "findings": findings,
    }
    return Outcome(
        worst([Verdict.OK, *(finding.verdict for finding in findings)]),
        data=data,
        show=lambda screen: _show_keys(screen, data, findings),
    )


@app.command("rotate")
@console.command("keys.rotate")
def rotate(
    *,
    offline_identity_file: Annotated[
        Path | None,
        typer.Option(
            "--offline-identity-file",
            metavar="PATH",
            help="Replace the offline key instead; the new one's secret goes to PATH, to be taken away.",
        ),
    ] = None,
    platform: console.PlatformName = None,
) -> Outcome:
    """Add a new key for this machine before its older ones, and say which recipient it replaces."""
    from keepwell import keyring
    from keepwell.verdict import Verdict

    settings = console.load_platform(platform).sealing
    if offline_identity_file is not None:
        rotation = keyring.rotate_offline(offline_identity_file, settings)
        told = f"Made {offline_identity_file}: the new offline key. Take it away from here."
        older = "Older backups open with the older offline key, and with this machine's."
    else:
        rotation = keyring.rotate_identity(_require_file(settings), settings.recipients)
        told = f"The newest key in {rotation.identities_file} is no recipient yet, so none was added."
        if rotation.made:
            told = f"Added a new key to {rotation.identities_file}, before the older ones."
        older = "Older backups stay readable as long as the older keys stay in that file."
    return Outcome(
        Verdict.OK,
        data=rotation,
        hint=f"{older} Next: change the line, then keepwell backup create",
        show=lambda screen: _show_rotation(screen, rotation, told),
    )


def require_offline(recipient: str | None, identity_file: Path | None, *, or_else: str = "") -> None:
    """Insist on one offline key, before anything is written.

    Args:
        recipient: Public key that was named.
        identity_file: New file that was named for its secret.
        or_else: What else could be done, for the hint.

    Raises:
        ConfigurationError: None is named, or two, or it is no public key.
        PreconditionFailed: The file for its secret is there already.
    """
    from keepwell import keyring, sealing

    if (recipient is None) == (identity_file is None):
        raise ConfigurationError(_INSIST, hint=f"{_ONE_OF} {or_else}".rstrip())
    if recipient is not None:
        sealing.parse_recipient(recipient)
    if identity_file is not None:
        keyring.require_new(identity_file)


def seal_with(keys: "KeyFiles", offline_recipient: str | None, offline_identity_file: Path | None) -> dict[str, Any]:
    """The values of [sealing] for this machine's keys and an offline one, which is made where a file is named for it.

    Raises:
        ConfigurationError: The offline key is this machine's own.
        PreconditionFailed: The file for its secret is there already.
    """
    from keepwell import keyring

    offline = offline_recipient
    if offline_identity_file is not None:
        offline = keyring.make_offline_file(offline_identity_file, keys.signer)
    if offline == keys.recipient:
        raise ConfigurationError("The offline recipient is this machine's own key.", hint=_ONE_OF)
    return {
        "recipients": (keys.recipient, offline),
        "identities_file": keys.identities_file.absolute(),
        "signing_key_file": keys.signing_key_file.absolute(),
        "trusted_signers": (keys.signer,),
    }


def render_sealing(values: Mapping[str, Any]) -> str:
    """The [sealing] table of a platform file; JSON's strings and lists are TOML's too."""
    lines = [f"{key} = {json.dumps(_plain(value), ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["[sealing]", *lines])


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _require_file(settings: "SealingSettings") -> Path:
    if settings.identities_file is None:
        raise ConfigurationError(
            "sealing.identities_file names no file that a new key could be added to.",
            hint="`keepwell keys make` makes one; where the environment holds the keys, add a new one there.",
        )
    return settings.identities_file


def _show_pem(pems: "Sequence[str]") -> Outcome:
    from keepwell.verdict import Verdict

    if not pems:
        raise ConfigurationError("No signer is trusted.", hint="Name sealing.signing_key_file, or trusted_signers.")
    text = "".join(pems)
    return Outcome(Verdict.OK, data={"pem": text}, show=lambda screen: console.print_plain(screen, text.rstrip("\n")))


def _show_keys(screen: "Console", data: Mapping[str, Any], findings: "Sequence[Finding]") -> None:
    table = console.table("kind", "public key", "what it is")
    for recipient in data["recipients"]:
        table.add_row("recipient", recipient, "this machine's" if recipient in data["identities"] else "kept elsewhere")
    for place, identity in enumerate(data["identities"]):
        if identity not in data["recipients"]:
            waits = set(data["identities"][place:]) & set(data["recipients"])
            table.add_row("identity", identity, "to become a recipient" if waits else "opens older backups")
    for signer in data["trusted_signers"]:
        table.add_row("signer", signer, "this machine's" if signer == data["signer"] else "trusted")
    if table.row_count:
        screen.print(table)
    screen.print(console.findings_table(findings))


def _show_rotation(screen: "Console", rotation: "Rotation", told: str) -> None:
    change = (
        f"replace  {rotation.replaced}\nby       {rotation.added}" if rotation.replaced else f"add {rotation.added}"
    )
    lines = f"recipients = {json.dumps(rotation.recipients)}"
    console.print_plain(
        screen, f"{told}\n\nAmong sealing.recipients in the platform file,\n{change}\nwhich gives\n\n{lines}\n"
    )
