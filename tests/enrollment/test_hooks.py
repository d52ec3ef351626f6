"""Hooks around an activation: in time, with the facts, once more if they fail, and dropped when they would do harm."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from harness.hooks import HOUR, POST, PRE, Hooks, until
from harness.stage import CUSTOMER, NAME, Listener, Stage
from harness.years import DAY, IN_THE_WINDOW, WAIT, Years
from varmenne.domain.hooks import MOST_TRIES, HookOutcome
from varmenne.domain.steps import State
from varmenne.enrollment.enroll import go_on
from varmenne.enrollment.hooks import run_due
from varmenne.enrollment.renew import activate
from varmenne.errors import ConfigError, HookFailed


def test_around_an_activation(hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before see a staged certificate, those after one in use, and neither a secret."""
    monkeypatch.setenv("VAULT_TOKEN", "hvs.secret")
    folder = hooks.stage.folder
    for event in (PRE, POST):
        for name in ("20-second", "10-first"):
            hooks.write(event, name, f"cat > {folder}/{event}-{name}.json; env > {folder}/{event}-{name}.env")
    row = hooks.enrolled()
    assert hooks.runs() == [f"{event} {name}" for event in (PRE, POST) for name in ("10-first", "20-second")]
    before, after = (json.loads((folder / f"{event}-10-first.json").read_text("utf-8")) for event in (PRE, POST))
    assert (before["state"], before["vault_version"], before["event"]) == ("stored", None, "pre-activate")
    assert (after["state"], after["vault_version"], after["event"]) == ("active", 1, "post-activate")
    assert (after["enrollment"], after["customer_id"], after["customer_name"]) == (row.id, CUSTOMER, NAME)
    assert (after["serial_number"], after["generation"], after["certificate"]) == (
        row.serial_number,
        1,
        row.certificate,
    )
    assert after["order_by"] < after["not_after"]
    assert after["key_uri"].startswith("pkcs11:")
    found = dict(line.split("=", 1) for line in (folder / f"{POST}-10-first.env").read_text("utf-8").splitlines())
    assert found["VARMENNE_ENROLLMENT"] == row.id
    assert found["VARMENNE_SERIAL_NUMBER"] == row.serial_number
    assert found["VARMENNE_NOT_AFTER"] == after["not_after"]
    assert found["VARMENNE_GENERATION"] == "1"
    assert found["VARMENNE_KEY_URI"] == after["key_uri"]
    pin = Path(hooks.stage.token.pin.removeprefix("file:")).read_text("utf-8").strip()
    secret_id = (folder / "secret-id").read_text("utf-8").strip()
    told = "".join(path.read_text("utf-8") for event in (PRE, POST) for path in folder.glob(f"{event}-*"))
    for secret in (pin, secret_id, "hvs.secret"):
        assert secret not in told
    assert [outcome for _name, outcome, _tries in hooks.known(row)] == [HookOutcome.OK] * 4


def test_every_documented_fact_is_there(hooks: Hooks) -> None:
    """The table in the documentation names exactly what hooks are told."""
    document = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text(encoding="utf-8")
    table = document.split("| fact | ")[1].split("\n\n")[0]
    named = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    hooks.write(POST, "facts", f"cat > {hooks.stage.folder}/facts.json")
    hooks.enrolled()
    assert named == list(json.loads((hooks.stage.folder / "facts.json").read_text("utf-8")))


def test_one_before_holds_the_activation_up(hooks: Hooks) -> None:
    """It fails: nothing is published. When it succeeds, those that did before are not run again."""
    hooks.write(PRE, "10-fine")
    hooks.write(PRE, "20-check", "echo no such server >&2; exit 7")
    hooks.write(PRE, "30-last")
    hooks.write(POST, "reload")
    with pytest.raises(HookFailed, match="exit code 7: no such server") as caught:
        hooks.enrolled()
    row = hooks.row()
    assert caught.value.exit_code == 17
    assert (row.state, row.owner) == (State.STORED, None)
    assert row.due_at is not None
    assert row.problem is not None
    assert row.problem["kind"] == "HookFailed"
    assert hooks.stage.vault.root.secrets.kv.v2.list_secrets(
        f"{hooks.stage.vault.settings.prefix}/test/{CUSTOMER}/ws", mount_point=hooks.stage.vault.settings.mount
    )["data"]["keys"] == ["generation-1"]
    assert hooks.known() == [("10-fine", HookOutcome.OK, 1), ("20-check", HookOutcome.FAILED, 1)]
    with hooks.parts() as parts:
        assert parts.journal.hooks.in_trouble() == ()  # The enrollment's own problem says it, with what to do.
    assert hooks.later(DAY) == 0
    hooks.write(PRE, "20-check")
    with hooks.parts() as parts:
        assert go_on(parts, Listener(), row, wait=WAIT).state is State.ACTIVE
    assert hooks.runs() == [
        f"{PRE} 10-fine", f"{PRE} 20-check", f"{PRE} 20-check", f"{PRE} 30-last", f"{POST} reload",
    ]  # fmt: skip
    assert hooks.known()[1] == ("20-check", HookOutcome.OK, 2)


def test_one_before_has_only_its_time(hooks: Hooks) -> None:
    """One that hangs is ended, and the certificate waits."""
    hooks.stage.configure(hooks={"directory": str(hooks.folder), "timeout_seconds": 0.5})
    hooks.write(PRE, "hang", "sleep 60")
    with pytest.raises(HookFailed, match=r"took longer than 0\.5 s"):
        hooks.enrolled()
    assert hooks.row().state is State.STORED


def test_unusable_hooks_hold_the_activation_up(hooks: Hooks) -> None:
    """If others could change them, nothing is put to use in silence without them, nor with them."""
    hooks.write(POST, "reload")
    (hooks.folder / POST).chmod(0o777)
    with pytest.raises(ConfigError, match="others may write to"):
        hooks.enrolled()
    assert hooks.row().state is State.STORED
    assert hooks.runs() == []


def test_one_after_undoes_nothing(hooks: Hooks) -> None:
    """It fails: the certificate is in use, the others are run, and it alone is tried again, after a while."""
    hooks.write(POST, "10-mail", "echo no route; exit 1")
    hooks.write(POST, "20-reload")
    with pytest.raises(HookFailed, match="10-mail of post-activate: it ended with exit code 1: no route"):
        hooks.enrolled()
    row = hooks.row()
    assert row.state is State.ACTIVE
    assert hooks.known() == [("10-mail", HookOutcome.FAILING, 1), ("20-reload", HookOutcome.OK, 1)]
    with hooks.parts() as parts:
        assert [run.name for run in parts.journal.hooks.in_trouble()] == ["10-mail"]
    assert hooks.later(timedelta(minutes=1)) == 0
    assert hooks.later(timedelta(minutes=6)) == 1
    assert hooks.known() == [("10-mail", HookOutcome.FAILING, 2), ("20-reload", HookOutcome.OK, 1)]
    hooks.write(POST, "10-mail")
    assert hooks.later(HOUR) == 1
    assert hooks.known() == [("10-mail", HookOutcome.OK, 3), ("20-reload", HookOutcome.OK, 1)]
    assert hooks.later(DAY) == 0
    assert hooks.runs().count(f"{POST} 20-reload") == 1


def test_one_that_never_succeeds_is_given_up(hooks: Hooks) -> None:
    """After about a day of tries it stops, shows, and is run again when a person says so."""
    hooks.write(POST, "mail", "exit 1")
    with pytest.raises(HookFailed):
        hooks.enrolled()
    assert sum(hooks.later(8 * HOUR) for _ in range(20)) == MOST_TRIES - 1
    assert hooks.known() == [("mail", HookOutcome.FAILED, MOST_TRIES)]
    shown = hooks.stage.run("show", hooks.row().id)
    assert "post-activate mail" in shown.out
    assert "failed, it ended with exit code 1" in shown.out
    assert hooks.stage.run("hooks", "retry", hooks.row().id).code == 17
    hooks.write(POST, "mail")
    done = hooks.stage.run("hooks", "retry", "--json")
    assert (done.code, done.json[0]["name"], done.json[0]["outcome"]) == (0, "mail", "ok")
    assert hooks.stage.run("hooks", "retry", "--json").json == []


def test_one_that_was_overtaken_is_dropped(stage: Stage) -> None:
    """Reloading for a certificate that was replaced could put the old one back."""
    hooks, years = Hooks(stage), Years(stage)
    hooks.write(POST, "a", "exit 1")
    with pytest.raises(HookFailed):
        years.first()
    (first,) = stage.rows()
    hooks.write(POST, "a")
    years.pass_by(IN_THE_WINDOW)
    second = years.renewed(first)
    with years.parts() as parts:
        assert run_due(parts) == 1
        told = [(run.outcome, run.detail) for run in parts.journal.hooks.of(first.id)]
    assert told == [(HookOutcome.DROPPED, "the certificate is superseded by now")]
    assert hooks.known(second) == [("a", HookOutcome.OK, 1)]


def test_one_that_was_removed_is_dropped(hooks: Hooks) -> None:
    """Nobody wants it to be run any more."""
    path = hooks.write(POST, "reload", "exit 1")
    with pytest.raises(HookFailed):
        hooks.enrolled()
    path.unlink()
    assert hooks.later(HOUR) == 1
    assert [(run.outcome, run.detail) for run in hooks.of()] == [
        (HookOutcome.DROPPED, "it is not in its folder any more")
    ]


def test_a_slow_one_of_an_old_certificate_does_not_end_last(stage: Stage) -> None:
    """Generation 1 is put back while the hook of generation 2 runs: its own waits, so what is served is as in Vault."""
    hooks, years = Hooks(stage), Years(stage)
    first = years.first()
    begun, served = stage.folder / "begun", stage.folder / "served"
    hooks.write(
        POST,
        "reload",
        f'[ "$VARMENNE_GENERATION" = 1 ] || {{ touch {begun}; sleep 2; }}; echo "$VARMENNE_GENERATION" > {served}',
    )
    years.pass_by(IN_THE_WINDOW)
    renewal = threading.Thread(target=years.renewed, args=(first,))
    renewal.start()
    until(begun.exists)
    with years.parts() as parts:
        activate(parts, Listener(), years.get(first), generation=1)
    renewal.join(30)
    assert (years.record()["generation"], served.read_text("utf-8")) == (1, "1\n")
    assert [run.outcome for run in hooks.of(first)] == [HookOutcome.OK]


def test_going_back_runs_them_again(stage: Stage) -> None:
    """Each time that a certificate is put to use is an activation of its own."""
    hooks, years = Hooks(stage), Years(stage)
    hooks.write(PRE, "check")
    hooks.write(POST, "reload")
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    second = years.renewed(first)
    with years.parts() as parts:
        back = activate(parts, Listener(), second, generation=1)
    assert (back.id, back.state) == (first.id, State.ACTIVE)
    assert hooks.runs() == [f"{PRE} check", f"{POST} reload"] * 3
    assert [outcome for _name, outcome, _tries in hooks.known(first)] == [HookOutcome.OK] * 4
