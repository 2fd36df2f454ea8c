#!/usr/bin/env python3
"""Validates Kubernetes objects, and checks what schemas cannot say.

    validate.py VERSION NAME FILE...        FILE: YAML documents, `-` for stdin

Objects of Kubernetes itself are checked against the schemas of the package kubernetes-validate, without unknown fields.
Custom resources are checked against crds.json beside this file, which has the documented fields that our manifests may
use. Every pod must satisfy the restricted Pod Security Standard and have time to drain.
"""
import json
import pathlib
import re
import sys

import jsonschema
import kubernetes_validate
import yaml

CUSTOM = json.loads((pathlib.Path(__file__).parent / "crds.json").read_text())


def schema_errors(version, item):
    kind = f"{item['apiVersion']}/{item['kind']}"
    if kind in CUSTOM["kinds"]:
        validator = jsonschema.Draft202012Validator({**CUSTOM["kinds"][kind], "$defs": CUSTOM["$defs"]})
        return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(item)]
    try:
        kubernetes_validate.validate(item, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    except Exception as error:
        return [f"no schema: {error}"]
    return []


def pod_errors(item):
    """Checks the pods of a Deployment: the restricted profile, limits, and the time to drain."""
    pod = item["spec"]["template"]["spec"]
    security = pod.get("securityContext", {})
    if not security.get("runAsNonRoot") or security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "the pod may run as root, or has no seccomp profile"
    if pod.get("automountServiceAccountToken") is not False:
        yield "the pod has a token for Kubernetes' API"
    for container in pod["containers"] + pod.get("initContainers", []):
        own = container.get("securityContext", {})
        if (own.get("allowPrivilegeEscalation") is not False or own.get("capabilities", {}).get("drop") != ["ALL"]
                or not own.get("readOnlyRootFilesystem")):
            yield f"container {container['name']} does not satisfy the restricted profile"
        if not {"cpu", "memory"} <= container.get("resources", {}).get("limits", {}).keys():
            yield f"container {container['name']} has no limits"
        mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        if not mounts <= volumes:
            yield f"container {container['name']} mounts {mounts - volumes}, which do not exist"
    server = pod["containers"][0]
    delay = next(env["value"] for env in server["env"] if env["name"] == "SIGHTLINE_DRAIN_DELAY")
    # The grace period of the server is 30 s.
    if pod["terminationGracePeriodSeconds"] < int(re.fullmatch(r"(\d+)s", delay)[1]) + 30:
        yield f"terminationGracePeriodSeconds is shorter than the drain delay {delay} and 30 s"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        if server[probe]["httpGet"]["port"] != "admin":
            yield f"{probe} does not ask the admin port"


def selector_errors(items):
    """Checks that each Service selects the pods of a Deployment."""
    pods = [item["spec"]["template"]["metadata"]["labels"] for item in items if item["kind"] == "Deployment"]
    for item in items:
        if item["kind"] == "Service" and pods:
            selector = item["spec"].get("selector", {})
            if not selector or not any(selector.items() <= labels.items() for labels in pods):
                yield f"Service {item['metadata']['name']} selects no pods: {selector}"


def main():
    version, name, *files = sys.argv[1:]
    texts = [sys.stdin.read() if file == "-" else pathlib.Path(file).read_text() for file in files]
    items = [item for text in texts for item in yaml.safe_load_all(text) if item]
    errors = []
    for item in items:
        found = schema_errors(version, item)
        if item["kind"] == "Deployment":
            found += pod_errors(item)
        errors += [f"{item['kind']} {item['metadata']['name']}: {error}" for error in found]
    errors += selector_errors(items)
    if errors or not items:
        sys.exit("manifests-test: FAILED: " + name + "\n  " + "\n  ".join(errors or ["no objects"]))
    print(f"manifests-test: {name}: {len(items)} valid objects")


main()
