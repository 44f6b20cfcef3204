"""The command line, with a client that answers from memory: output, exit codes, what is passed on."""

import errno
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from jobs.cli.app import COMMANDS, app
from jobs.errors import KeyInUse, SettingsInvalid
from jobs.records import CheckResult, Result, SkippedSuffix
from jobs.states import JobState
from tests.support.cli_fakes import A_FAILURE, RUNNING, STATUS, WORKER, Cars, a_result, rows_of
from tests.support.processes import CHECKOUT


@pytest.fixture
def cars() -> Cars:
    return Cars()


# What every command owes


def whole() -> TyperGroup:
    """Return `cars` itself."""
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    return group


def commands(group: TyperGroup | None = None, prefix: str = "") -> Iterator[tuple[str, TyperCommand]]:
    for name, command in (group or whole()).commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{prefix}{name} ")
        else:
            assert isinstance(command, TyperCommand)
            yield f"{prefix}{name}", command


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=[name for name, _ in commands()])
def test_every_command_and_option_is_explained(name: str, command: TyperCommand) -> None:
    assert command.help, name
    for parameter in command.params:
        assert isinstance(parameter, TyperArgument | TyperOption)
        assert parameter.help, f"{name} {parameter.name}"


def test_every_command_is_documented() -> None:
    pages = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    missing = [name for name, _ in commands() if not re.search(rf"\bcars {name}\b", text)]
    assert not missing


def test_the_overview_says_what_each_command_says_itself() -> None:
    for name, command in whole().commands.items():
        assert command.help is not None
        assert COMMANDS[name].help == " ".join(command.help.split("\n\n")[0].split())


def test_help_works_for_every_command_with_the_short_option(cars: Cars) -> None:
    for name, _ in commands():
        result = cars(*name.split(), "-h")
        assert result.exit_code == 0
        assert "Usage" in result.stdout


def test_without_arguments_the_help_is_shown_as_wrong_usage(cars: Cars) -> None:
    result = cars()
    assert result.exit_code == 2
    assert "classify" in result.output


# Submit, status, listings


def test_submit_prints_the_id_and_nothing_else(cars: Cars) -> None:
    result = cars("submit", "photos", "--priority", "high", "--key", "k", "--top-k", "3", "--name", "n")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "7\n", "")
    assert cars.client.submitted == {
        "source": "photos", "name": "n", "model": None, "top_k": 3, "priority": "high", "key": "k",
        "incremental": False, "accept_shrink": False, "notify": None,
        "listing_depth": None, "manifest": None,
    }  # fmt: skip


def test_submit_incremental(cars: Cars) -> None:
    assert cars("submit", "photos", "--incremental", "--accept-shrink").exit_code == 0
    assert cars.client.submitted is not None
    assert (cars.client.submitted["incremental"], cars.client.submitted["accept_shrink"]) == (True, True)


def test_a_key_of_another_request_is_an_error_or_on_demand_the_old_job(cars: Cars) -> None:
    cars.client.refusal = KeyInUse("k", "7", ["its top_k is 5, not 3"])
    result = cars("submit", "photos", "--key", "k")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "top_k is 5, not 3" in result.stderr
    assert "--reuse" in result.stderr
    result = cars("submit", "photos", "--key", "k", "--reuse")
    assert (result.exit_code, result.stdout) == (0, "7\n")
    assert "job 7" in result.stderr
    assert "top_k is 5, not 3" in result.stderr


def test_single_images_can_be_submitted(cars: Cars) -> None:
    for command in ("submit", "classify"):
        assert cars(command, "a.jpg", "b/c.jpg").exit_code == 0
        assert cars.client.submitted is not None
        assert cars.client.submitted["source"] == ["a.jpg", "b/c.jpg"]


def test_submit_says_on_stderr_that_nobody_works(cars: Cars) -> None:
    cars.client.alive = [replace(WORKER, alive=False), replace(WORKER, queues=["train"])]
    result = cars("submit", "photos")
    assert (result.exit_code, result.stdout) == (0, "7\n")
    assert "cars worker" in result.stderr


def test_status_is_one_json_object(cars: Cars) -> None:
    for arguments in (("--format", "json"), ()):
        assert json.loads(cars("status", "7", *arguments).stdout) == STATUS.to_dict()


def test_status_as_a_table_has_a_line_a_field(cars: Cars) -> None:
    cars.client.statuses = [RUNNING]
    lines = [line.split() for line in cars("status", "7", "--format", "table").stdout.splitlines()]
    assert ["state", "running"] in lines
    assert ["done", "1/3"] in lines
    assert not [line for line in lines if line[0] in ("error", "finished")]


@pytest.mark.parametrize(
    "command", [("jobs",), ("results",), ("errors", "7"), ("models",), ("model", "history"), ("workers",)]
)
def test_listings_print_the_same_rows_in_every_format(cars: Cars, command: tuple[str, ...]) -> None:
    lines = cars(*command, "--format", "jsonl").stdout
    rows = [json.loads(line) for line in lines.splitlines()]
    assert rows
    assert json.loads(cars(*command, "--format", "json").stdout) == rows
    assert len(cars(*command, "--format", "csv").stdout.splitlines()) == len(rows) + 1
    assert len(cars(*command, "--format", "table").stdout.splitlines()) == len(rows) + 1
    assert cars(*command).stdout == lines  # no terminal here


def test_workers_say_what_they_do(cars: Cars) -> None:
    cars.client.alive = [
        replace(WORKER, state="job 7, batch 9", images_per_second=41.6),
        replace(WORKER, state="broken: no GPU"),
        replace(WORKER, alive=False, last_seen_seconds=3600.0),
    ]
    busy, broken, gone = cars("workers", "--format", "table").stdout.splitlines()[1:]
    assert "job 7, batch 9" in busy
    assert "41.6" in busy
    assert "broken: no GPU" in broken
    assert "gone" in gone
    assert "1 h 0 min ago" in gone


def test_a_broken_worker_is_none_that_works(cars: Cars) -> None:
    cars.client.alive = [replace(WORKER, state="broken: no GPU")]
    assert "no GPU" in cars("submit", "photos").stderr


@pytest.mark.parametrize(("state", "error"), [(JobState.FAILED, "given up after 6 h"), (JobState.CANCELED, None)])
def test_errors_say_what_ended_the_job(cars: Cars, state: JobState, error: str | None) -> None:
    cars.client.statuses = [replace(STATUS, state=state, error=error, ok=1, canceled=1_720)]
    result = cars("errors", "7")
    assert (error or "was canceled") in result.stderr
    assert "1,720 images have no result" in result.stderr
    assert "cars retry 7" in result.stderr
    assert [json.loads(line)["path"] for line in result.stdout.splitlines()] == ["bad.jpg"]


def test_what_is_canceled_is_not_done(cars: Cars) -> None:
    cars.client.statuses = [replace(STATUS, state=JobState.CANCELED, ok=1, canceled=2)]
    lines = [line.split() for line in cars("status", "7", "--format", "table").stdout.splitlines()]
    assert ["done", "1/3"] in lines


def test_an_empty_listing_is_valid_output_with_a_notice_beside_it(cars: Cars) -> None:
    cars.client.rows = []
    result = cars("results", "--format", "json")
    assert json.loads(result.stdout) == []
    assert result.stderr == "no results\n"
    assert cars("results").stdout == ""


def test_jobs_can_be_narrowed(cars: Cars) -> None:
    assert {row["state"] for row in rows_of(cars("jobs", "--state", "completed"))} == {"completed"}
    assert len(rows_of(cars("jobs", "--limit", "1"))) == 1


def test_a_table_shows_a_name_with_control_characters_harmlessly(cars: Cars) -> None:
    cars.client.rows = [a_result("a\x1b[2J\nb\u202egpj.jpg")]
    table = cars("results", "--format", "table").stdout
    assert len(table.splitlines()) == 2
    assert r"a\x1b[2J\nb\u202egpj.jpg" in table


def test_a_long_table_keeps_every_letter_off_a_terminal(cars: Cars) -> None:
    cars.client.rows = [a_result(f"{'x' * (n % 300)}.jpg") for n in range(700)]
    lines = cars("results", "--format", "table").stdout.splitlines()
    assert [line.split()[1] for line in lines[1:]] == [row.path for row in cars.client.rows]


def test_a_terminal_gets_lines_that_fit_and_keep_the_file_name(cars: Cars, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "70")
    cars.client.rows = [a_result(f"{'車' * 60}/{n}.jpg") for n in range(3)]
    table = cars("results", "7", "--format", "table").stdout
    lines = re.sub(r"\x1b\[[0-9;]*m", "", table).splitlines()
    assert [line.split()[0].endswith(f"/{n}.jpg") for n, line in enumerate(lines[1:])] == [True] * 3
    assert all(line.startswith("…") for line in lines[1:])
    assert max(len(line) + line.count("車") for line in lines) <= 70


# Results


def test_results_pass_every_filter_on(cars: Cars) -> None:
    result = cars(
        "results", "7", "--label", "L", "--make", "BMW", "--car-model", "M3", "--body", "Coupe", "--year", "2012",
        "--decision", "make", "--min-confidence", "0.5", "--max-confidence", "0.9", "--listing", "12",
        "--since", "2026-01-01", "--until", "2026-02-01", "--version", "v", "--status", "OK", "--top-k", "2",
        "--sort", "time", "--reverse", "--limit", "3",
    )  # fmt: skip
    assert result.exit_code == 0
    assert cars.client.asked == {
        "job": "7", "label": "L", "make": "BMW", "model": "M3", "body": "Coupe", "year": 2012, "decision": "make",
        "min_confidence": 0.5, "max_confidence": 0.9, "listing": "12", "since": "2026-01-01", "until": "2026-02-01",
        "version": "v", "status": "ok", "top_k": 2, "sort": "time", "reverse": True, "limit": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("decision", "shown", "dimmed"),
    [
        ("model", "Acura TL Sedan 2012", ""),
        ("make", "Acura (TL Sedan 2012?)", " (TL Sedan 2012?)"),
        ("unknown", "Acura TL Sedan 2012?", "Acura TL Sedan 2012?"),
    ],
)
def test_a_table_shows_a_label_that_is_not_trusted_as_a_guess_after_the_decision(
    cars: Cars, monkeypatch: pytest.MonkeyPatch, decision: str, shown: str, dimmed: str
) -> None:
    cars.client.rows = [a_result("wheel.jpg", decision=decision)]
    plain = cars("results", "7", "--format", "table").stdout.splitlines()[1]
    assert re.split(r"\s{2,}", plain.strip()) == ["wheel.jpg", decision, shown, "87.5%"]
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = cars("results", "7", "--format", "table").stdout.splitlines()[1]
    assert (f"\x1b[2m{dimmed}\x1b[0m" in coloured) == bool(dimmed)
    assert decision == "unknown" or f"\x1b[2m{shown}" not in coloured


def test_times_are_shown_where_they_matter(cars: Cars) -> None:
    for options, there in (((), False), (("--sort", "time"), True), (("--since", "2d"), True)):
        assert ("finished" in cars("results", "--format", "table", *options).stdout) == there


def test_results_go_to_a_file_and_only_a_notice_to_the_screen(cars: Cars, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    result = cars("results", "-o", str(file))
    assert (result.exit_code, result.stdout) == (0, "")
    assert "out.jsonl" in result.stderr
    assert len(file.read_text().splitlines()) == 2


def test_results_show_why_an_image_failed(cars: Cars) -> None:
    cars.client.rows = [A_FAILURE]
    assert "truncated: the file ends too early" in cars("results", "--format", "table").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("results", "-o", "out.xlsx"),
        ("results", "-o", "out.csv", "--format", "json"),
        ("results", "--min-confidence", "1.5"),
        ("results", "--since", "yesterday-ish"),
        ("results", "--decision", "perhaps"),
        ("submit",),
        ("submit", "photos", "--top-k", "0"),
        ("jobs", "--state", "lost"),
        ("wait", "7", "--timeout", "long"),
        ("prune", "--older-than", "90"),
        ("prune",),
        ("worker", "--queues", "classify,sing"),
        ("sing",),
    ],
)
def test_wrong_usage_exits_2_and_prints_no_data(cars: Cars, arguments: tuple[str, ...]) -> None:
    result = cars(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr


# Errors


@pytest.mark.parametrize("command", ["results", "classify photos"])
def test_an_output_that_cannot_be_written_exits_1_before_any_work(cars: Cars, command: str) -> None:
    result = cars(*command.split(), "-o", "no/such/folder/out.csv")
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(r"error: .*out\.csv cannot be written: there is no folder .*no/such/folder.*\n", result.stderr)
    assert cars.client.submitted is None


def test_an_expected_error_is_one_line(cars: Cars) -> None:
    result = cars("status", "8")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: no job 8; to see all: cars jobs\n"


def test_debug_shows_where_an_error_came_from(cars: Cars) -> None:
    result = cars("--debug", "status", "8")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


def test_an_unusable_setting_is_wrong_usage(cars: Cars) -> None:
    cars.client.refusal = SettingsInvalid("CARS_WINDOW: must be a number")
    assert cars("submit", "photos").exit_code == 2


def test_delete_of_a_running_job_is_refused(cars: Cars) -> None:
    result = cars("delete", "7")
    assert result.exit_code == 1
    assert "cancel it first" in result.stderr


def test_a_reader_that_goes_away_is_not_an_error(cars: Cars) -> None:
    def rows() -> Iterator[Result]:
        yield a_result("a.jpg")
        raise BrokenPipeError

    cars.client.rows = rows()
    result = cars("results")
    assert (result.exit_code, result.stderr) == (0, "")


def test_an_output_whose_disk_is_full_is_an_error_in_words(cars: Cars) -> None:
    def rows() -> Iterator[Result]:
        yield a_result("a.jpg")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cars.client.rows = rows()
    result = cars("results")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: the output cannot be used: its disk is full")


# Models and operations


def test_models(cars: Cars) -> None:
    assert json.loads(cars("model", "show").stdout)["metrics"] == {"top1": 0.9}
    assert cars("model", "rollback").stdout == "resnet34-0\n"
    assert "resnet34-1" in cars("model", "promote", "resnet34-1").stderr
    assert "resnet34-1" in cars("migrate").stdout


def test_a_card_is_shown_without_a_line_for_each_part_of_each_class(cars: Cars) -> None:
    parts = {"Kia Rio": {"make": "Kia", "model": "Rio"}, "Kia Ceed": {"make": "Kia", "model": "Ceed"}}
    cars.client.card = {"name": "own", "class_parts": parts}
    shown = cars("model", "show", "--format", "table").stdout
    assert [re.split(r" {2,}", line.strip()) for line in shown.splitlines()] == [
        ["name", "own"],
        ["class parts", "2 of them, makes: 1"],
    ]


def test_worker_becomes_the_workers_program(cars: Cars, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARS_ENGINE", "tests.engine:Engine")
    assert cars("worker", "--queues", "control, train", "--concurrency", "2", "--beat").exit_code == 0
    assert cars.became == ["worker", "--queues", "control,train", "--concurrency", "2", "--beat"]
    assert cars("beat").exit_code == 0
    assert cars.became == ["beat"]
    assert cars("model", "import", "folder").exit_code == 0
    assert cars.became == ["import", "--", "folder"]


def test_model_export_goes_to_a_new_folder(cars: Cars, tmp_path: Path) -> None:
    assert cars("model", "export", "v1", "-o", str(tmp_path / "new")).exit_code == 0
    assert cars.became == ["export", "--", "v1", str(tmp_path / "new")]
    (tmp_path / "file").touch()
    refused = cars("model", "export", "v1", "-o", str(tmp_path))
    assert (refused.exit_code, "is there already" in refused.stderr) == (1, True)


def test_evaluate_needs_no_training_packages(cars: Cars, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.requirements.require_training_packages", pytest.fail)
    cars.answer = {
        "top1": 0.5,
        "framing": [{"area": 0.25, "top1": 0.4}],
        "listings": {
            "sets": [{"photos": 3, "top1": 0.8125}],
            "two_makes": {"sets": 1000, "conflict": 0.9375},
            "with_samples": None,
            "samples_alone": None,
        },
        "ood_images": {"holdout": {"images": 3, "rejected": 2, "decided_model": 0, "decided_make": 1}},
    }
    shown = cars("model", "evaluate", "v1", "photos")
    assert (shown.exit_code, json.loads(shown.stdout)) == (0, cars.answer)
    assert cars.asked == ["evaluate", "--split", "all", "--", "v1", "photos"]
    table = cars("model", "evaluate", "v1", "photos", "--format", "table").stdout
    assert [word in table for word in ("0.5", "0.25", "0.8125", "two makes", "holdout")] == [True] * 5


def test_doctor_exits_1_when_a_check_failed(cars: Cars) -> None:
    good = CheckResult(check="database", ok=True, detail="SQLite", advice="")
    cars.client.checks = [good]
    assert cars("doctor").exit_code == 0
    cars.client.checks = [good, CheckResult(check="worker", ok=False, detail="none alive", advice="cars worker")]
    result = cars("doctor")
    assert result.exit_code == 1
    assert rows_of(result) == [check.to_dict() for check in cars.client.checks]


def test_files_left_out_by_suffix(cars: Cars) -> None:
    cars.client.skipped = [
        SkippedSuffix(job="7", suffix=".mp4", files=1200),
        SkippedSuffix(job="7", suffix=None, files=3),
    ]
    lines = cars("errors", "7", "--skipped").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [row.to_dict() for row in cars.client.skipped]
    table = [line.split() for line in cars("errors", "7", "--skipped", "--format", "table").stdout.splitlines()]
    assert table[1:] == [[".mp4", "1,200"], ["(none)", "3"]]
    cars.client.skipped = []
    assert "no file" in cars("errors", "7", "--skipped").stderr


def test_the_end_of_a_job_tells_what_was_left_out(cars: Cars) -> None:
    cars.client.statuses = [replace(STATUS, skipped=4)]
    assert (
        "4 files that are not images were left out; of which kinds: cars errors 7 --skipped" in cars("wait", "7").stderr
    )
