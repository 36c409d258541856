"""A platform's key files: made once, readable by their owner only, and rotated without losing what they opened."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from keepwell.errors import PreconditionFailed
from keepwell.sealing import FEWEST_RECIPIENTS, load_seal, make_identity, make_signing_key, public_of
from keepwell.settings import SealingSettings
from keepwell.verdict import Finding, Verdict

IDENTITIES = "identities.txt"
SIGNING_KEY = "signing.key"


@dataclass(frozen=True)
class KeyFiles:
    """What was made for this machine; the secrets are in the files alone.

    Attributes:
        identities_file: Private age keys, one a line.
        recipient: Public counterpart of the newest of them.
        signing_key_file: Private signing key.
        signer: Its public counterpart.
    """

    identities_file: Path
    recipient: str
    signing_key_file: Path
    signer: str


def make_key_files(folder: Path) -> KeyFiles:
    """Make this machine's pair of age keys and its signing key.

    Args:
        folder: Made when missing, for its owner only.

    Raises:
        PreconditionFailed: There are keys already; what they opened would be lost.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in (IDENTITIES, SIGNING_KEY):
        if (folder / name).exists():
            raise PreconditionFailed(
                f"{folder / name} is there already.",
                hint="Keep it: it opens what was sealed for it. `keepwell keys rotate` adds a new one.",
            )
    secret, recipient = make_identity()
    write_secret(folder / IDENTITIES, _identity_lines(secret, recipient))
    signing_key, signer = make_signing_key()
    write_secret(folder / SIGNING_KEY, f"{signing_key}\n")
    return KeyFiles(folder / IDENTITIES, recipient, folder / SIGNING_KEY, signer)


def make_offline_file(path: Path) -> str:
    """Make the pair whose secret is to be taken away from here.

    Args:
        path: New file for the private key.

    Returns:
        The public key.

    Raises:
        PreconditionFailed: The file is there already.
    """
    if path.exists():
        raise PreconditionFailed(f"{path} is there already.", hint="Name a new file; that one may be needed.")
    secret, recipient = make_identity()
    write_secret(path, _identity_lines(secret, recipient))
    return recipient


def rotate_identity(identities_file: Path) -> str:
    """Add a new age key before the older ones, which still open older backups.

    Returns:
        The new public key, which is to take the old one's place in sealing.recipients.

    Raises:
        PreconditionFailed: There is no such file.
    """
    if not identities_file.is_file():
        raise PreconditionFailed(f"There is no {identities_file}.", hint="`keepwell keys make` makes the first keys.")
    older = identities_file.read_text()
    secret, recipient = make_identity()
    write_secret(identities_file, _identity_lines(secret, recipient) + older)
    return recipient


def judge_keys(settings: SealingSettings) -> list[Finding]:
    """Whether the keys that settings name can seal, open and sign, and outlive the loss of this machine.

    Raises:
        ConfigurationError: A key cannot be read.
    """
    if settings.mode == "none":
        return [
            Finding(
                name="sealing",
                verdict=Verdict.WARN,
                message="Backups are stored unencrypted and unsigned: whoever reads the bucket reads your data.",
                hint="`keepwell keys make`, and name the keys in [sealing].",
            )
        ]
    seal = load_seal(settings)
    ours = {public_of(identity) for identity in seal.identities}
    recipients = set(settings.recipients)
    findings = [_judge_recipients(recipients), _judge_opening(recipients & ours), _judge_offline(recipients - ours)]
    signs = Finding(name="signing key", verdict=Verdict.OK, message="Manifests and proofs are signed.")
    if seal.signer is None:
        signs = Finding(
            name="signing key",
            verdict=Verdict.ALERT,
            message="There is none, so no backup can be written.",
            hint="Name sealing.signing_key_file.",
        )
    return [*findings, signs]


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(descriptor)
    partial.replace(path)


def _identity_lines(secret: str, recipient: str) -> str:
    """As `age-keygen` writes them."""
    return f"# created: {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}\n# public key: {recipient}\n{secret}\n"


def _judge_recipients(recipients: set[str]) -> Finding:
    if len(recipients) >= FEWEST_RECIPIENTS:
        message = f"Backups are sealed for {len(recipients)} recipients."
        return Finding(name="recipients", verdict=Verdict.OK, message=message)
    return Finding(
        name="recipients",
        verdict=Verdict.ALERT,
        message=f"sealing.recipients names {len(recipients)}; at least {FEWEST_RECIPIENTS} are needed.",
        hint="`keepwell keys make` makes a pair for this machine and one to keep offline.",
    )


def _judge_opening(opened: set[str]) -> Finding:
    if opened:
        return Finding(name="identity", verdict=Verdict.OK, message="This machine can open its own backups.")
    return Finding(
        name="identity",
        verdict=Verdict.ALERT,
        message="None of our identities is a recipient, so no backup could be proven here.",
        hint="Name the private key of one of sealing.recipients in sealing.identities_file.",
    )


def _judge_offline(others: set[str]) -> Finding:
    if others:
        message = "Another key than this machine's opens them too; the next restore drill should use it."
        return Finding(name="offline recipient", verdict=Verdict.OK, message=message)
    return Finding(
        name="offline recipient",
        verdict=Verdict.ALERT,
        message="Every recipient's secret lies on this machine: with it, every backup would be lost.",
        hint="Add the public key of a pair whose secret is kept elsewhere, on paper or in a safe.",
    )
