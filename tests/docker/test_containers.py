"""The files of docker/: what they name exists, and what they start is accepted."""

import json
import re
import tomllib
from pathlib import Path
from urllib.request import urlopen

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from lemmse.client.health import health
from lemmse.server.command import serve
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
MANIFESTS = list(yaml.safe_load_all((DOCKER / "kubernetes" / "lemmse.yaml").read_text()))
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
DOCKERFILE = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")


def of_kind(kind):
    (found,) = (manifest for manifest in MANIFESTS if manifest["kind"] == kind)
    return found


def of_image(instruction):
    """The JSON array of an instruction in the last stage of the Dockerfile."""
    stage = DOCKERFILE[DOCKERFILE.index("AS server") :]
    return json.loads(re.search(rf"^{instruction}\b.*?(\[.*\])", stage, re.MULTILINE)[1])


def environment_of_image():
    stage = DOCKERFILE[DOCKERFILE.index("AS server") :]
    (line,) = re.findall(r"^ENV (.*)", stage, re.MULTILINE)
    return dict(pair.split("=", 1) for pair in line.split())


def effective(arguments, **environment):
    """The settings with which the image starts."""
    entry = of_image("ENTRYPOINT")
    assert entry == ["lemmse", "serve"]
    env = environment_of_image() | environment
    done = CliRunner(env=env).invoke(serve, [*arguments, "--print-config"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return tomllib.loads(done.stdout)


@pytest.fixture(scope="module")
def metrics(tiny_index):
    """The metrics of a server and their kinds."""
    config = ServerConfig(
        indexes=(tiny_index,), listen="127.0.0.1:0", threads=1, metrics_listen="127.0.0.1:0"
    )
    server = Server(config)
    with urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    server.stop(0)
    kinds = dict(line.split()[2:] for line in lines if line.startswith("# TYPE"))
    return {name: kind for name, kind in kinds.items() if not name.endswith("_created")}


def test_the_dashboard_shows_metrics_that_exist(metrics):
    panels = json.loads((DOCKER / "grafana" / "lemmse.json").read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    named = {
        name for text in expressions for name in re.findall(r"\b(?:lemmse|process|grpc_server)_\w+", text)
    }
    series = metrics.keys() | {
        name + end
        for name, kind in metrics.items()
        if kind == "histogram"
        for end in ("_bucket", "_sum", "_count")
    }
    assert len(expressions) >= 12
    assert named - series == set()


def test_the_document_lists_all_metrics_of_lemmse(metrics):
    text = (ROOT / "docs" / "operations.md").read_text()
    listed = set(re.findall(r"`((?:lemmse|grpc_server)_[a-z_]+)`", text))
    assert listed == {name for name in metrics if name.startswith(("lemmse_", "grpc_server_"))}


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
def test_kubernetes_accepts_the_example(manifest):
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_the_manifests_belong_together():
    pod = of_kind("Deployment")["spec"]["template"]
    for selector in (
        of_kind("Service")["spec"]["selector"],
        of_kind("Deployment")["spec"]["selector"]["matchLabels"],
        of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {port["targetPort"]: port["port"] for port in of_kind("Service")["spec"]["ports"]} == ports
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_the_pod_starts_and_has_time_to_stop():
    pod = of_kind("Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    said = effective(container["args"], **{entry["name"]: entry["value"] for entry in container["env"]})
    assert said["listen"] == "0.0.0.0:50051"
    assert said["insecure"] is False
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    for path in (said["tls-cert"], said["tls-key"], said["tokens"], *said["indexes"]):
        assert any(path.startswith(f"{mount}/") for mount in mounts), path
    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > sleep + said["grace"]


def test_the_probes_can_be_called():
    (container,) = of_kind("Deployment")["spec"]["template"]["spec"]["containers"]
    for probe in ("startupProbe", "readinessProbe"):
        command = container[probe]["exec"]["command"]
        assert command[:2] == ["lemmse", "health"]
        assert {word for word in command if word.startswith("--")} <= flags(health)
    check = of_image("HEALTHCHECK")
    assert check[:2] == ["lemmse", "health"]
    assert {word for word in check if word.startswith("--")} <= flags(health)


def flags(command):
    return {flag for parameter in command.params for flag in parameter.opts}


def test_compose_starts_the_image():
    service = COMPOSE["serve"]
    said = effective(service["command"], **service["environment"])
    assert said["indexes"] == ["/indexes/photos"]
    assert all(port.startswith("127.0.0.1:") for entry in COMPOSE.values() for port in entry.get("ports", ()))
    assert service["read_only"]
    assert float(service["stop_grace_period"].removesuffix("s")) > said["grace"]
    jobs = yaml.safe_load((DOCKER / "prometheus.yaml").read_text())["scrape_configs"]
    port = said["metrics-listen"].rpartition(":")[2]
    assert jobs[0]["static_configs"][0]["targets"] == [f"serve:{port}"]


def test_compose_mounts_files_that_exist():
    sources = [
        volume.split(":")[0]
        for service in COMPOSE.values()
        for volume in service.get("volumes", ())
        if volume.startswith(".")
    ]
    assert len(sources) == 4
    for source in sources:
        assert (DOCKER / source).is_file(), source


def test_what_the_image_copies_exists():
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    assert "protos" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
