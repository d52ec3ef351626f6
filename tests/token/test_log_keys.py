"""The audit log's key: of the kind that the token really makes, never exportable, and believed by its signature."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    SECP384R1,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from varmenne.domain.keys import KeyId, LogKey, LogSigner, new_key_id
from varmenne.errors import InputError, KeyNotFound, TokenError, TokenUnavailable, TokenUnfit
from varmenne.token import CreatedToken, Token
from varmenne.token.key_policy import LOG_KEY_EXPECTATIONS
from varmenne.token.log_keys import BY_NAME, KINDS, LogKeyKind

from .conftest import Shim
from .helpers import foreign_key, put_public_key, swtpm

LABEL = "varmenne-log-0123456789abcdef"
NO_EDWARDS = "unlisted 1055"
KIND_NAMES = [kind.name for kind in KINDS]


def order(shim: Shim, kind: str, *more: str) -> None:
    """Have the token list what this kind needs, and misbehave otherwise as ordered."""
    shim.order(*([NO_EDWARDS] if kind == "ecdsa-p256" else []), *more)


def verify_elsewhere(signer: LogSigner, data: bytes) -> None:
    """Verify a fresh signature as a reader of the log does."""
    public_key = load_der_public_key(signer.public_key)
    signature = signer.sign(data)
    if signer.kind == "ed25519":
        assert isinstance(public_key, Ed25519PublicKey)
        assert len(signature) == 64
        public_key.verify(signature, data)
    else:
        assert isinstance(public_key, EllipticCurvePublicKey)
        assert isinstance(public_key.curve, SECP256R1)
        public_key.verify(signature, data, ECDSA(SHA256()))


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_log_key_reads_back_as_ordered_and_signs(shim: Shim, shimmed: Token, kind: str) -> None:
    """Either kind fulfils every demand without deviations, and its signatures verify by another library."""
    order(shim, kind)
    key = shimmed.make_log_key(new_key_id(), LABEL)
    assert (key.kind, key.label, key.deviations) == (kind, LABEL, ())
    assert key.made_at is not None
    wanted = {row.attribute: row.wanted for row in LOG_KEY_EXPECTATIONS} | {"VALUE": None}
    assert {name: key.attributes[name] for name in wanted} == wanted
    signer = shimmed.log_signer(key.key_id)
    assert (signer.kind, signer.public_key) == (kind, key.public_key)
    for data in (b"", b"origin\n1\nroot\n", b"x" * 100_000):
        verify_elsewhere(signer, data)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_making_again_finds_the_first_key(shim: Shim, shimmed: Token, kind: str) -> None:
    """After a crash the same call finds the key, also where the token would now make one of a better kind."""
    order(shim, kind)
    key = shimmed.make_log_key(new_key_id(), LABEL)
    shimmed.close()
    shim.order()
    with shim.client() as client:
        again = client.make_log_key(key.key_id, LABEL)
        assert (again.kind, again.public_key, again.made_at) == (kind, key.public_key, None)
        assert again == client.find_log_key(key.key_id)
        assert client.keys() == ((key.key_id, LABEL),)
        verify_elsewhere(client.log_signer(key.key_id), b"data")


def test_a_crash_after_making_leaves_one_key(shim: Shim, shimmed: Token) -> None:
    """A worker that dies between the making and its answer: the same call finds the key that came into being."""
    key_id = new_key_id()
    shim.order("crash-after C_GenerateKeyPair")
    with pytest.raises(TokenUnavailable):
        shimmed.make_log_key(key_id, LABEL)
    shim.order()
    assert shimmed.make_log_key(key_id, LABEL).made_at is None
    assert shimmed.keys() == ((key_id, LABEL),)


def test_a_token_that_lists_a_kind_and_does_not_make_it(shim: Shim, shimmed: Token) -> None:
    """Ed25519 that is listed and refused gives way to P-256, and the refusal is recorded with the key."""
    shim.order("no-making 1055")
    key = shimmed.make_log_key(new_key_id(), LABEL)
    assert key.kind == "ecdsa-p256"
    assert key.deviations == ("no ed25519 key: CKR_MECHANISM_INVALID",)
    assert len(shimmed.keys()) == 1


def test_a_token_without_any_kind_says_so(shim: Shim, shimmed: Token) -> None:
    """Where no mechanism is listed, or none works, nothing is made and the error tells which it was."""
    shim.order("no-making 1055", "no-making 1040")
    with pytest.raises(TokenError, match="CKR_MECHANISM_INVALID"):
        shimmed.make_log_key(new_key_id(), LABEL)
    shimmed.close()
    shim.order(NO_EDWARDS, "unlisted 1041")
    with shim.client() as client:
        with pytest.raises(TokenError, match="it lists neither"):
            client.make_log_key(new_key_id(), LABEL)
        assert client.keys() == ()


def test_a_token_that_went_away_is_not_taken_for_one_without_ed25519(shim: Shim, shimmed: Token) -> None:
    """A lost session says nothing about a kind of key: no key of the second kind is made."""
    shimmed.login()
    shim.order("fail C_GenerateKeyPair b3")
    with pytest.raises(TokenUnavailable):
        shimmed.make_log_key(new_key_id(), LABEL)
    assert shim.calls("C_GenerateKeyPair") == 1


@pytest.mark.parametrize("kind", KIND_NAMES)
@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ("bool 162 1", "EXTRACTABLE is true"),
        ("bool 103 0", "SENSITIVE is false"),
        ("bool 163 0", "LOCAL is false"),
        ("untold 164", "NEVER_EXTRACTABLE cannot be read"),
        ("show-secret 11", "VALUE is true: the token shows the private key in clear"),
        ("fail C_Sign 70", "it does not sign (CKR_MECHANISM_INVALID)"),
        ("wrong-signature", "its signature verifies with none of the 1 public keys"),
        ("bool 108 0", "SIGN is false"),
    ],
)
def test_a_log_key_that_is_not_as_ordered_is_destroyed(
    shim: Shim, shimmed: Token, kind: str, lie: str, words: str
) -> None:
    """A key that reads back otherwise, or does not sign, is not kept, and the error names what is wrong."""
    order(shim, kind, lie)
    with pytest.raises(TokenUnfit) as caught:
        shimmed.make_log_key(new_key_id(), LABEL)
    assert words in caught.value.why
    assert "destroyed again" in caught.value.why
    with shim.honest() as honest:
        assert honest.keys() == ()


def test_a_log_key_that_changed_later_signs_nothing(shim: Shim, shimmed: Token) -> None:
    """Custody is demanded anew whenever a signer is opened; the key stays where it is."""
    key = shimmed.make_log_key(new_key_id(), LABEL)
    shim.order("bool 162 1")
    for call in (shimmed.log_signer, shimmed.find_log_key):
        with pytest.raises(TokenUnfit, match="not as ordered"):
            call(key.key_id)
    shim.order()
    assert shimmed.find_log_key(key.key_id) is not None


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_wrong_signature_is_not_handed_out(shim: Shim, shimmed: Token, kind: str) -> None:
    """One flipped bit is an error."""
    order(shim, kind)
    signer = shimmed.log_signer(shimmed.make_log_key(new_key_id(), LABEL).key_id)
    order(shim, kind, "wrong-signature")
    with pytest.raises(TokenError, match="wrong signature"):
        signer.sign(b"data")


def test_a_public_key_that_another_put_there_is_not_believed(softhsm: CreatedToken, token: Token) -> None:
    """Beside a second public object the key's own is found; without its own, there is no signer."""
    key = token.make_log_key(new_key_id(), LABEL)
    stranger = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    put_public_key(softhsm, key.key_id, stranger)
    assert token.log_signer(key.key_id).public_key == key.public_key
    foreign_key(softhsm, key.key_id, "", destroy=True, only_public=True)
    put_public_key(softhsm, key.key_id, stranger)
    with pytest.raises(TokenUnfit, match="none of the 1 public keys"):
        token.log_signer(key.key_id)


def test_the_two_uses_of_keys_are_kept_apart(token: Token) -> None:
    """An enrollment's key signs no log, and the log's key no CSR; each lists beside the other, and can be no anchor."""
    enrolled = token.generate(new_key_id(), "varmenne-20261124-7f3a9c21")
    log = token.make_log_key(new_key_id(), LABEL)
    for call in (token.log_signer, token.find_log_key):
        with pytest.raises(TokenUnfit, match="another type"):
            call(enrolled.key_id)
    with pytest.raises(TokenUnfit, match="another type"):
        token.make_log_key(enrolled.key_id, LABEL)
    with pytest.raises(TokenUnfit, match="KEY_TYPE is 64"):
        token.find(log.key_id)
    with pytest.raises(TokenError, match="public half"):
        token.signer(log.key_id)
    with pytest.raises(TokenError, match="public half"):
        token.destroy(log.key_id, log.public_key)
    assert dict(token.keys()) == {enrolled.key_id: enrolled.label, log.key_id: LABEL}
    assert token.probe().fit
    token.check_anchor(sha256(enrolled.public_key).hexdigest())
    with pytest.raises(TokenError, match="does not hold the key"):
        token.check_anchor(sha256(log.public_key).hexdigest())


def test_an_unknown_log_key_is_none_or_an_error(token: Token) -> None:
    """``find_log_key`` answers None, and a signer cannot be had."""
    assert token.find_log_key(new_key_id()) is None
    with pytest.raises(KeyNotFound):
        token.log_signer(new_key_id())


def test_two_keys_with_the_log_keys_id_are_an_error(softhsm: CreatedToken, token: Token) -> None:
    """Nobody guesses which of two keys is the log's."""
    key = token.make_log_key(new_key_id(), LABEL)
    foreign_key(softhsm, key.key_id, "second")
    for call in (token.find_log_key, token.log_signer, lambda key_id: token.make_log_key(key_id, LABEL)):
        with pytest.raises(KeyNotFound) as caught:
            call(key.key_id)
        assert caught.value.facts["matches"] == 2


def test_a_malformed_order_reaches_no_token(softhsm_shared: CreatedToken) -> None:
    """A CKA_ID or a label that cannot be is refused at the border."""
    with Token(softhsm_shared.settings) as client:
        before = client.keys()
        for key_id, label in ((KeyId(b"short"), LABEL), (new_key_id(), "")):
            with pytest.raises(InputError):
                client.make_log_key(key_id, label)
        assert client.keys() == before


def test_a_signer_outlives_its_worker(shim: Shim, shimmed: Token) -> None:
    """Signing the log is repeated once on a fresh worker, as every signature is."""
    key = shimmed.make_log_key(new_key_id(), LABEL)
    signer = shimmed.log_signer(key.key_id)
    shim.order("crash-once C_Sign")
    verify_elsewhere(signer, b"data")


def test_a_tpm_signs_the_log_by_ecdsa(tmp_path: Path) -> None:
    """A TPM has no Ed25519; its P-256 key takes the order with recorded deviations."""
    with swtpm(tmp_path) as settings, Token(settings) as client:
        key = client.make_log_key(new_key_id(), LABEL)
        assert isinstance(key, LogKey)
        assert key.kind == "ecdsa-p256"
        verify_elsewhere(client.log_signer(key.key_id), b"data")


def point_of(kind: LogKeyKind) -> tuple[bytes, bytes]:
    """Return a public key of a kind, bare and as DER ``SubjectPublicKeyInfo``."""
    if kind.name == "ed25519":
        edwards = Ed25519PrivateKey.generate().public_key()
        return edwards.public_bytes_raw(), edwards.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    curve = generate_private_key(SECP256R1()).public_key()
    bare = curve.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return bare, curve.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)
def test_a_point_is_read_bare_or_as_an_octet_string(kind: LogKeyKind) -> None:
    """Both spellings make the key that another library knows, and nothing else is taken."""
    bare, spki = point_of(kind)
    wrapped = bytes((0x04, len(bare))) + bare
    assert (kind.public_key(bare), kind.public_key(wrapped)) == (spki, spki)
    for wrong in (b"", bare[:-1], bare + b"\0", wrapped + b"\0", b"\x03" + wrapped[1:], wrapped[:1] + b"\x1f" + bare):
        assert kind.public_key(wrong) is None


def test_a_signature_is_of_its_own_kind_and_curve() -> None:
    """A right signature by a key of another curve, or by another kind, does not count; nor does one that is no DER."""
    p256, ed25519 = BY_NAME["ecdsa-p256"], BY_NAME["ed25519"]
    other = generate_private_key(SECP384R1())
    other_spki = other.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert not p256.verifies(other_spki, other.sign(b"data", ECDSA(SHA256())), b"data")
    right = generate_private_key(SECP256R1())
    spki = right.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    signature = right.sign(b"data", ECDSA(SHA256()))
    assert p256.verifies(spki, signature, b"data")
    assert not p256.verifies(spki, signature, b"other")
    assert not p256.verifies(spki, b"\0" * 64, b"data")
    assert not ed25519.verifies(spki, signature, b"data")
    assert not p256.verifies(p256.spki_prefix + b"\x04" + bytes(64), signature, b"data")
