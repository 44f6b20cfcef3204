"""`cars metrics`: what Prometheus reads, and that the metrics that alerts name move when something is wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from jobs import Client
from jobs.backend import Backend as Operations
from jobs.cli.metrics_server import make
from jobs.errors import SettingsInvalid
from jobs.metrics import Exposition
from jobs.settings import load
from tests.support.backends import Backend, embedded
from tests.support.engines import SCRIPTED
from tests.support.pages import blocks
from tests.support.processes import CHECKOUT, WorkerProcess, environment, wait_until

PAGE = (CHECKOUT / "docs" / "operations.md").read_text()
RULES = [rule for rule in map(yaml.safe_load, blocks(PAGE, "yaml")) if "groups" in rule]


def samples(exposition: Exposition) -> dict[str, float]:
    """Return the values by name and labels, such as `cars_workers{queue="classify",state="gone"}`."""
    found = {}
    for family in text_string_to_metric_families(exposition.text().decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def reaches(exposition: Exposition, name: str, value: float) -> bool:
    """Return whether a metric has this value now."""
    return samples(exposition)[name] == value


def test_every_metric_is_parsed_and_begins_with_cars(backend: Backend) -> None:
    with Client() as client:
        families = list(text_string_to_metric_families(client.metrics().text().decode()))
    assert len(families) > 15
    assert [family.name for family in families if not family.name.startswith("cars_")] == []
    assert [family.name for family in families if not family.documentation.endswith(".")] == []


def test_a_growing_backlog_and_a_killed_worker_move_what_the_alerts_name(
    backend: Backend, worker: Callable[..., WorkerProcess], photos: Callable[..., Path], tmp_path: Path
) -> None:
    (gate := tmp_path / "gate").touch()  # while it is there, no image is done
    engine = {"CARS_ENGINE": "tests.support.gated_engine:GatedEngine", "GATE": str(gate)}
    env = {**backend.env, **engine, "CARS_BATCH_SIZE": "1"}
    worker(env, "--queues", "control")
    stuck = worker(env, "--queues", "classify")
    with Client() as client:
        exposition = client.metrics()
        assert samples(exposition)['cars_workers{queue="classify",state="gone"}'] == 0
        assert samples(exposition)["cars_backlog_age_seconds"] == 0
        for number, backlog in ((5, 5), (7, 12)):
            client.submit(photos(number, folder=tmp_path / f"photos{number}"))
            wait_until(partial(reaches, exposition, "cars_backlog_images", backlog), message="the backlog")
        busy = samples(exposition)
        assert busy["cars_backlog_age_seconds"] > 0
        assert busy['cars_jobs{state="running"}'] == 2
        assert busy['cars_images{status="pending"}'] == 12
        wait_until(partial(reaches, exposition, 'cars_batches_in_flight{state="leased"}', 1))
        wait_until(partial(reaches, exposition, 'cars_workers{queue="classify",state="working"}', 1))
        stuck.kill_all()
        wait_until(partial(reaches, exposition, 'cars_workers{queue="classify",state="gone"}', 1), timeout=60)
        assert samples(exposition)['cars_workers{queue="classify",state="working"}'] == 0


@embedded
def test_what_was_processed_is_counted_once_and_never_falls(
    backend: Backend, worker: Callable[..., WorkerProcess], photos: Callable[..., Path], tmp_path: Path
) -> None:
    worker({**backend.env, **SCRIPTED})
    with Client() as client:
        client.submit(photos(2, folder=tmp_path / "before")).wait(timeout=60)
        exposition = client.metrics()
        assert samples(exposition)['cars_images_processed_total{status="ok"}'] == 0, "it counts from its start"
        folder = photos(3, folder=tmp_path / "after")
        (folder / "broken.jpg").write_bytes(b"no image")
        job = client.submit(folder)
        job.wait(timeout=60)
        counted = samples(exposition)
        assert counted['cars_images_processed_total{status="ok"}'] == 3
        assert counted['cars_images_processed_total{status="failed"}'] == 1
        assert counted['cars_images{status="ok"}'] == 5
        assert counted['cars_images_failed{code="undecodable"}'] == 1
        job.delete()
        after = samples(exposition)
    assert after['cars_images{status="ok"}'] == 2
    assert after['cars_images_processed_total{status="ok"}'] == 3


@embedded
def test_a_lost_lease_and_the_time_of_the_engine_are_counted(
    backend: Backend, worker: Callable[..., WorkerProcess], photos: Callable[..., Path], tmp_path: Path
) -> None:
    (gate := tmp_path / "gate").touch()
    engine = {"CARS_ENGINE": "tests.support.gated_engine:GatedEngine", "GATE": str(gate)}
    busy = worker({**backend.env, **engine}, "--queues", "classify,control", "--concurrency", "1")
    with Client() as client:
        exposition = client.metrics()
        assert samples(exposition)["cars_leases_reclaimed_total"] == 0
        job = client.submit(photos(2))
        wait_until(partial(reaches, exposition, 'cars_batches_in_flight{state="leased"}', 1))
        for child in busy.child_pids():
            os.kill(child, signal.SIGKILL)
        wait_until(partial(reaches, exposition, "cars_leases_reclaimed_total", 1), message="the lost lease")
        assert samples(exposition)["cars_engine_seconds_total"] == 0, "nothing is committed yet"
        gate.unlink()
        job.wait(timeout=60)
        counted = samples(exposition)
        assert 0 < counted["cars_engine_seconds_total"] < 60
        assert counted["cars_leases_reclaimed_total"] == 1
        job.delete()
        after = samples(exposition)
    assert after["cars_engine_seconds_total"] == counted["cars_engine_seconds_total"]
    assert after["cars_leases_reclaimed_total"] == 1


@embedded
def test_a_missed_schedule_and_a_notification_that_waits_move_what_the_alerts_name(
    backend: Backend, photos: Callable[..., Path]
) -> None:
    with Client(settings=load(notify_hosts="127.0.0.1:9")) as client:
        exposition = client.metrics()
        assert samples(exposition)["cars_schedule_lag_seconds"] == 0
        folder = photos(1)
        client.schedules.add("nightly", folder, every="5s")  # and no worker is there that would fire it
        wait_until(lambda: samples(exposition)["cars_schedule_lag_seconds"] > 0, message="the schedule's lag")
        client.schedules.pause("nightly")
        assert samples(exposition)["cars_schedule_lag_seconds"] == 0
        assert samples(exposition)["cars_notifications_pending"] == 0
        client.submit(folder, notify="http://127.0.0.1:9/").cancel()
        assert samples(exposition)["cars_notifications_pending"] == 1


def test_a_database_that_does_not_answer_is_a_metric(home: Path) -> None:
    unreachable = Operations(load(database_url="postgresql://nobody@127.0.0.1:1/none"))
    assert samples(Exposition(unreachable)) == {"cars_database_up": 0.0}
    unreachable.close()


@contextmanager
def served(env: Mapping[str, str], *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `cars metrics` on a free port; yield its address and the process."""
    command = [sys.executable, "-P", "-m", "jobs.cli", "metrics", "--port", "0", *options]
    process = subprocess.Popen(command, env=environment(env), stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://\S+(:\d+)/metrics", line)
        assert found, line + process.stderr.read()
        yield f"http://127.0.0.1{found[1]}", process
    finally:
        process.kill()
        process.communicate()


def test_the_command_serves_until_it_is_stopped(home: Path) -> None:
    with served({}) as (address, process):
        answer = httpx.get(f"{address}/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert "cars_database_up 1.0" in answer.text
        assert httpx.get(f"{address}/healthz").text == "ok\n"
        assert httpx.get(f"{address}/other").status_code == 404
        assert httpx.post(f"{address}/metrics").status_code == 404
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM


def test_other_machines_need_the_token(home: Path) -> None:
    token = "a secret of many characters"
    with served({"CARS_WEB_TOKEN": token}, "--host", "0.0.0.0") as (address, _):
        assert httpx.get(f"{address}/healthz").status_code == 200
        for wrong in (None, "Bearer other", f"Basic {token}", token):
            headers = {} if wrong is None else {"Authorization": wrong}
            assert httpx.get(f"{address}/metrics", headers=headers).status_code == 401
        assert httpx.get(f"{address}/metrics", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_without_a_token_only_this_machine_is_served(home: Path) -> None:
    with Client() as client, pytest.raises(SettingsInvalid, match="set CARS_WEB_TOKEN to a secret"):
        make(client.metrics(), host="0.0.0.0", port=0, token=None)


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\bcars_\w+", expression))


@embedded
def test_alerts_and_dashboard_name_metrics_that_there_are(backend: Backend) -> None:
    with Client() as client:
        there = {
            f"{family.name}_total" if family.type == "counter" else family.name
            for family in text_string_to_metric_families(client.metrics().text().decode())
        }
    (groups,) = RULES
    rules = [rule for group in groups["groups"] for rule in group["rules"]]
    assert len(rules) >= 5
    for rule in rules:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smh]", rule["for"])
        assert names_in(rule["expr"])
        assert names_in(rule["expr"]) <= there
        assert rule["expr"].count("(") == rule["expr"].count(")")
    dashboard = json.loads((CHECKOUT / "docs" / "dashboards" / "cars.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert set().union(*map(names_in, expressions)) <= there
    assert names_in(PAGE) <= there
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
