"""A platform's key files: made once, readable by their owner only, and rotated without losing what they opened."""

import os
import shlex
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pyrage import x25519

from keepwell.errors import ConfigurationError, PreconditionFailed
from keepwell.sealing import (
    FEWEST_RECIPIENTS,
    Seal,
    describe_signer,
    load_seal,
    make_identity,
    make_signing_key,
    parse_identity,
    parse_signing_key,
    public_of,
)
from keepwell.settings import SealingSettings
from keepwell.verdict import Finding, Verdict

IDENTITIES = "identities.txt"
SIGNING_KEY = "signing.key"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


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


@dataclass(frozen=True)
class Rotation:
    """What a rotation did, and what is left to do by hand.

    Attributes:
        identities_file: Holds the new private key, this machine's before its older ones.
        added: Public counterpart of the new one.
        replaced: Which recipient it is to take the place of; None when there is none of its kind.
        recipients: What sealing.recipients should be then.
        made: Whether the key is new; False when an earlier rotation had made it.
    """

    identities_file: Path
    added: str
    replaced: str | None
    recipients: tuple[str, ...]
    made: bool


def make_key_files(folder: Path) -> KeyFiles:
    """Make this machine's pair of age keys and its signing key; what a run that was killed left out is made now.

    Args:
        folder: Made when missing, for its owner only.

    Raises:
        PreconditionFailed: There are keys already; what they opened would be lost.
        ConfigurationError: They cannot be written.
    """
    if all((folder / name).exists() for name in (IDENTITIES, SIGNING_KEY)):
        raise PreconditionFailed(
            f"There are keys in {folder} already.",
            hint="Keep them: they open what was sealed for them. `keepwell init --keys-directory` takes them into use, "
            "and `keepwell keys rotate` adds a new one.",
        )
    with _written(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / SIGNING_KEY).exists():
        write_secret(folder / SIGNING_KEY, f"{make_signing_key()[0]}\n")
    if not (folder / IDENTITIES).exists():
        write_secret(folder / IDENTITIES, _identity_lines(*make_identity()))
    return read_key_files(folder)


def take_key_files(folder: Path) -> KeyFiles:
    """The keys of a folder: those that are there, or new ones where some are missing.

    Raises:
        ConfigurationError: They cannot be read or written.
    """
    whole = all((folder / name).exists() for name in (IDENTITIES, SIGNING_KEY))
    return read_key_files(folder) if whole else make_key_files(folder)


def read_key_files(folder: Path) -> KeyFiles:
    """The keys that were made in a folder.

    Raises:
        ConfigurationError: They are not there, or cannot be read.
    """
    signing_key = parse_signing_key(_read(folder / SIGNING_KEY).strip())
    recipient = public_of(read_identities(folder / IDENTITIES)[0])
    return KeyFiles(folder / IDENTITIES, recipient, folder / SIGNING_KEY, describe_signer(signing_key.public_key()))


def read_identities(path: Path) -> list[x25519.Identity]:
    """The private age keys of a file, at least one, in their order.

    Raises:
        ConfigurationError: It cannot be read, or holds something else.
    """
    lines = [line.strip() for line in _read(path).splitlines()]
    found = [parse_identity(line) for line in lines if line and not line.startswith("#")]
    if not found:
        raise ConfigurationError(f"{path} holds no age identity.", hint="`keepwell keys make` makes one.")
    return found


def make_offline_file(path: Path, signer: str) -> str:
    """Make the pair whose secret is to be taken away from here.

    Args:
        path: New file for the private key.
        signer: Whose signatures count, written beside it: whoever restores with this key alone needs to know.

    Returns:
        The public key.

    Raises:
        PreconditionFailed: The file is there already.
        ConfigurationError: It cannot be written.
    """
    require_new(path)
    write_secret(path, f"{_identity_lines(*make_identity())}# its backups are signed by: {signer}\n")
    return public_of(read_identities(path)[0])


def require_new(path: Path) -> None:
    """Go on only when a file for an offline key would overwrite nothing.

    Raises:
        PreconditionFailed: It is there already.
        ConfigurationError: There is no such folder.
    """
    if path.exists():
        raise PreconditionFailed(f"{path} is there already.", hint="Name a new file; that one may be needed.")
    if not path.absolute().parent.is_dir():
        raise ConfigurationError(f"There is no folder {path.absolute().parent}.", hint="Make it, or name another file.")


def rotate_identity(identities_file: Path, recipients: Sequence[str]) -> Rotation:
    """Add a new age key before the older ones, which still open older backups.

    Where the newest key is no recipient yet, an earlier rotation was not finished: then that key is told again.

    Args:
        identities_file: Private age keys, one a line.
        recipients: Public keys that backups are sealed for now.

    Raises:
        ConfigurationError: There is no such file, or it cannot be written.
    """
    place = identities_file.resolve()
    ours = [public_of(identity) for identity in read_identities(place)]
    replaced = next((public for public in ours if public in recipients), None)
    if ours[0] == replaced:
        write_secret(place, _identity_lines(*make_identity()) + _read(place))
        added = public_of(read_identities(place)[0])
    else:
        added = ours[0]
    kept = tuple(added if recipient == replaced else recipient for recipient in recipients)
    return Rotation(identities_file, added, replaced, kept if replaced else (*kept, added), made=ours[0] == replaced)


def rotate_offline(path: Path, settings: SealingSettings) -> Rotation:
    """Make the pair that takes the place of the offline key.

    Args:
        path: New file for its private key, to be taken away from here.
        settings: Whose recipients; those that no identity of this machine opens are kept elsewhere.

    Raises:
        PreconditionFailed: The file is there already.
        ConfigurationError: It cannot be written, or several recipients are kept elsewhere.
    """
    seal = load_seal(settings)
    ours = {public_of(identity) for identity in seal.identities}
    elsewhere = [recipient for recipient in settings.recipients if recipient not in ours]
    if len(elsewhere) > 1:
        raise ConfigurationError(
            f"{len(elsewhere)} recipients are kept elsewhere, and only you know which of them this is about.",
            hint="Make a pair with age-keygen, and put its public key in the place of that one.",
        )
    added = make_offline_file(path, ", ".join(map(describe_signer, seal.trusted)))
    kept = [recipient for recipient in settings.recipients if recipient in ours]
    return Rotation(path, added, next(iter(elsewhere), None), (*kept, added), made=True)


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
    return [
        _judge_recipients(recipients),
        _judge_opening(recipients & ours),
        _judge_offline(recipients - ours),
        _judge_signing(seal),
        *(_judge_file(path) for path in (settings.identities_file, settings.signing_key_file) if path is not None),
        *_judge_rotation([public_of(identity) for identity in seal.identities], recipients),
        *_judge_unsigned(settings),
    ]


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all, and see that it reads back.

    A file that is replaced keeps its owner: the worker's keys stay the worker's when root rotates them.

    Raises:
        ConfigurationError: It cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with _written(path):
        try:
            # A new one always: root may write into a folder of another's, who could have put a link here.
            partial.unlink(missing_ok=True)
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as stream:
                stream.write(text)
                stream.flush()
                if path.exists():
                    os.fchown(descriptor, path.stat().st_uid, path.stat().st_gid)
                os.fsync(descriptor)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    if _read(path) != text:
        raise ConfigurationError(f"{path} reads back differently from what was written.", hint="Look at that disk.")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}.", hint="`keepwell keys make` makes the first keys."
        ) from None


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror}.", hint="Check its folder, and who may write there."
        ) from error


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


def _judge_signing(seal: Seal) -> Finding:
    if seal.signer is None:
        return Finding(
            name="signing key",
            verdict=Verdict.ALERT,
            message="There is none, so no backup can be written.",
            hint="Name sealing.signing_key_file.",
        )
    if not seal.is_believed:
        return Finding(
            name="signing key",
            verdict=Verdict.ALERT,
            message="sealing.trusted_signers does not name it, so this machine would not believe its own backups.",
            hint=f"Add it: {describe_signer(seal.signer.public_key())}",
        )
    return Finding(name="signing key", verdict=Verdict.OK, message="Manifests and proofs are signed, and believed.")


def _judge_file(path: Path) -> Finding:
    """Whether nobody but its owner can read a secret file."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        with path.open("rb"):
            pass
    except OSError as error:
        return Finding(
            name=path.name,
            verdict=Verdict.ALERT,
            message=f"{path} cannot be read: {error.strerror}.",
            hint="Check its path, its owner and its permissions.",
        )
    if mode & _OTHERS:
        return Finding(
            name=path.name,
            verdict=Verdict.ALERT,
            message=f"{path} can be read or changed by others than its owner (mode {mode:04o}).",
            hint=f"chmod 600 {shlex.quote(str(path))}; and rotate it, if somebody else may have read it.",
        )
    return Finding(name=path.name, verdict=Verdict.OK, message=f"{path} is its owner's alone.")


def _judge_rotation(ours: Sequence[str], recipients: set[str]) -> Iterator[Finding]:
    """A newer key that nothing is sealed for yet; where none of ours is a recipient, that is told already."""
    if ours and ours[0] not in recipients and recipients.intersection(ours):
        yield Finding(
            name="rotation",
            verdict=Verdict.WARN,
            message="The newest of this machine's keys is no recipient yet: backups are still sealed for an older one.",
            hint="Change sealing.recipients as `keepwell keys rotate` says.",
        )


def _judge_unsigned(settings: SealingSettings) -> Iterator[Finding]:
    if settings.accept_unsigned:
        yield Finding(
            name="unsigned documents",
            verdict=Verdict.WARN,
            message="Manifests and proofs without a signature count, so whoever writes to the bucket can forge them.",
            hint="Take sealing.accept_unsigned out once the sets from before signing have expired.",
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
