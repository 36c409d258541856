import io
from dataclasses import replace

import pytest
from real_servers import make_sealing

from keepwell import sealing
from keepwell.errors import ConfigurationError, VerificationFailed
from keepwell.sealing import NO_SEAL, SealBroken, SealForOthers, load_seal
from keepwell.settings import SealingSettings

SETTINGS = make_sealing()
SEAL = load_seal(SETTINGS)
STRANGER = sealing.make_signing_key()[1]
DOCUMENT = b'{"format_version": 2}'


def sealed(content: bytes) -> bytes:
    target = io.BytesIO()
    sealing.encrypt(io.BytesIO(content), target, SEAL.recipients)
    return target.getvalue()


def opened(content: bytes, identities: tuple[object, ...] = SEAL.identities) -> bytes:
    target = io.BytesIO()
    sealing.decrypt(io.BytesIO(content), target, identities)  # type: ignore[arg-type]
    return target.getvalue()


def test_each_recipient_opens_what_was_sealed_and_nobody_else() -> None:
    online, offline = sealing.make_identity(), sealing.make_identity()
    seal = load_seal(make_sealing(recipients=(online[1], offline[1]), identities=(online[0],)))
    target = io.BytesIO()
    sealing.encrypt(io.BytesIO(b"rows"), target, seal.recipients)
    assert opened(target.getvalue(), seal.identities) == b"rows"
    assert opened(target.getvalue(), (sealing.parse_identity(offline[0]),)) == b"rows"
    with pytest.raises(SealForOthers):
        opened(target.getvalue(), SEAL.identities)


def test_any_flipped_bit_and_any_cut_is_found() -> None:
    whole = sealed(b"row\n" * 40)
    for place in range(len(whole)):
        flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        with pytest.raises((SealBroken, SealForOthers)):
            opened(flipped)
        with pytest.raises((SealBroken, SealForOthers)):
            opened(whole[:place])


def test_a_document_counts_only_with_a_signature_that_is_trusted() -> None:
    signature = SEAL.sign(DOCUMENT)
    assert signature is not None
    SEAL.require_signed(DOCUMENT, signature, "the manifest")
    for document, signed in (
        (DOCUMENT + b" ", signature),
        (DOCUMENT, bytes(64)),
        (DOCUMENT, b"short"),
        (DOCUMENT, load_seal(make_sealing()).sign(DOCUMENT)),
    ):
        with pytest.raises(VerificationFailed, match="nobody that this platform trusts"):
            SEAL.require_signed(document, signed, "the manifest")
    with pytest.raises(VerificationFailed, match="not signed"):
        SEAL.require_signed(DOCUMENT, None, "the manifest")


def test_unsigned_documents_count_where_settings_say_so() -> None:
    replace(SEAL, accept_unsigned=True).require_signed(DOCUMENT, None, "the manifest")
    NO_SEAL.require_signed(DOCUMENT, None, "the manifest")


def test_a_machine_that_only_reads_trusts_the_signers_it_was_told() -> None:
    signer = SEAL.signer
    assert signer is not None
    reading = load_seal(SealingSettings(trusted_signers=(sealing.describe_signer(signer.public_key()),)))
    reading.require_signed(DOCUMENT, SEAL.sign(DOCUMENT), "the manifest")
    assert reading.sign(DOCUMENT) is None


def test_where_nobody_is_trusted_no_signature_counts() -> None:
    reading = load_seal(SealingSettings())
    with pytest.raises(VerificationFailed, match="nobody that this platform trusts"):
        reading.require_signed(DOCUMENT, SEAL.sign(DOCUMENT), "the manifest")
    NO_SEAL.require_signed(DOCUMENT, SEAL.sign(DOCUMENT), "the manifest")


def test_whether_what_a_machine_writes_would_be_believed() -> None:
    assert SEAL.is_believed
    assert NO_SEAL.is_believed
    assert replace(SEAL, signer=None, accept_unsigned=True).is_believed
    assert not replace(SEAL, signer=None).is_believed
    assert not load_seal(make_sealing(trusted_signers=(STRANGER,))).is_believed


@pytest.mark.parametrize(
    "settings",
    [
        SealingSettings(),
        SETTINGS.model_copy(update={"trusted_signers": (STRANGER,)}),
        SETTINGS.model_copy(update={"recipients": SETTINGS.recipients[:1]}),
        SETTINGS.model_copy(update={"recipients": SETTINGS.recipients[:1] * 2}),
        SETTINGS.model_copy(update={"signing_key": None}),
    ],
)
def test_nothing_is_sealed_for_one_recipient_only_or_without_a_signature_that_counts(settings: SealingSettings) -> None:
    with pytest.raises(ConfigurationError):
        sealing.require_able_to_seal(settings, load_seal(settings))


def test_an_unsealed_platform_says_so_and_is_left_alone() -> None:
    settings = SealingSettings(mode="none")
    assert load_seal(settings) is NO_SEAL
    sealing.require_able_to_seal(settings, NO_SEAL)


@pytest.mark.parametrize(
    "changes",
    [
        {"recipients": ("age1nonsense", "age1more")},
        {"identities": ("marked-secret",)},
        {"signing_key": "marked-secret"},
        {"signing_key": "ed25519-secret:bWFya2Vk"},
        {"trusted_signers": ("ed25519:????",)},
    ],
)
def test_a_key_that_cannot_be_read_is_named_and_a_secret_one_not_shown(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load_seal(make_sealing(**changes))
    assert "marked-secret" not in str(raised.value)
    assert raised.value.__context__ is None or "marked-secret" not in str(raised.value.__context__)


def test_secrets_never_show() -> None:
    assert "SECRET" not in repr(SETTINGS)
    assert "AGE-SECRET-KEY" not in repr(SEAL)
