#!/usr/bin/env python3
"""Checks the dashboard and the alert rules against a running Prometheus; part of docker/stack-test.sh.

    docker/stack-check.py queries URL           every query of the dashboard returns data, every alert rule evaluates
    docker/stack-check.py fires URL ALERT       waits until the alert fires
    docker/stack-check.py resolves URL ALERT    waits until it does not fire any more
"""
import json
import pathlib
import re
import sys
import time
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
PATIENCE = 90


def get(url, path, **parameters):
    query = urllib.parse.urlencode(parameters)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}{path}?{query}", timeout=10) as response:
            return json.load(response)["data"]
    except urllib.error.HTTPError as error:
        sys.exit(f"stack-test: FAILED: {parameters}: {error.read().decode()}")


def queries(dashboard):
    """Yields panel title and query of each target, with Grafana's variables replaced as for "All"."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expression = re.sub(r"\$(model|variant|instance)\b", ".*", target["expr"])
            yield panel["title"], expression.replace("$__rate_interval", "1m")
    for variable in dashboard["templating"]["list"]:
        metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
        yield f"variable {variable['name']}", f"count by ({label}) ({metric})"


def has_data(url, expression):
    result = get(url, "/api/v1/query", query=expression)["result"]
    return any(sample["value"][1] != "NaN" for sample in result)


def check_queries(url):
    dashboard = json.loads((ROOT / "docker/grafana/sightline.json").read_text())
    all_queries = list(queries(dashboard))
    missing, end = all_queries, time.monotonic() + PATIENCE
    while missing and time.monotonic() < end:
        missing = [(title, query) for title, query in missing if not has_data(url, query)]
        time.sleep(2 if missing else 0)
    if missing:
        sys.exit("stack-test: FAILED: no data for " + "; ".join(f"{title}: {query}" for title, query in missing))
    print(f"stack-test: all {len(all_queries)} queries of the dashboard return data")


def check_rules(url):
    groups = get(url, "/api/v1/rules", type="alert")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    expected = (ROOT / "docker/alerts.yml").read_text().count("- alert:")
    if len(rules) != expected:
        sys.exit(f"stack-test: FAILED: {len(rules)} alert rules instead of {expected}")
    runbook = (ROOT / "docs/deploy.md").read_text().lower()
    for rule in rules:
        get(url, "/api/v1/query", query=rule["query"])
        if rule["health"] != "ok":
            sys.exit(f"stack-test: FAILED: {rule['name']}: {rule['health']} {rule.get('lastError', '')}")
        if rule["annotations"]["runbook_url"] != f"docs/deploy.md#{rule['name'].lower()}":
            sys.exit(f"stack-test: FAILED: {rule['name']}: unexpected runbook_url")
        if f"### {rule['name'].lower()}\n" not in runbook:
            sys.exit(f"stack-test: FAILED: docs/deploy.md has no section {rule['name']}")
    # How fast the test's machine is is not known, so the alerts of latency may be right.
    slow = {"SightlineSlow", "SightlineQueueWait"}
    firing = [rule["name"] for rule in rules if rule["state"] == "firing" and rule["name"] not in slow]
    if firing:
        sys.exit(f"stack-test: FAILED: alerts of a healthy server fire: {firing}")
    print(f"stack-test: all {len(rules)} alert rules evaluate and have a runbook, and none of errors fires")


def wait(url, alert, firing):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        alerts = get(url, "/api/v1/alerts")["alerts"]
        found = any(a["labels"]["alertname"] == alert and a["state"] == "firing" for a in alerts)
        if found == firing:
            print(f"stack-test: {alert} {'fires' if firing else 'is resolved'}")
            return
        time.sleep(1)
    sys.exit(f"stack-test: FAILED: {alert} does not {'fire' if firing else 'resolve'}")


if __name__ == "__main__":
    action, server, *names = sys.argv[1:]
    if action == "queries":
        check_queries(server)
        # The rules are evaluated every few seconds.
        time.sleep(6)
        check_rules(server)
    else:
        wait(server, names[0], action == "fires")
