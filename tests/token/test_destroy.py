"""Destroying a key: all of it, nothing else, and to the end however often it was cut off."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from varmenne.domain.identifiers import EnrollmentId, key_label
from varmenne.domain.keys import KeyFacts, KeyId, new_key_id
from varmenne.errors import InputError, KeyNotFound, TokenError, TokenUnavailable
from varmenne.token import CreatedToken, Token

from .conftest import Shim
from .helpers import foreign_key, swtpm
from .test_certificates import certificate
from .test_worker import worker_pid

LABEL = key_label(EnrollmentId("20261124-7f3a9c21"))
ATTRIBUTE_UNTOLD = "untold 122"
"""The private object does not tell its public exponent, as some tokens do not."""


def whole(client: Token, label: str = LABEL) -> KeyFacts:
    """Make a key with two certificates beside it: four objects."""
    facts = client.generate(new_key_id(), label)
    for serial in (1, 2):
        client.store_certificate(facts.key_id, "certificate", certificate(facts.public_key, serial))
    return facts


def objects(token: CreatedToken) -> dict[str, bytes]:
    """Return the objects that SoftHSM keeps: name of the file → its content."""
    files = (token.directory / "tokens").glob("*/*.object")
    return {path.name: path.read_bytes() for path in files if path.name != "token.object"}


def test_a_key_and_all_that_belongs_to_it_is_destroyed(softhsm: CreatedToken, token: Token) -> None:
    """Private key, public key and certificates are gone, from the files too, and other keys are as they were."""
    other = whole(token)
    before = objects(softhsm)
    facts = whole(token)
    signer = token.signer(facts.key_id)
    assert len(objects(softhsm)) == len(before) + 4
    assert token.destroy(facts.key_id, facts.public_key) is True
    assert objects(softhsm) == before
    assert token.find(facts.key_id) is None
    assert token.certificates(facts.key_id) == ()
    with pytest.raises(KeyNotFound):
        signer.sign(b"data")
    assert token.signer(other.key_id).sign(b"data")
    with Token(softhsm.settings) as another:
        assert another.keys() == ((other.key_id, LABEL),)


def test_destroying_again_says_that_nothing_was_there(softhsm: CreatedToken, token: Token) -> None:
    """The second call answers False, as for a key that never was."""
    facts = whole(token)
    assert token.destroy(facts.key_id, facts.public_key) is True
    assert token.destroy(facts.key_id, facts.public_key) is False
    assert token.destroy(new_key_id(), facts.public_key) is False
    assert objects(softhsm) == {}


def test_a_key_with_another_public_key_is_not_destroyed(softhsm: CreatedToken, token: Token) -> None:
    """Who asks must know which key it is; the CKA_ID alone is not enough."""
    facts, other = whole(token), whole(token)
    before = objects(softhsm)
    for public_key in (other.public_key, b""):
        with pytest.raises(TokenError, match="a private key of another key") as caught:
            token.destroy(facts.key_id, public_key)
        assert not caught.value.transient
    assert objects(softhsm) == before


@pytest.mark.parametrize("label", ["vault-login-7f3a9c21", "varmenne-payments", "payments"])
def test_a_key_with_another_kind_of_label_is_not_destroyed(softhsm: CreatedToken, token: Token, label: str) -> None:
    """The key that logs in to Vault, and other programs' keys, are safe even from a wrong journal."""
    facts = whole(token, label)
    before = objects(softhsm)
    with pytest.raises(TokenError, match=f"label '{label}', which is not that of an enrollment"):
        token.destroy(facts.key_id, facts.public_key)
    assert objects(softhsm) == before


def test_a_second_key_with_the_same_id_is_a_reason_to_stop(softhsm: CreatedToken, token: Token) -> None:
    """What another program put under the CKA_ID is not destroyed, and neither is the key while that is unclear."""
    facts = whole(token)
    foreign_key(softhsm, facts.key_id, LABEL)
    before = objects(softhsm)
    with pytest.raises(TokenError, match="a private key of another key"):
        token.destroy(facts.key_id, facts.public_key)
    assert objects(softhsm) == before


def test_what_other_programs_left_alone_under_the_id_stays(softhsm: CreatedToken, token: Token) -> None:
    """With the private key gone, only objects of that same key are leftovers of it."""
    facts, other = whole(token), whole(token)
    assert token.destroy(facts.key_id, facts.public_key) is True
    before = objects(softhsm)
    with pytest.raises(TokenError, match="certificate of another key"):
        token.destroy(other.key_id, facts.public_key)
    assert objects(softhsm) == before


def test_an_unfit_key_can_be_destroyed(softhsm: CreatedToken, token: Token) -> None:
    """A key that could leave the token is the last one to be kept for that."""
    key_id = new_key_id()
    foreign_key(softhsm, key_id, LABEL)
    assert token.destroy(key_id, token.signer(key_id).public_key) is True
    assert objects(softhsm) == {}


def test_a_missing_public_object_does_not_matter(softhsm: CreatedToken, token: Token) -> None:
    """Anybody may have deleted the public object."""
    facts = whole(token)
    foreign_key(softhsm, facts.key_id, "", destroy=True, only_public=True)
    assert token.destroy(facts.key_id, facts.public_key) is True
    assert objects(softhsm) == {}


def test_a_key_that_forbids_it_is_told_so(softhsm: CreatedToken, token: Token) -> None:
    """CKA_DESTROYABLE false: the token refuses, and nothing at all was touched."""
    key_id = new_key_id()
    foreign_key(softhsm, key_id, LABEL, destroyable=False)
    public_key = token.signer(key_id).public_key
    before = objects(softhsm)
    with pytest.raises(TokenError, match="CKR_ACTION_PROHIBITED") as caught:
        token.destroy(key_id, public_key)
    assert "still there: private key, public key" in caught.value.why
    assert not caught.value.transient
    assert objects(softhsm) == before


def test_an_empty_id_is_refused(softhsm: CreatedToken, token: Token) -> None:
    """Some tokens would take it for "any"."""
    facts = whole(token)
    before = objects(softhsm)
    with pytest.raises(InputError):
        token.destroy(KeyId(b""), facts.public_key)
    assert objects(softhsm) == before


@pytest.mark.parametrize("exponent", ["told", "untold"])
def test_a_crash_after_each_object_is_made_good_by_the_next_call(shim: Shim, shimmed: Token, exponent: str) -> None:
    """The private key goes first; each call that is cut off is told, not repeated, and the next one goes on."""
    facts = whole(shimmed)
    lies = [ATTRIBUTE_UNTOLD] if exponent == "untold" else []
    shim.order("crash-after C_DestroyObject", *lies)
    for left in (3, 2, 1, 0):
        with pytest.raises(TokenUnavailable, match="could not destroy a key"):
            shimmed.destroy(facts.key_id, facts.public_key)
        assert len(objects(shim.behind)) == left
        with shim.honest() as honest:
            assert honest.keys() == (), "the private key is the first to go"
    assert shim.calls("C_DestroyObject") == 4
    shim.order(*lies)
    assert shimmed.destroy(facts.key_id, facts.public_key) is False


def test_a_worker_killed_while_it_destroys_is_told_and_the_next_call_finishes(shim: Shim, shimmed: Token) -> None:
    """After kill -9 in the middle, the same call destroys the rest, with one login more and no other."""
    facts = whole(shimmed)
    logins = shim.calls("C_Login")
    calls = shim.calls("C_DestroyObject")
    shim.order("hang C_DestroyObject")

    def killer() -> None:
        while shim.calls("C_DestroyObject") == calls:
            time.sleep(0.02)
        os.kill(worker_pid(shimmed), signal.SIGKILL)

    thread = threading.Thread(target=killer)
    thread.start()
    with pytest.raises(TokenUnavailable, match="SIGKILL"):
        shimmed.destroy(facts.key_id, facts.public_key)
    thread.join()
    assert shim.calls("C_Login") == logins
    assert len(objects(shim.behind)) == 4
    shim.order()
    assert shimmed.destroy(facts.key_id, facts.public_key) is True
    assert shim.calls("C_Login") == logins + 1
    assert objects(shim.behind) == {}


def test_a_token_that_only_says_so_is_found_out(shim: Shim, shimmed: Token) -> None:
    """Success is read back."""
    facts = whole(shimmed)
    shim.order("pretend C_DestroyObject")
    with pytest.raises(TokenError, match="the token refused nothing") as caught:
        shimmed.destroy(facts.key_id, facts.public_key)
    assert "still there: certificate, certificate, private key, public key" in caught.value.why
    assert not isinstance(caught.value, TokenUnavailable)
    shim.order()
    assert shimmed.destroy(facts.key_id, facts.public_key) is True


def test_a_login_that_was_dropped_hides_no_key(shim: Shim, shimmed: Token) -> None:
    """Without login a token shows no private keys. That is not taken for "gone", and nothing is touched."""
    facts = whole(shimmed)
    before = objects(shim.behind)
    shim.order("logout C_FindObjectsInit")
    with pytest.raises(TokenUnavailable, match="CKR_USER_NOT_LOGGED_IN"):
        shimmed.destroy(facts.key_id, facts.public_key)
    assert objects(shim.behind) == before
    shim.order()
    assert shimmed.destroy(facts.key_id, facts.public_key) is True


def test_a_token_that_went_away_is_not_a_destroyed_key(softhsm: CreatedToken, token: Token) -> None:
    """SoftHSM answers "no objects" when its folder is gone."""
    facts = whole(token)
    tokens, away = softhsm.directory / "tokens", softhsm.directory / "away"
    tokens.rename(away)
    with pytest.raises(TokenUnavailable):
        token.destroy(facts.key_id, facts.public_key)
    away.rename(tokens)
    assert token.destroy(facts.key_id, facts.public_key) is True


def test_a_copy_of_the_folder_still_holds_the_key(softhsm: CreatedToken, token: Token, tmp_path: Path) -> None:
    """What the guide says of SoftHSM's backups: destroying does not reach them."""
    facts = whole(token)
    tokens, copy = softhsm.directory / "tokens", tmp_path / "copy"
    subprocess.run(["cp", "-a", tokens, copy], check=True)
    assert token.destroy(facts.key_id, facts.public_key) is True
    token.close()
    tokens.rename(tmp_path / "destroyed")
    copy.rename(tokens)
    with Token(softhsm.settings) as restored:
        assert restored.signer(facts.key_id).sign(b"data")


def test_a_tpm_destroys_keys_too(tmp_path: Path) -> None:
    """The software TPM behind its own module: everything goes, and the second call finds nothing."""
    with swtpm(tmp_path) as settings, Token(settings) as client:
        facts, other = whole(client), client.generate(new_key_id(), LABEL)
        assert client.destroy(facts.key_id, facts.public_key) is True
        assert client.destroy(facts.key_id, facts.public_key) is False
        assert client.keys() == ((other.key_id, LABEL),)
        assert client.certificates(facts.key_id) == ()
        with pytest.raises(KeyNotFound):
            client.signer(facts.key_id)
        assert client.signer(other.key_id).sign(b"data")
