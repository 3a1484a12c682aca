"""How programs are written down for supervisord."""

from __future__ import annotations

import configparser
import shlex
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from supervisor.options import expand

from tidegate.errors import SetupError, Unavailable
from tidegate.stack import supervision
from tidegate.stack.supervision import Program, Supervision

AWKWARD = "100%s 'single' \"double\" $HOME `id` \\ ;#{}\nsecond line"


def program(folder: Path, **changes: Any) -> Program:
    given: dict[str, Any] = {
        "name": "triton-flights-3",
        "command": ("printenv", "VALUE"),
        "directory": folder,
        "log_file": folder / "triton.log",
    }
    return Program(**(given | changes))


def read(text: str) -> dict[str, str]:
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"))
    parser.read_string(text)
    (section,) = parser.sections()
    return {key: expand(value, {}, key) for key, value in parser[section].items()}


def test_any_environment_value_reaches_the_program_unchanged(tmp_path: Path) -> None:
    given = program(tmp_path, env={"VALUE": AWKWARD})
    env_file = tmp_path / "a.env"
    env_file.write_text(supervision.render_env(given))
    command = shlex.split(read(supervision.render(given, env_file))["command"])
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == AWKWARD + "\n"


def test_arguments_with_spaces_quotes_and_percent_signs_survive(tmp_path: Path) -> None:
    env_file = tmp_path / "a.env"
    env_file.touch()
    given = program(tmp_path, command=("printf", "%s|", "two words", "it's 5%", '"'))
    command = shlex.split(read(supervision.render(given, env_file))["command"])
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "two words|it's 5%|\"|"


def test_percent_signs_are_doubled_for_supervisord(tmp_path: Path) -> None:
    text = supervision.render(program(tmp_path, command=("date", "+%Y")), tmp_path / "a.env")
    assert "+%%Y" in text


def test_what_supervisord_would_take_for_a_comment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot hold"):
        supervision.render(program(tmp_path, command=("echo", "a ;b")), tmp_path / "a.env")


def test_secrets_stay_out_of_the_command_line(tmp_path: Path) -> None:
    given = program(tmp_path, env={"TOKEN": "very-secret"})
    assert "very-secret" not in supervision.render(given, tmp_path / "a.env")


def test_settings_of_a_program_are_written_down(tmp_path: Path) -> None:
    given = program(tmp_path, autostart=False, stop_signal="INT", stop_wait_s=7, nice=5)
    settings = read(supervision.render(given, tmp_path / "a.env"))
    assert settings["autostart"] == "false"
    assert settings["autorestart"] == "true"
    assert (settings["stopsignal"], settings["stopwaitsecs"]) == ("INT", "7")
    assert "nice -n 5 printenv VALUE" in settings["command"]


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a:b", "../x", "a]\n[supervisord"])
def test_names_that_would_break_out_of_their_file_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SetupError, match="not allowed"):
        program(tmp_path, name=name)


def test_files_of_a_program_are_private(tmp_path: Path) -> None:
    path = tmp_path / "x.conf"
    assert supervision._write_changed(path, "one")
    assert not supervision._write_changed(path, "one")
    assert supervision._write_changed(path, "two")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_missing_supervisord_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="tidegate up"):
        Supervision(tmp_path / "no.sock", "tidegate", "x", tmp_path).states()
