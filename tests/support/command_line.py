"""Commands run in this process, as a user would see them."""

from __future__ import annotations

import logging
import os
from unittest import mock

import pytest
from click.testing import Result
from typer.testing import CliRunner

from msp_ds.cli import app


def run(*words: object) -> Result:
    """What `msp-ds WORDS` does; the environment stays as it is, where a command notes the place that ranks meet at."""
    environment = dict(os.environ)
    with mock.patch("msp_ds.progress.SECONDS_BETWEEN_LINES", 3600.0):  # a slow machine must not add lines
        result = CliRunner().invoke(app, [str(word) for word in words], prog_name="msp-ds", env={"COLUMNS": "200"})
    os.environ.clear()
    os.environ.update(environment)
    # The command's log lines went to a stream that is closed now.
    logging.basicConfig(handlers=[logging.NullHandler()], force=True)
    logging.getLogger("msp_ds").setLevel(logging.NOTSET)
    return result


def refusal(*words: object, log_lines: int = 0) -> str:
    """The error of `msp-ds WORDS`: one line on stderr after so many of the log, exit code 2, nothing on stdout."""
    result = run(*words)
    if result.exit_code != 2:
        pytest.fail(f"exit code {result.exit_code}: {result.output}{result.exception!r}")
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == log_lines + 1, result.stderr
    assert lines[-1].startswith("error: ")
    return lines[-1].removeprefix("error: ")
