"""The files of the deployment agree with each other and with what the program knows. No container is started."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import click
import pytest
import yaml
from moto import mock_aws

from config.settings import Settings
from config.values import duration
from console.cli import cli
from deploy.compose import make_buckets
from tests.readme import ROOT
from worker.metrics import COUNTERS, GAUGES, HISTOGRAMS, PREFIX

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("mediamill:")]
ONCE = [name for name in OURS if SERVICES[name]["restart"] == "no"]
WORKERS = [name for name in OURS if name not in ONCE]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def interpolated(value: object, environ: Mapping[str, str]) -> str:
    """What compose makes of `${NAME:-default}`."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: environ.get(found[1]) or found[2], str(value))


def image_environment() -> dict[str, str]:
    """What the Dockerfile's ENV lines say of our settings."""
    return dict(re.findall(r"(MEDIAMILL_\w+)=(\S+)", DOCKERFILE))


def environment(service: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Of a container of ours."""
    own = {name: interpolated(value, environ) for name, value in SERVICES[service]["environment"].items()}
    return image_environment() | own


def variables(value: object) -> Iterator[str]:
    """Every `${...}` in a part of the compose file."""
    if isinstance(value, dict):
        for each in value.values():
            yield from variables(each)
    elif isinstance(value, list):
        for each in value:
            yield from variables(each)
    else:
        yield from re.findall(r"\$\{[^}]*\}", str(value))


@pytest.mark.parametrize("service", OURS)
def test_the_settings_of_a_container_are_settings_that_fit_together(service: str) -> None:
    settings = Settings.load(environment(service, {}), []).settings
    assert settings.database_url == "postgresql://mediamill@postgres:5432/mediamill"
    assert settings.kafka_bootstrap == "kafka:19092"
    assert str(settings.home) == "/var/lib/mediamill"
    assert str(settings.models) == "/models"
    assert settings.http_address == ("0.0.0.0", 9321)  # noqa: S104 of the container


def test_a_value_from_outside_reaches_the_settings() -> None:
    given = {"MEDIAMILL_CATALOGUE": "small", "MEDIAMILL_SANDBOX": "required", "MEDIAMILL_MODEL_ROLES": '["caption"]'}
    settings = Settings.load(environment("worker", given), []).settings
    assert (settings.catalogue, settings.sandbox) == ("small", "required")
    # What is pulled goes by them too.
    pulling = Settings.load(environment("checkpoints", given), []).settings
    assert settings.model_roles == pulling.model_roles == ("caption",)


def test_nothing_has_to_be_set_and_what_can_be_is_said_at_the_top() -> None:
    found = set(variables({key: value for key, value in COMPOSE.items() if key == "services"}))
    assert [each for each in found if ":-" not in each] == []
    top = (ROOT / "docker-compose.yml").read_text(encoding="utf-8").partition("\nname:")[0]
    assert [each for each in found if each[2:].partition(":-")[0] not in top] == []


def test_both_sides_of_a_service_are_given_the_same_credentials() -> None:
    worker, kafka = SERVICES["worker"]["environment"], SERVICES["kafka"]["environment"]
    assert worker["PGPASSWORD"] == SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"]
    assert worker["AWS_ACCESS_KEY_ID"] == SERVICES["rustfs"]["environment"]["RUSTFS_ACCESS_KEY"]
    assert worker["AWS_SECRET_ACCESS_KEY"] == SERVICES["rustfs"]["environment"]["RUSTFS_SECRET_KEY"]
    assert f"PLAINTEXT://{worker['MEDIAMILL_KAFKA_BOOTSTRAP']}," in kafka["KAFKA_ADVERTISED_LISTENERS"]


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_is_pinned_to_a_version(service: str) -> None:
    _, _, tag = SERVICES[service]["image"].partition(":")
    assert re.match(r"v?\d+\.\d+\.\d+(-|$)", tag), f"{service} would change by itself"


def test_our_own_image_has_the_version_of_the_package() -> None:
    version = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert {SERVICES[name]["image"] for name in OURS} == {f"mediamill:{version[0]}"}


def test_the_stages_of_the_dockerfile_have_one_pinned_python_and_the_target_exists() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    names = {name for _, name in stages}
    outside = {image for image, _ in stages if image not in names}
    assert len(outside) == 1
    assert re.fullmatch(r"python:3\.1[12]\.\d+-slim-bookworm", outside.pop())
    assert {SERVICES[name]["build"]["target"] for name in OURS} <= names


def test_everything_that_the_image_is_made_of_is_let_through() -> None:
    let_through = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    [packages] = re.findall(r"^module-name = (\[.+\])$", project, re.MULTILINE)
    assert set(json.loads(packages)) | {"pyproject.toml", "README.md", "LICENSE", "requirements"} == set(let_through)
    assert [name for name in let_through if not (ROOT / name).exists()] == []
    copied = re.findall(r"requirements/\S+\.txt", DOCKERFILE)
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("service", SERVICES)
def test_ports_are_reachable_from_this_machine_only(service: str) -> None:
    assert [port for port in SERVICES[service].get("ports", []) if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_service_waits_for_can_tell_that_it_is_ready_or_comes_to_an_end(service: str) -> None:
    for name, how in SERVICES[service].get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            assert "test" in SERVICES[name]["healthcheck"], f"{name} has no health check"
        else:
            assert how["condition"] == "service_completed_successfully"
            assert name in ONCE, f"{name} does not come to an end"


@pytest.mark.parametrize("service", WORKERS)
def test_a_worker_starts_after_the_set_up_and_has_the_time_to_drain(service: str) -> None:
    needed = {name for name, how in SERVICES[service]["depends_on"].items() if "completed" in how["condition"]}
    assert needed == set(ONCE)
    grace = Settings.load(environment(service, {}), []).settings.drain_grace_s
    assert duration(SERVICES[service]["stop_grace_period"]) >= grace + 45


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_comes_back_after_a_failure_and_its_log_does_not_fill_the_disk(service: str) -> None:
    assert SERVICES[service]["restart"] == ("no" if service in ONCE else "unless-stopped")
    assert {"max-size", "max-file"} <= SERVICES[service]["logging"]["options"].keys()


@pytest.mark.parametrize("service", OURS)
def test_a_container_of_ours_has_no_privileges(service: str) -> None:
    assert SERVICES[service]["cap_drop"] == ["ALL"]
    assert "cap_add" not in SERVICES[service]
    assert "no-new-privileges:true" in SERVICES[service]["security_opt"]
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"] * 2


@pytest.mark.parametrize("service", SERVICES)
def test_data_lies_in_volumes_that_are_declared_and_files_that_are_mounted_exist(service: str) -> None:
    for mount in SERVICES[service].get("volumes", []):
        source, target = mount.split(":")[:2]
        assert target.startswith("/")
        if source.startswith("."):
            assert (ROOT / source).exists()
        else:
            assert source in COMPOSE["volumes"]


@pytest.mark.parametrize("service", OURS)
def test_a_container_of_ours_runs_a_command_that_exists(service: str) -> None:
    if "entrypoint" in SERVICES[service]:
        files = [part for part in SERVICES[service]["entrypoint"] if part.startswith("/")]
        mounted = {mount.split(":")[1] for mount in SERVICES[service]["volumes"]}
        assert set(files) <= mounted
    else:
        assert SERVICES[service]["command"][0] in cli.list_commands(None)  # type: ignore[arg-type]


def test_the_system_calls_that_the_sandbox_needs_are_not_refused() -> None:
    [file] = {
        option.partition("=")[2]
        for name in WORKERS
        for option in SERVICES[name]["security_opt"]
        if option.startswith("seccomp=")
    }
    profile = json.loads((ROOT / file).read_text(encoding="utf-8"))
    refused = {name for rule in profile["syscalls"] for name in rule["names"]}
    assert profile["defaultAction"] == "SCMP_ACT_ALLOW"
    assert {rule["action"] for rule in profile["syscalls"]} == {"SCMP_ACT_ERRNO"}
    assert refused.isdisjoint({"clone", "clone3", "unshare", "mount", "umount2", "pivot_root", "prctl", "capset"})
    assert refused >= {
        "bpf",
        "keyctl",
        "kexec_load",
        "init_module",
        "userfaultfd",
        "open_by_handle_at",
        "perf_event_open",
    }


@mock_aws
def test_buckets_are_made_where_they_are_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"STORE": "s3", "S3_REGION": "us-east-1", "OUTPUT_PREFIX": "s3://media/derived/"}
    for name, value in {**given, "S3_BUCKETS": '{"media/in/": "r", "media/derived/": "rw", "other": "r"}'}.items():
        monkeypatch.setenv(f"MEDIAMILL_{name}", value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    assert make_buckets.main() == make_buckets.main() == 0
    said = ["media: made", "other: made", "media: there already", "other: there already"]
    assert capsys.readouterr().out.splitlines() == said


def test_prometheus_asks_services_that_exist_at_the_port_of_health() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    [job] = config["scrape_configs"]
    [found] = job["dns_sd_configs"]
    assert set(found["names"]) == set(WORKERS)
    assert found["port"] == Settings.load(environment("worker", {}), []).settings.http_address[1]  # type: ignore[index]
    assert config["rule_files"] == ["alerts.yml"]
    assert {re.findall(r'job="(\w+)"', rule["expr"])[0] for rule in RULES if "job=" in rule["expr"]} == {
        job["job_name"]
    }


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alarm_asks_for_metrics_and_labels_that_exist(rule: dict[str, Any]) -> None:
    declared = {
        f"{PREFIX}_{name}": set(one.labels) for kind in (COUNTERS, GAUGES, HISTOGRAMS) for name, one in kind.items()
    }
    asked = re.findall(rf"({PREFIX}_\w+?)(?:_bucket)?(?:\{{([^}}]*)\}}|\b(?!\w))", rule["expr"])
    for name, selectors in asked:
        assert name in declared
        assert set(re.findall(r"(\w+)[!=~]+\"", selectors)) <= declared[name]
    known = {"instance", "job", "le"}.union(*(declared[name] for name, _ in asked))
    assert {label for labels in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in labels.split(", ")} <= known
    assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= known
    assert rule["labels"]["severity"] in {"page", "warn"}


def test_every_alarm_has_its_place_in_the_documents_and_no_other_is_there() -> None:
    explained = re.findall(r"^\*\*(Mediamill\w+)\.\*\*", OPERATIONS, re.MULTILINE)
    assert sorted(explained) == sorted(rule["alert"] for rule in RULES)


def commands() -> list[str]:
    """Every command line of ours in the document, in its blocks and in its sentences."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", OPERATIONS, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    text = re.sub(r"^```.*?^```$", "", OPERATIONS, flags=re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`(mediamill [^`]+)`", text)
    return sorted({found[0] for line in lines + spans if (found := re.findall(r"(?:^|\s)(mediamill .*)", line))})


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_document_exists_with_its_options(line: str) -> None:
    command: click.Command = cli
    words = shlex.split(line, comments=True)[1:]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words.pop(0))
        assert found is not None, line
        command = found
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known | {"--help"}
