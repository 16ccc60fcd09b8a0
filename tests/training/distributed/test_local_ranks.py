"""Work on several ranks of one machine: each has its number, and the exit code of one that fails is the command's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from msp_ds.errors import InputError
from msp_ds.terminal import one_line_errors
from msp_ds.training.distributed import local_ranks
from msp_ds.training.distributed.local_ranks import default_num_ranks, on_ranks
from msp_ds.training.distributed.runtime import start_runtime


def meet(folder: Path) -> None:
    runtime = start_runtime(os.environ)
    ranks = runtime.gather(f"{runtime.rank} of {runtime.world_size}")
    (folder / str(runtime.rank)).write_text(" and ".join(ranks))


def fail(code: int) -> None:
    with one_line_errors(debug=False, quiet=os.environ["LOCAL_RANK"] != "0"):
        if os.environ["LOCAL_RANK"] == "0":
            time.sleep(1)  # the quiet rank ends first
        if code == 2:
            raise InputError("no shards; write them")
    raise SystemExit(code)


def be_killed() -> None:
    if os.environ["LOCAL_RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)


def test_ranks_meet_and_each_has_its_number(tmp_path: Path) -> None:
    on_ranks(partial(meet, tmp_path), 2)
    for rank in ("0", "1"):
        assert (tmp_path / rank).read_text() == "0 of 2 and 1 of 2"


@pytest.mark.parametrize("code", [2, 3])
def test_the_exit_code_of_a_rank_that_fails_is_the_commands(code: int, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        on_ranks(partial(fail, code), 2)
    assert ended.value.code == code
    assert capfd.readouterr().err.count("no shards; write them") == (code == 2)


def test_a_rank_that_was_killed_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        on_ranks(be_killed, 2)
    assert ended.value.code == 137
    assert "rank 1 was killed by SIGKILL" in caplog.text


def test_those_that_outlive_a_failed_rank_for_too_long_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_ranks, "GRACE_SECONDS", 1)
    with pytest.raises(SystemExit) as ended:
        on_ranks(outlive, 2)
    assert ended.value.code == 137


def outlive() -> None:
    if os.environ["LOCAL_RANK"] == "1":
        raise SystemExit(1)
    time.sleep(600)


def test_one_rank_is_this_process() -> None:
    done: list[int] = []
    on_ranks(lambda: done.append(os.getpid()), 1)
    assert done == [os.getpid()]


@pytest.mark.parametrize(
    ("cores", "threads", "ranks"), [(1, None, 1), (2, None, 2), (8, None, 2), (2, "2", 1), (8, "4", 2), (4, "99", 1)]
)
def test_ranks_share_the_cores(cores: int, threads: str | None, ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if threads:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert default_num_ranks() == ranks


SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from msp_ds.training.distributed.local_ranks import on_ranks
def save(number, _):
    time.sleep(1)
    Path(sys.argv[1], 'saved-' + os.environ['RANK']).touch()
    raise SystemExit(143)
def work():
    signal.signal(signal.SIGTERM, save)
    os.write(1, b'ready\\n')  # whole, beside the other rank's
    time.sleep(60)
if __name__ == '__main__':
    on_ranks(work, 2)
"""


def started(script: str, folder: Path) -> subprocess.Popen[str]:
    (folder / "script.py").write_text(script)
    command = [sys.executable, str(folder / "script.py"), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


@pytest.mark.full
@pytest.mark.parametrize(
    ("number", "to_all", "code"),
    [
        (signal.SIGINT, True, 130),
        (signal.SIGINT, False, 130),
        (signal.SIGTERM, False, 143),
        (signal.SIGKILL, False, -9),
    ],
)
def test_a_signal_is_passed_on_and_the_ranks_may_save(
    number: signal.Signals, to_all: bool, code: int, tmp_path: Path
) -> None:
    with started(SCRIPT, tmp_path) as process:
        assert lines(process, 2) == ["ready\n", "ready\n"]
        (os.killpg if to_all else os.kill)(process.pid, number)  # a terminal sends it to all
        printed, complaints = process.communicate()  # once the ranks have ended
        assert process.returncode == code
        assert printed == ""
        assert "Traceback" not in complaints
    assert {path.name for path in tmp_path.glob("saved-*")} == {"saved-0", "saved-1"}


def test_ctrl_c_while_the_ranks_import_ends_them_silently(tmp_path: Path) -> None:
    slow = "os.write(1, b'imported\\n')\ntime.sleep(0 if __name__ == '__main__' else 60)\n"
    with started(SCRIPT.replace("if __name__", slow + "if __name__"), tmp_path) as process:
        assert lines(process, 3) == 3 * ["imported\n"]
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate() == ("", "")
        assert process.returncode == 130
