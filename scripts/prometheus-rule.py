#!/usr/bin/env python3
"""Prints the alert rules of docker/alerts.yml as a PrometheusRule, for the Prometheus operator.

    scripts/prometheus-rule.py > docker/kubernetes/components/monitoring/prometheusrule.yaml
"""
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
HEAD = """\
# Made by scripts/prometheus-rule.py from docker/alerts.yml.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: sightline
spec:
"""

lines = (ROOT / "docker/alerts.yml").read_text().splitlines()
rules = lines[lines.index("groups:"):]
print(HEAD + "\n".join(f"  {line}" if line else "" for line in rules))
