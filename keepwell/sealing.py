"""Sealing: who can open what we store (age), and whose documents count (Ed25519).

age encrypts to public keys, so anyone could make a set that opens; a signature says that it is one of ours. Both are
formats of stock tools: `age` opens the objects, `openssl` checks the documents.
Source: the age specification, age-encryption.org/v1; RFC 8032.
"""

import base64
import binascii
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import pyrage
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pyrage import x25519

from keepwell.errors import ConfigurationError, KeepwellError, VerificationFailed
from keepwell.settings import SealingSettings

# What a single lost machine, or a single lost piece of paper, must not take with it.
FEWEST_RECIPIENTS = 2
_SIGNER_PREFIX = "ed25519:"
_SECRET_PREFIX = "ed25519-secret:"  # noqa: S105 - how a signing key begins, not one
_KEY_BYTES = 32


class SealBroken(VerificationFailed):
    """A sealed object was changed, or is cut."""


class SealForOthers(KeepwellError):
    """A sealed object is for other recipients than ours, so that nothing is known of what it holds."""


class Readable(Protocol):
    """A source of bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes; none at the end."""


class Writable(Protocol):
    """Where bytes go."""

    def write(self, chunk: bytes, /) -> int:
        """Take all of them."""


@dataclass(frozen=True)
class Seal:
    """A platform's keys, ready for use.

    Attributes:
        recipients: Public keys that can open what is sealed; empty where nothing is sealed.
        identities: Private keys that open what was sealed for us.
        signer: Signs documents; None where this machine only reads.
        trusted: Whose signatures count; where there are none, nobody's does unless unsigned documents count too.
        accept_unsigned: Whether documents without a signature count too.
    """

    recipients: tuple[x25519.Recipient, ...] = ()
    identities: tuple[x25519.Identity, ...] = field(default=(), repr=False)
    signer: Ed25519PrivateKey | None = field(default=None, repr=False)
    trusted: tuple[Ed25519PublicKey, ...] = ()
    accept_unsigned: bool = True

    def sign(self, document: bytes) -> bytes | None:
        """The signature of a document, 64 bytes; None where this machine signs nothing."""
        return self.signer.sign(document) if self.signer else None

    @property
    def is_believed(self) -> bool:
        """Whether a document that this machine writes counts when it is read here again."""
        return self.accept_unsigned if self.signer is None else self._trusts(self.signer.public_key())

    def require_signed(self, document: bytes, signature: bytes | None, what: str) -> None:
        """Check a document before anything of it is believed.

        Args:
            document: As it was stored.
            signature: As it was stored beside it; None when there is none.
            what: For the message.

        Raises:
            VerificationFailed: It is signed by nobody whose signature counts.
        """
        if signature is None:
            if not self.accept_unsigned:
                raise VerificationFailed(
                    f"{what} is not signed.",
                    hint="Who wrote it? If it is older than signing, set sealing.accept_unsigned for a while.",
                )
            return
        if self._anybody:
            return
        if not any(_signed_by(key, document, signature) for key in self.trusted):
            raise VerificationFailed(
                f"The signature of {what} is of nobody that this platform trusts, or the document was changed.",
                hint="Compare sealing.trusted_signers with the keys that wrote it; if they fit, somebody forged it.",
            )

    @property
    def _anybody(self) -> bool:
        """Whether it does not matter who signed: nobody is trusted by name, and no signature is asked for."""
        return not self.trusted and self.accept_unsigned

    def _trusts(self, key: Ed25519PublicKey) -> bool:
        return self._anybody or key in self.trusted


NO_SEAL = Seal()


def load_seal(settings: SealingSettings) -> Seal:
    """The keys that settings name.

    Raises:
        ConfigurationError: A key cannot be read.
    """
    if settings.mode == "none":
        return NO_SEAL
    signer = parse_signing_key(settings.signing_key.get_secret_value()) if settings.signing_key else None
    trusted = tuple(parse_signer(text) for text in settings.trusted_signers)
    return Seal(
        recipients=tuple(parse_recipient(text) for text in settings.recipients),
        identities=tuple(parse_identity(secret.get_secret_value()) for secret in settings.identities),
        signer=signer,
        trusted=trusted or ((signer.public_key(),) if signer else ()),
        accept_unsigned=settings.accept_unsigned,
    )


def require_able_to_seal(settings: SealingSettings, seal: Seal) -> None:
    """Stop before anything is stored that nobody could open, or nobody could tell from a forgery.

    Raises:
        ConfigurationError: Too few recipients, or no signing key.
    """
    if settings.mode == "none":
        return
    if len(set(settings.recipients)) < FEWEST_RECIPIENTS:
        raise ConfigurationError(
            f"Backups are sealed for at least {FEWEST_RECIPIENTS} recipients, and sealing.recipients names "
            f"{len(set(settings.recipients))}.",
            hint="`keepwell keys make` makes a pair for this machine and one to keep offline; or, for a trial, set "
            'sealing.mode = "none".',
        )
    if seal.signer is None:
        raise ConfigurationError(
            "There is no signing key, so nobody could tell our backups from forged ones.",
            hint="Name sealing.signing_key_file; `keepwell keys make` makes one.",
        )
    if not seal.is_believed:
        raise ConfigurationError(
            "sealing.trusted_signers does not name this machine's own signing key, so it would not believe itself.",
            hint=f"Add it: {describe_signer(seal.signer.public_key())}",
        )


def make_identity() -> tuple[str, str]:
    """A new age key pair: the private key's text, which is a secret, and the public key's."""
    identity = x25519.Identity.generate()
    return str(identity), str(identity.to_public())


def make_signing_key() -> tuple[str, str]:
    """A new Ed25519 key pair: the private key's text, which is a secret, and the public key's."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    return f"{_SECRET_PREFIX}{base64.b64encode(private).decode()}", describe_signer(key.public_key())


def describe_signer(key: Ed25519PublicKey) -> str:
    """A public key as settings name it."""
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return f"{_SIGNER_PREFIX}{base64.b64encode(raw).decode()}"


def render_signer_pem(key: Ed25519PublicKey) -> str:
    """A public key as openssl reads it."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def public_of(identity: x25519.Identity) -> str:
    """The recipient that an identity opens for."""
    return str(identity.to_public())


def parse_recipient(text: str) -> x25519.Recipient:
    """A public age key.

    Raises:
        ConfigurationError: It is none.
    """
    try:
        return x25519.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        raise ConfigurationError(
            f"sealing.recipients: {text[:16]}… is no age public key.", hint="They begin with age1."
        ) from error


def parse_identity(text: str) -> x25519.Identity:
    """A private age key.

    Raises:
        ConfigurationError: It is none; the message does not hold it.
    """
    try:
        return x25519.Identity.from_str(text.strip())
    except pyrage.IdentityError:
        raise ConfigurationError(
            "An age identity cannot be read.", hint="One a line, each beginning with AGE-SECRET-KEY-1."
        ) from None


def parse_signer(text: str) -> Ed25519PublicKey:
    """A public signing key.

    Raises:
        ConfigurationError: It is none.
    """
    raw = _decode_key(text, _SIGNER_PREFIX)
    if raw is None:
        raise ConfigurationError(
            f"sealing.trusted_signers: {text[:24]}… is no signer.", hint=f"They begin with {_SIGNER_PREFIX}"
        )
    return Ed25519PublicKey.from_public_bytes(raw)


def parse_signing_key(text: str) -> Ed25519PrivateKey:
    """A private signing key.

    Raises:
        ConfigurationError: It is none; the message does not hold it.
    """
    raw = _decode_key(text, _SECRET_PREFIX)
    if raw is None:
        raise ConfigurationError("The signing key cannot be read.", hint="`keepwell keys make` makes one.")
    return Ed25519PrivateKey.from_private_bytes(raw)


def encrypt(source: Readable, target: Writable, recipients: Sequence[x25519.Recipient]) -> None:
    """Seal everything that a source holds, as it comes.

    Raises:
        BaseException: Whatever source or target raised, as they raised it.
    """
    with _own_errors(source, target) as (reader, writer):
        pyrage.encrypt_io(reader, writer, list(recipients))


def decrypt(source: Readable, target: Writable, identities: Sequence[x25519.Identity]) -> None:
    """Open everything that a source holds, as it comes.

    The target may have got some of it when this fails: only the end says that it was whole.

    Raises:
        SealForOthers: None of the identities opens it.
        SealBroken: It was changed, is cut, or is not sealed at all.
        BaseException: Whatever source or target raised, as they raised it.
    """
    with _own_errors(source, target) as (reader, writer):
        try:
            pyrage.decrypt_io(reader, writer, list(identities))
        except (pyrage.DecryptError, OSError, ValueError) as error:
            if "No matching keys" in str(error):
                raise SealForOthers(
                    "It is sealed for other keys than ours.",
                    hint="sealing.identities_file must hold the key that it was sealed for; old ones belong there too.",
                ) from error
            said = str(error).partition("\n")[0].rstrip(".")
            raise SealBroken(f"It cannot be opened: {said}.") from error


class _Watched:
    """A source or target that keeps what it raised first: the library makes text of it, and then tries again."""

    def __init__(self, inner: Readable | Writable) -> None:
        self._inner = inner
        self.error: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        with self._kept():
            return self._inner.read(size)  # type: ignore[union-attr]

    def write(self, chunk: bytes) -> int:
        with self._kept():
            return self._inner.write(chunk)  # type: ignore[union-attr]

    def flush(self) -> None:
        """Nothing is held back."""

    @contextmanager
    def _kept(self) -> Iterator[None]:
        if self.error is not None:
            raise self.error
        try:
            yield
        except BaseException as error:
            self.error = error
            raise


@contextmanager
def _own_errors(source: Readable, target: Writable) -> Iterator[tuple[_Watched, _Watched]]:
    reader, writer = _Watched(source), _Watched(target)
    try:
        yield reader, writer
    except BaseException:
        own = writer.error or reader.error
        if own is not None:
            raise own from None
        raise


def _signed_by(key: Ed25519PublicKey, document: bytes, signature: bytes) -> bool:
    try:
        key.verify(signature, document)
    except InvalidSignature:
        return False
    return True


def _decode_key(text: str, prefix: str) -> bytes | None:
    try:
        raw = base64.b64decode(text.strip().removeprefix(prefix), validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if text.strip().startswith(prefix) and len(raw) == _KEY_BYTES else None
