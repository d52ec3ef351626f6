"""What the documents promise of metrics, alerts and the dashboard is what the real exporter of a real stage shows."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from harness.scraping import scrape
from harness.stage import Stage, Template, open_stage
from harness.years import IN_THE_WINDOW, Years
from varmenne.clock import system_clock
from varmenne.domain.concerns import Reason
from varmenne.domain.hooks import HookOutcome
from varmenne.domain.steps import State
from varmenne.errors import family
from varmenne.journal import Journal
from varmenne.measure import Part
from varmenne.monitoring import Event, exposed
from varmenne.testbench.openbao import OpenBaoServer

DOCS = Path(__file__).parents[2] / "docs"
ALERTS = DOCS / "monitoring" / "alerts.yaml"
DASHBOARD = DOCS / "monitoring" / "dashboard.json"

# What Prometheus adds by itself: labels of the target, and whether it answered.
TARGET = {"job", "instance"}
OWN = {"up": TARGET}
VALUES: dict[str, set[str]] = {
    # label: all values that it can have
    "event": {event.value for event in Event},
    "reason": {reason.value for reason in Reason if reason.person and reason is not Reason.TRUST},
    "state": {state.value for state in State},
    "outcome": {outcome.value for outcome in HookOutcome},
    "part": {part.value for part in Part},
    "error": {cls.__name__ for cls in family()},
    "job": {"varmenne"},
}


@pytest.fixture(scope="module")
def shown(
    tmp_path_factory: pytest.TempPathFactory, token_template: Template, openbao: OpenBaoServer, bench_keys: Path
) -> str:
    """Return the metrics of a stage where all that can be wrong is: so every series that there ever is, is there."""
    with open_stage(tmp_path_factory.mktemp("troubled"), token_template, openbao, bench_keys) as stage:
        return _troubled(stage)


def _troubled(stage: Stage) -> str:
    """Make trouble of each kind, and return the metrics."""
    years = Years(stage)
    place = f"unix:{stage.folder / 'metrics.sock'}"
    stage.configure(metrics={"listen": place})
    with exposed(stage.settings, lambda: Journal(stage.state_dir), lambda: system_clock() + years.passed):
        years.first()
        stage.bench.state.fault("drop-after-receipt")
        order = stage.order("7017233-8")
        stage.run("enroll", "--customer-id", "7017233-8", "--credentials", stage.credentials_file(order))
        years.once()
        with years.parts() as parts:
            (row,) = (one for one in parts.journal.list() if one.state is State.ACTIVE)
            good = {"at": "2026-11-24T00:00:00Z", "ok": True, "failed": {}}
            parts.journal.commit(row, parts.now, State.ACTIVE, step="rehearse", changes={"rehearsal": good})
        years.pass_by(IN_THE_WINDOW)
        stage.bench.state.fault("http-503")
        years.once()
        years.pass_by(years.passed / 1000)
        return scrape(place)


@pytest.fixture(scope="module")
def labels(shown: str) -> dict[str, set[str]]:
    """Return the name of each series → its labels."""
    found: dict[str, set[str]] = defaultdict(set)
    for metric in text_string_to_metric_families(shown):
        for sample in metric.samples:
            found[sample.name] |= sample.labels.keys()
    return found


def test_the_table_of_metrics_is_what_is_shown(shown: str) -> None:
    """Name, labels and meaning of each; no more and no less."""
    table = {}
    for line in (DOCS / "monitoring.md").read_text().splitlines():
        if match := re.fullmatch(r"\| `(varmenne_\w+)` \| (.*?) ?\| (.*) \|", line):
            table[match[1]] = (frozenset(re.findall(r"`(\w+)`", match[2])), match[3])
    real = {}
    for metric in text_string_to_metric_families(shown):
        if metric.name.startswith("varmenne_"):
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            its = frozenset(label for sample in metric.samples for label in sample.labels) - {"le"}
            real[name] = (its, metric.documentation)
    assert table == real


def _expressions() -> Iterator[tuple[str, str]]:
    """Yield where each PromQL expression stands, and the expression."""
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]


EXPRESSIONS = dict(_expressions())


def _parsed(expression: str) -> Any:
    """Parse an expression, with Grafana's variables replaced as Grafana does it."""
    return promql.parse(expression.replace("$__rate_interval", "5m").replace("$environment", "test|production"))


def _nodes(node: Any) -> Iterator[Any]:
    """Yield an expression and all that it is made of."""
    yield node
    inner = [getattr(node, name, None) for name in ("lhs", "rhs", "expr", "param", "vector_selector")]
    for child in [*inner, *getattr(node, "args", [])]:
        if isinstance(child, promql.Expr):
            yield from _nodes(child)


def _selectors(expression: str) -> list[Any]:
    return [node for node in _nodes(_parsed(expression)) if isinstance(node, promql.VectorSelector)]


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_every_query_asks_for_what_there_is(where: str, labels: dict[str, set[str]]) -> None:
    """Each metric, each label that is matched or grouped by, and each value of a closed vocabulary exists."""
    selectors = _selectors(EXPRESSIONS[where])
    known = {**labels, **OWN}
    assert selectors
    assert {selector.name for selector in selectors} <= known.keys()
    for selector in selectors:
        matchers = selector.matchers.matchers
        assert {matcher.name for matcher in matchers} <= known[selector.name] | TARGET
        for matcher in matchers:
            allowed = VALUES.get(matcher.name, {matcher.value, *matcher.value.split("|")})
            assert set(matcher.value.split("|")) <= allowed, matcher
    every = set.union(*(known[selector.name] for selector in selectors)) | TARGET
    for node in _nodes(_parsed(EXPRESSIONS[where])):
        modifier = getattr(node, "modifier", None)
        if isinstance(modifier, promql.AggModifier):
            assert set(modifier.labels) <= every


def test_the_check_of_queries_finds_what_is_wrong(labels: dict[str, set[str]]) -> None:
    """It sees selectors inside functions, ranges, both sides and parentheses."""
    found = _selectors("(rate(a[5m]) > b) or sum by (x) (histogram_quantile(0.9, c{y='z'}))")
    assert [selector.name for selector in found] == ["a", "b", "c"]
    assert [matcher.name for matcher in found[2].matchers.matchers] == ["y"]
    assert "varmenne_nonsense" not in labels


def test_alerts_say_what_to_do_by_labels_that_they_have(labels: dict[str, set[str]]) -> None:
    """Each has a severity, a summary and a next step, and a line in the documentation."""
    text = (DOCS / "monitoring.md").read_text()
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    for rule in rules:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "description"}
        kept = set.union(*({**labels, **OWN}[selector.name] for selector in _selectors(rule["expr"]))) | TARGET
        for node in _nodes(_parsed(rule["expr"])):
            if isinstance(node, promql.AggregateExpr):
                kept &= set() if node.modifier is None else set(node.modifier.labels)
        used = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        assert used <= kept, rule["alert"]
        assert f"`{rule['alert']}`" in text
    assert set(re.findall(r"`(Varmenne\w+)`", text)) == {rule["alert"] for rule in rules}


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    """Panels have IDs of their own, do not lie on each other, and take their data source from the variable."""
    board = json.loads(DASHBOARD.read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _y in cells) == 23
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "environment"}
    assert all(panel["title"] and panel["description"] for panel in panels)


def test_the_example_of_settings_is_read(stage: Stage) -> None:
    """The table in the documentation is one that the settings take."""
    import tomllib

    text = (DOCS / "monitoring.md").read_text()
    example = tomllib.loads(re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0])
    stage.configure(**example)
    assert stage.settings.metrics.listen == example["metrics"]["listen"]
    (scraping,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (job,) = yaml.safe_load(scraping)["scrape_configs"]
    assert (job["job_name"], job["static_configs"][0]["targets"]) == ("varmenne", [example["metrics"]["listen"]])
