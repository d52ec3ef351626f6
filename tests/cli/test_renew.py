"""Renewal, generations, channels and contacts, as a person types them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from harness.approvals import approve
from harness.stage import CUSTOMER, NAME, Result, Stage
from harness.years import Years
from varmenne.clock import system_clock
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import Channel
from varmenne.domain.steps import State
from varmenne.enrollment.facts import pem_to_der, sha256
from varmenne.enrollment.parts import Parts
from varmenne.errors import InputError, StateError, VaultUnavailable
from varmenne.service.renewal import verify_renewal

OLD_ENOUGH = timedelta(days=730 - 50)


def aged(stage: Stage, age: timedelta = OLD_ENOUGH, channel: Channel = Channel.WS) -> Enrollment:
    """Return a certificate in use that began so long ago."""
    return stage.aged(stage.order(CUSTOMER, name=NAME, channel=channel), age, channel)


def expired(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Enrollment:
    """Return a certificate that has expired: two years pass, for the commands that follow too."""
    years = Years(stage)
    row = years.first()
    years.pass_by(timedelta(days=731))
    defaults = Parts.__init__.__kwdefaults__ or {}
    monkeypatch.setitem(defaults, "clock", lambda: system_clock() + years.passed)
    return row


def renewed(stage: Stage) -> tuple[Enrollment, Enrollment]:
    """Renew by the command line, and return the certificate before and the one in use now."""
    old = aged(stage)
    result = stage.run("renew", old.id, "--json")
    assert result.code == 0, result.err
    new = next(row for row in stage.rows() if row.id == result.json["id"])
    return next(row for row in stage.rows() if row.id == old.id), new


def approved_by_another(stage: Stage, row: Enrollment) -> None:
    """Have somebody else approve that a key is destroyed."""
    with stage.parts() as parts:
        approve(parts, row)


def test_renew_and_go_back(stage: Stage) -> None:
    """A renewal is one command; so is the way back, and forward again."""
    old, new = renewed(stage)
    assert (old.state, new.state, new.generation) == (State.SUPERSEDED, State.ACTIVE, 2)
    back = stage.run("activate", new.id, "--generation", "1", "--json")
    assert (back.json["id"], back.json["state"], back.json["generation"]) == (old.id, "active", 1)
    forward = stage.run("activate", new.id)
    assert forward.code == 0
    assert "it is the current certificate" in forward.err
    missing = stage.run("activate", new.id, "--generation", "7")
    assert (missing.code, "has no generation 7" in missing.err) == (InputError.exit_code, True)


def test_every_command_shows_the_same_view(stage: Stage) -> None:
    """What `activate`, `contact set` and `sftp set-user` print is what `show` prints then, for programs too."""
    row = aged(stage, timedelta(days=10), Channel.SFTP)
    for words in (("sftp", "set-user", row.id, "user1"), ("contact", "set", row.id, "Maija")):
        for form in ((), ("--json",)):
            printed = stage.run(*words, *form)
            assert printed.out == stage.run("show", row.id, *form).out
    assert printed.json["renewal_due"]
    old, _new = renewed(stage)
    back = stage.run("activate", old.id, "--json")
    assert back.json == stage.run("show", old.id, "--json").json
    assert back.json["order_by"]


def test_a_replaced_certificate_is_shown_where_it_is_now(stage: Stage) -> None:
    """In Vault, `current` is another one's by then; and a key that is destroyed has no address in the token."""
    old, new = renewed(stage)
    was, now = stage.run("show", old.id, "--json").json, stage.run("show", new.id, "--json").json
    assert (was["vault_path"], was["vault_version"]) == (f"varmenne/test/{CUSTOMER}/ws/generation-1", None)
    assert (was["was_current_version"], now["was_current_version"]) == (1, None)
    assert (now["vault_path"], now["vault_version"]) == (f"varmenne/test/{CUSTOMER}/ws/current", 2)
    assert stage.vault.versions(was["vault_path"])
    assert "was current version  1\n" in stage.run("show", old.id).out
    assert was["pkcs11_uri"]
    approved_by_another(stage, old)
    assert stage.run("retire", old.id, "--destroy", "--confirm", old.id).code == 0
    gone = stage.run("show", old.id)
    assert "pkcs11" not in gone.out
    assert "generation-1\n" in gone.out


def test_the_list_tells_generations(stage: Stage) -> None:
    """Which of a channel's certificates is which is seen at a glance."""
    renewed(stage)
    header, *lines = stage.run("list").out.splitlines()
    assert header.split()[4] == "GEN"
    assert [(line.split()[1], line.split()[4]) for line in lines] == [("superseded", "1"), ("active", "2")]
    assert [one["generation"] for one in stage.run("list", "--json").json] == [1, 2]


@pytest.mark.parametrize("waits", [False, True], ids=["replaced", "to be put back"])
def test_only_what_is_in_use_is_renewed(stage: Stage, waits: bool) -> None:
    """Another generation is refused before anything is looked at, also one that waits to be put back."""
    old, new = renewed(stage)
    if waits:
        stage.configure(vault={"address": "http://127.0.0.1:9"})
        assert stage.run("activate", new.id, "--generation", "1").code == VaultUnavailable.exit_code
        assert state_of(stage, old) is State.STORED
    stage.configure(token={"pin": "file:/no/such/pin"})
    before = stage.rows()
    said = stage.run("renew", old.id)
    assert said.code == StateError.exit_code
    assert "only the certificate in use is renewed" in said.err
    assert "Check the token" not in said.err
    assert stage.rows() == before


def test_a_dry_run_sends_nothing_and_gives_the_request_out(stage: Stage) -> None:
    """The document is signed by the live key; a file that is there is not overwritten, and nothing else changes."""
    old = aged(stage)
    before = stage.world()
    out = stage.folder / "request.xml"
    said = stage.run("renew", old.id, "--dry-run", "--request-out", out, "--json")
    assert said.code == 0, said.err
    document = out.read_bytes()
    assert said.json == {
        "id": old.id,
        "bytes": len(document),
        "sha256": said.json["sha256"],
        "request": str(out),
        "sent": False,
    }
    assert old.certificate is not None
    assert said.json["sha256"] == sha256(document)
    assert verify_renewal(document, pem_to_der(old.certificate)).customer == CUSTOMER
    again = stage.run("renew", old.id, "--dry-run", "--request-out", out)
    assert again.code == InputError.exit_code
    assert "exists already" in again.err
    assert out.read_bytes() == document
    alone = stage.run("renew", old.id, "--dry-run")
    assert alone.out == "A request was signed by the live key and verified. Nothing was sent.\n"
    assert stage.run("renew", old.id, "--request-out", out).code == 2
    assert stage.world() == before


@pytest.mark.parametrize("early", [True, False], ids=["too early", "too late"])
def test_not_at_the_right_time(stage: Stage, monkeypatch: pytest.MonkeyPatch, early: bool) -> None:
    """Too early and too late are told apart, each with what to do; nothing is changed."""
    old = aged(stage, timedelta(days=10)) if early else expired(stage, monkeypatch)
    words = "too early to renew" if early else "cannot be renewed any more"
    before = stage.world()
    said = stage.run("renew", old.id, "--json")
    assert said.code == StateError.exit_code
    assert words in said.json["error"]["what"]
    assert old.id in said.json["error"]["next_step"]
    assert stage.world() == before


@pytest.mark.parametrize("words", [("renew",), ("rehearse",), ("activate",), ("retire",), ("contact", "set")])
def test_an_unknown_id(shared: Stage, words: tuple[str, ...]) -> None:
    """What is not there, or no ID at all, is bad input."""
    more = ("text",) if words == ("contact", "set") else ()
    for wrong in ("20000101-00000000", "nonsense"):
        said = shared.run(*words, wrong, *more)
        assert said.code == InputError.exit_code
        assert wrong in said.err


@pytest.fixture
def shared(shared_stage: Stage) -> Stage:
    """Return a stage that nothing is changed at."""
    return shared_stage


def test_rehearse_says_what_would_fail(stage: Stage) -> None:
    """Every certificate in use is tried without naming it; what is lost is named, with exit code 12."""
    assert stage.run("rehearse").err == "There is no certificate in use.\n"
    row = aged(stage)
    fine = stage.run("rehearse", "--json")
    assert (fine.code, [(one["id"], one["ok"]) for one in fine.json]) == (0, [(row.id, True)])
    assert set(fine.json[0]["checks"]) == {
        "token",
        "live key",
        "request",
        "trust anchors",
        "service",
        "vault",
    }
    stage.configure(service={"endpoint": "https://127.0.0.1:9/"})
    lost = stage.run("rehearse", row.id)
    assert (lost.code, lost.out) == (stage.run("doctor").code, f"{row.id}  FAILED\n")
    assert "✗ service" in lost.err


def test_retire_and_destroy_as_confirmed(stage: Stage) -> None:
    """The key in use is refused; destroying wants the ID typed, and only then is the key gone."""
    old, new = renewed(stage)
    for also in ((), ("--destroy", "--confirm", new.id)):
        refused = stage.run("retire", new.id, *also)
        assert refused.code == StateError.exit_code
        assert "It is in use" in refused.err
    for more in ((), ("--confirm", new.id)):
        said = stage.run("retire", old.id, "--destroy", *more)
        assert said.code == InputError.exit_code
        assert "confirm" in said.err
    assert (stage.keys_of(old), state_of(stage, old)) == (1, State.SUPERSEDED)
    assert stage.run("retire", old.id, "--json").json["state"] == "retired"
    assert stage.keys_of(old) == 1
    approved_by_another(stage, old)
    gone = stage.run("retire", old.id, "--destroy", "--confirm", old.id, "--json")
    assert (gone.code, gone.json["state"], stage.keys_of(old), stage.keys_of(new)) == (0, "destroyed", 0, 1)


def test_what_is_so_already_is_said_so(stage: Stage) -> None:
    """Who orders what is done, or what cannot be, is told what there is to do instead."""
    old, new = renewed(stage)
    approved_by_another(stage, old)
    assert stage.run("retire", old.id, "--destroy", "--confirm", old.id).code == 0
    for words, sentence in (
        (("activate", new.id), f"enrollment {new.id}, is the current one already"),
        (("retire", old.id), "Nothing is left to be done: its key is gone"),
        (("rehearse", old.id), "varmenne list --state active"),
        (("sftp", "set-user", new.id, "user1"), "`varmenne list` shows the channel of each"),
        (("contact", "set", new.id, ""), "Next: Give it in full"),
    ):
        before = stage.world()
        said = stage.run(*words)
        assert said.code in {InputError.exit_code, StateError.exit_code}
        assert sentence in said.err
        assert stage.world() == before


def state_of(stage: Stage, row: Enrollment) -> State:
    """Return the state of an enrollment now."""
    return next(one.state for one in stage.rows() if one.id == row.id)


@pytest.mark.parametrize(
    ("words", "promise"),
    [
        (("renew", "ID"), "Nothing was begun; run it again."),
        (("enroll", "--replaces", "ID"), "Nothing was begun; run it again."),
        (("resume", "ID"), "`varmenne resume --all` goes on."),
        (("activate", "ID"), "the same command again does the rest."),
        (("retire", "ID"), "the same command again does the rest."),
        (("contact", "set", "ID", "x"), "the same command again does the rest."),
        (("rehearse",), "Nothing was changed."),
    ],
)
def test_ctrl_c_says_what_is_true(
    shared: Stage, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], promise: str
) -> None:
    """Whoever interrupts a command is told how to go on."""

    def interrupt(*_arguments: object, **_more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("varmenne.journal.Journal.get", interrupt)
    monkeypatch.setattr("varmenne.journal.Journal.every", interrupt)
    said = shared.run(*("20261124-7f3a9c21" if word == "ID" else word for word in words))
    assert said.code == 130
    assert said.err.rpartition("Interrupted. ")[2].rstrip().endswith(promise)


def ordered(stage: Stage, *words: str | Path, channel: Channel = Channel.WS) -> Result:
    """Order anew in the e-service, and enroll with what came of it."""
    order = stage.order(CUSTOMER, name=NAME, channel=channel)
    return stage.run("enroll", *words, "--credentials", stage.credentials_file(order), "--json")


@pytest.mark.parametrize("over", [False, True], ids=["valid", "expired"])
def test_an_old_order_is_the_template_of_the_new_one(stage: Stage, monkeypatch: pytest.MonkeyPatch, over: bool) -> None:
    """Customer, name and channel need not be told again; nor of an expired certificate."""
    old = expired(stage, monkeypatch) if over else aged(stage)
    stage.configure(customer={"id": "7017233-8", "name": "Somebody Else Oy"})
    new = ordered(stage, "--replaces", old.id)
    assert new.code == 0, new.err
    assert [new.json[name] for name in ("customer_id", "customer_name", "channel", "replaces", "generation")] == [
        CUSTOMER,
        old.customer_name,
        "ws",
        old.id,
        2,
    ]
    assert state_of(stage, old) is State.SUPERSEDED


def test_what_is_given_must_agree_with_the_template(stage: Stage) -> None:
    """Another customer or channel is refused before anything is spent; another name is the customer's new one."""
    old = aged(stage)
    before = stage.world()
    for given in (("--customer-id", "7017233-8"), ("--channel", "sftp")):
        out = stage.folder / "request.pem"
        said = stage.run("csr", "--replaces", old.id, *given, "--out", out, "--json")
        assert (said.code, out.exists()) == (InputError.exit_code, False)
        assert "cannot be replaced by this one" in said.json["error"]["what"]
    assert stage.world() == before
    said = ordered(stage, "--replaces", old.id, "--customer-name", "Uusi Nimi Oy")
    assert (said.code, said.json["customer_name"]) == (0, "Uusi Nimi Oy")


def test_a_csr_has_a_template_too(stage: Stage) -> None:
    """The way through the e-service's form needs no more words."""
    old = aged(stage, channel=Channel.SFTP)
    out = stage.folder / "request.pem"
    said = stage.run("csr", "--replaces", old.id, "--out", out, "--json")
    assert said.code == 0, said.err
    assert (said.json["customer_id"], said.json["channel"], said.json["replaces"]) == (CUSTOMER, "sftp", old.id)
    assert "BEGIN CERTIFICATE REQUEST" in out.read_text()


def test_the_user_of_an_sftp_channel(stage: Stage) -> None:
    """Until it came, `show` says where it comes from; then it is shown, and is in the history."""
    row = aged(stage, timedelta(), Channel.SFTP)
    before = stage.run("show", row.id)
    assert f"varmenne sftp set-user {row.id} USER" in before.out
    assert "usable from" in before.out
    said = stage.run("sftp", "set-user", row.id, "vero-user1", "--json")
    assert (said.code, said.json["sftp_user"]) == (0, "vero-user1")
    after = stage.run("show", row.id)
    assert "sftp user  vero-user1" in after.out
    assert "not known yet" not in after.out
    assert "sftp-user" in stage.run("history", row.id).out
    assert stage.run("sftp", "set-user", "--", row.id, "-oProxyCommand=x").code == InputError.exit_code


def test_the_technical_contact(stage: Stage) -> None:
    """It is a note; the reminder says where the change itself is made."""
    row = aged(stage, timedelta())
    said = stage.run("contact", "set", row.id, "Maija Meikäläinen, maija@example.org")
    assert said.code == 0
    assert "changed in its e-service" in said.err
    assert stage.run("show", row.id, "--json").json["contact"] == "Maija Meikäläinen, maija@example.org"


def test_completion_knows_the_commands() -> None:
    """The shell completes the new words."""
    from click.shell_completion import ShellComplete

    from varmenne.cli.program import program

    complete = ShellComplete(program, {}, "varmenne", "_VARMENNE_COMPLETE")
    for given, begun, wanted in (
        ([], "re", {"renew", "rehearse", "retire", "resume", "resolve"}),
        (["sftp"], "s", {"set-user"}),
        (["contact"], "", {"set"}),
        (["renew"], "--d", {"--dry-run"}),
        (["retire"], "--", {"--destroy", "--confirm"}),
        (["enroll", "--channel"], "", {"ws", "sftp"}),
    ):
        found = {item.value for item in complete.get_completions(given, begun)}
        assert wanted <= found, given


def test_completion_knows_enrollments_and_files(stage: Stage) -> None:
    """IDs come from the journal of the settings, with what they are; where there is none, none is made for that."""
    from click.shell_completion import ShellComplete

    from varmenne.cli.program import program

    complete = ShellComplete(program, {}, "varmenne", "_VARMENNE_COMPLETE")
    config = ["--config", str(stage.config)]
    stage.configure(state_dir=str(stage.folder / "new"))
    assert complete.get_completions([*config, "show"], "") == []
    assert not (stage.folder / "new").exists()
    stage.configure()
    row = aged(stage, timedelta())
    for given in (["show"], ["retire"], ["renew"], ["hooks", "retry"], ["enroll", "--replaces"], ["list", "--after"]):
        for begun in ("", row.id[:6]):
            (item,) = complete.get_completions([*config, *given], begun)
            assert (item.value, item.help) == (row.id, f"active, {CUSTOMER} ws")
        assert complete.get_completions([*config, *given], "1999") == []
    assert complete.get_completions(["--config", "/nonexistent.toml", "show"], "") == []
    (item,) = complete.get_completions(["enroll", "--credentials"], "ma")
    assert (item.value, item.type) == ("ma", "file")
