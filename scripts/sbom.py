#!/usr/bin/env python3
"""Prints the software bill of materials of the server in the format CycloneDX 1.5 (JSON).

    scripts/sbom.py [--target TRIPLE] [--library libonnxruntime.so]

It has every crate that is compiled into the binary, from Cargo.lock, and ONNX Runtime. Equal sources give equal output.
"""
import argparse
import hashlib
import json
import pathlib
import re
import subprocess
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent


def metadata(target):
    """Returns the resolved dependencies, as `cargo metadata` prints them, for one platform."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def host():
    text = subprocess.run(["rustc", "-vV"], check=True, stdout=subprocess.PIPE, text=True).stdout
    return re.search(r"^host: (.*)$", text, re.M)[1]


def compiled(data, root):
    """Returns the ids of the packages that are linked into `root`, and the dependencies of each."""
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    edges, waiting = {}, [root]
    while waiting:
        package = waiting.pop()
        if package in edges:
            continue
        normal = lambda dep: any(kind["kind"] is None for kind in dep["dep_kinds"])
        edges[package] = sorted(dep["pkg"] for dep in nodes[package]["deps"] if normal(dep))
        waiting.extend(edges[package])
    return edges


def checksums():
    """Returns the SHA-256 of each crate in Cargo.lock."""
    pattern = r'name = "(.*)"\nversion = "(.*)"\nsource = ".*"\nchecksum = "(.*)"'
    found = re.findall(pattern, (ROOT / "Cargo.lock").read_text())
    return {(name, version): digest for name, version, digest in found}


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, digests):
    entry = {"type": "library", "bom-ref": purl(package), "name": package["name"], "version": package["version"],
             "purl": purl(package)}
    if package.get("license"):
        # Old crates separate alternatives by a slash.
        entry["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    digest = digests.get((package["name"], package["version"]))
    if digest:
        entry["hashes"] = [{"alg": "SHA-256", "content": digest}]
    return entry


def onnxruntime(library):
    """Returns the component of the library, whose file name has the version."""
    real = library.resolve()
    version = re.search(rb"\b(1\.\d+\.\d+)\b", real.name.encode())
    script = (ROOT / "scripts/fetch-onnxruntime.sh").read_text()
    version = version[1].decode() if version else re.search(r"VERSION[:=\-\"]*(\d+\.\d+\.\d+)", script)[1]
    reference = f"pkg:generic/onnxruntime@{version}"
    return {"type": "library", "bom-ref": reference, "name": "onnxruntime", "version": version, "purl": reference,
            "licenses": [{"license": {"id": "MIT"}}],
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(real.read_bytes()).hexdigest()}]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default=None, help="platform [default: this machine's]")
    parser.add_argument("--library", type=pathlib.Path, help="ONNX Runtime library to include")
    args = parser.parse_args()
    data = metadata(args.target or host())
    packages = {package["id"]: package for package in data["packages"]}
    root = next(id for id, package in packages.items() if package["name"] == "sightline" and package["source"] is None)
    edges = compiled(data, root)
    digests = checksums()
    components = [component(packages[id], digests) for id in edges if id != root]
    dependencies = [{"ref": purl(packages[id]), "dependsOn": [purl(packages[dep]) for dep in deps]}
                    for id, deps in edges.items()]
    if args.library:
        library = onnxruntime(args.library)
        components.append(library)
        own = next(entry for entry in dependencies if entry["ref"] == purl(packages[root]))
        own["dependsOn"].append(library["bom-ref"])
    components.sort(key=lambda entry: entry["bom-ref"])
    dependencies.sort(key=lambda entry: entry["ref"])
    application = component(packages[root], {}) | {"type": "application"}
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(components, sort_keys=True))
    print(json.dumps({"bomFormat": "CycloneDX", "specVersion": "1.5", "serialNumber": f"urn:uuid:{serial}", "version": 1,
                      "metadata": {"component": application}, "components": components,
                      "dependencies": dependencies}, indent=1))


main()
