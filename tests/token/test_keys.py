"""Keys: born in the token, as ordered, found again, and signing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from varmenne.domain.keys import KeyFacts, KeyId, new_key_id
from varmenne.errors import InputError, KeyNotFound, TokenError, TokenUnavailable, TokenUnfit
from varmenne.token import CreatedToken, Token
from varmenne.token.key_policy import EXPECTATIONS

from .conftest import Shim
from .helpers import foreign_key


@pytest.fixture(scope="module")
def client(softhsm_shared: CreatedToken) -> Iterator[Token]:
    """One client for tests that only add keys of their own."""
    with Token(softhsm_shared.settings) as shared:
        yield shared


@pytest.fixture(scope="module")
def made(client: Token) -> KeyFacts:
    """A key that was made by the client."""
    return client.generate(new_key_id(), "Åkerlund & Öljy Oy")


def test_a_key_reads_back_as_ordered(made: KeyFacts) -> None:
    """A SoftHSM key fulfils every demand of the policy, without deviations."""
    assert made.deviations == ()
    wanted = {row.attribute: row.wanted for row in EXPECTATIONS}
    assert {row.attribute: made.attributes[row.attribute] for row in EXPECTATIONS} == {
        **wanted,
        "PRIVATE_EXPONENT": None,
    }
    assert made.label == "Åkerlund & Öljy Oy"
    assert made.made_at is not None


def test_a_key_is_found_with_the_same_facts(client: Token, made: KeyFacts) -> None:
    """What is found later is what was read back after generation, but for the moment of making."""
    found = client.find(made.key_id)
    assert found is not None
    assert found.made_at is None
    assert (found.public_key, found.attributes, found.label) == (made.public_key, made.attributes, made.label)


def test_generating_again_returns_the_first_key(client: Token, made: KeyFacts) -> None:
    """After a crash between generation and the journal, the same call finds the key instead of making a second one."""
    before = client.keys()
    again = client.generate(made.key_id, made.label)
    assert again.public_key == made.public_key
    assert again.made_at is None
    assert client.keys() == before


def test_another_label_on_resume_is_a_recorded_deviation(client: Token, made: KeyFacts) -> None:
    """A key that is there under another label is returned, and the label is not passed over in silence."""
    again = client.generate(made.key_id, "another label")
    assert again.public_key == made.public_key
    assert any("LABEL" in sentence for sentence in again.deviations)


def test_a_signature_verifies_elsewhere(client: Token, made: KeyFacts) -> None:
    """A signature verifies with the public key by another library."""
    signer = client.signer(made.key_id)
    assert signer.public_key == made.public_key
    public_key = load_der_public_key(signer.public_key)
    assert isinstance(public_key, RSAPublicKey)
    for data in (b"", b"data", b"x" * 300_000):
        public_key.verify(signer.sign(data), data, PKCS1v15(), SHA256())


def test_the_fallback_mechanism_makes_the_same_signature(shim: Shim, shimmed: Token) -> None:
    """Where CKM_SHA256_RSA_PKCS is not listed, CKM_RSA_PKCS over DigestInfo makes the very same bytes."""
    key_id = new_key_id()
    shimmed.generate(key_id, "key")
    with shim.honest() as honest:
        direct = honest.signer(key_id).sign(b"data")
    shimmed.close()
    shim.order("unlisted 40")
    with shim.client() as client:
        assert client.signer(key_id).sign(b"data") == direct


def test_an_unknown_key_is_none_or_an_error(client: Token) -> None:
    """``find`` answers None, and verbs that need the key say that there is none."""
    key_id = new_key_id()
    assert client.find(key_id) is None
    assert client.certificates(key_id) == ()
    with pytest.raises(KeyNotFound) as caught:
        client.signer(key_id)
    assert caught.value.facts["matches"] == 0


def test_two_keys_with_one_id_are_an_error_that_counts_them(softhsm: CreatedToken, token: Token) -> None:
    """When another program has made a second key with the same CKA_ID, nobody guesses, and nothing is made."""
    key_id = new_key_id()
    signer = token.signer(token.generate(key_id, "first").key_id)
    foreign_key(softhsm, key_id, "second")
    for call in (
        lambda: token.find(key_id),
        lambda: token.generate(key_id, "first"),
        lambda: token.store_certificate(key_id, "x", b"x"),
    ):
        with pytest.raises(KeyNotFound) as caught:
            call()
        assert caught.value.facts["matches"] == 2
    with pytest.raises(KeyNotFound):
        signer.sign(b"data")
    assert len(token.keys()) == 2


def test_keys_of_others_are_listed_and_refused(softhsm: CreatedToken, token: Token) -> None:
    """A key that another program made without our template is listed, but is not one to be used."""
    key_id = new_key_id()
    foreign_key(softhsm, key_id, "foreign")
    assert token.keys() == ((key_id, "foreign"),)
    with pytest.raises(TokenUnfit) as caught:
        token.find(key_id)
    assert "EXTRACTABLE is true" in caught.value.why
    with pytest.raises(TokenUnfit):
        token.generate(key_id, "foreign")
    assert token.keys() == ((key_id, "foreign"),), "a key that was found is never destroyed"


def test_an_index_entry_is_checked_before_use(softhsm: CreatedToken, token: Token) -> None:
    """A key that was destroyed by another process is not signed with by a stale handle."""
    kept, gone = new_key_id(), new_key_id()
    signers = [token.signer(token.generate(key_id, "key").key_id) for key_id in (kept, gone)]
    foreign_key(softhsm, gone, "", destroy=True)
    with pytest.raises(KeyNotFound):
        signers[1].sign(b"data")
    assert signers[0].sign(b"data")


def test_the_anchor_tells_tokens_apart(softhsm: CreatedToken, token: Token, tmp_path: Path) -> None:
    """The anchor's token passes; another one with the same label and model does not."""
    from varmenne.token import create_softhsm_token

    facts = token.generate(new_key_id(), "anchor")
    anchor = sha256(facts.public_key).hexdigest()
    token.check_anchor(anchor)
    token.check_anchor(anchor.upper())
    other = create_softhsm_token(tmp_path / "other", label=softhsm.label)
    with Token(other.settings) as stranger, pytest.raises(TokenError) as caught:
        stranger.check_anchor(anchor)
    assert not isinstance(caught.value, TokenUnavailable)


def test_the_anchor_is_not_believed_to_be_where_it_was(softhsm: CreatedToken, token: Token) -> None:
    """A worker that has seen the anchor refuses its token once the key is gone, or another has its CKA_ID."""
    gone, swapped = (token.generate(new_key_id(), "anchor") for _ in range(2))
    anchors = [sha256(facts.public_key).hexdigest() for facts in (gone, swapped)]
    for anchor in anchors:
        token.check_anchor(anchor)
    for facts in (gone, swapped):
        foreign_key(softhsm, facts.key_id, "", destroy=True)
    foreign_key(softhsm, swapped.key_id, "foreign")
    for anchor in anchors:
        with pytest.raises(TokenError, match="does not hold the key"):
            token.check_anchor(anchor)


@pytest.mark.parametrize("key_id", [b"", b"short", bytes(17)])
def test_a_malformed_id_is_refused_at_the_border(client: Token, key_id: bytes) -> None:
    """A CKA_ID of a wrong length reaches no token."""
    before = client.keys()
    with pytest.raises(InputError):
        client.generate(KeyId(key_id), "label")
    assert client.keys() == before


@pytest.mark.parametrize("label", ["", "x" * 256, "line\nbreak", "nul\0", "\ud800"])
def test_a_label_that_tokens_could_garble_is_refused(client: Token, label: str) -> None:
    """A label that is empty, long or unprintable reaches no token (an unpackable one would end the interpreter)."""
    before = client.keys()
    with pytest.raises(InputError):
        client.generate(new_key_id(), label)
    assert client.keys() == before


def test_threads_take_turns(client: Token, made: KeyFacts) -> None:
    """Eight threads that sign with one client get eight right signatures."""
    signer = client.signer(made.key_id)
    with ThreadPoolExecutor(8) as pool:
        signatures = list(pool.map(signer.sign, [bytes([number]) for number in range(8)]))
    assert len(set(signatures)) == 8


def test_tokens_work_in_parallel(softhsm_shared: CreatedToken, made: KeyFacts) -> None:
    """Two clients of one token have a worker each, and do not disturb each other."""
    with Token(softhsm_shared.settings) as one, Token(softhsm_shared.settings) as other:
        first, second = one.signer(made.key_id), other.signer(made.key_id)
        assert first.sign(b"data") == second.sign(b"data")
        one.close()
        assert second.sign(b"data")


def test_a_public_object_is_not_needed(softhsm: CreatedToken, token: Token) -> None:
    """The public object, which anybody may delete, is not relied upon."""
    facts = token.generate(new_key_id(), "key")
    foreign_key(softhsm, facts.key_id, "", destroy=True, only_public=True)
    found = token.find(facts.key_id)
    assert found is not None
    assert found.public_key == facts.public_key
    assert token.signer(facts.key_id).sign(b"data")


def test_the_exponent_may_come_from_the_public_object(shim: Shim, shimmed: Token) -> None:
    """Where the private object does not tell its exponent, the public object with the same modulus does."""
    facts = shimmed.generate(new_key_id(), "key")
    shim.order("untold 122")
    assert shimmed.signer(facts.key_id).public_key == facts.public_key
    shim.order("untold 120")
    with pytest.raises(TokenError, match="public half"):
        shimmed.signer(facts.key_id)


def test_a_closed_client_says_so(softhsm: CreatedToken) -> None:
    """A call after close() is an error of our tree, and close() may be called twice."""
    client = Token(softhsm.settings)
    client.close()
    client.close()
    with pytest.raises(TokenError, match="closed"):
        client.status()
