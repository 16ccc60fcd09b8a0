"""Work on several ranks of this machine: each knows its place, and the code of one that fails is everybody's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from msp_ds.errors import InputError
from msp_ds.terminal import one_line_errors
from msp_ds.training.local_ranks import on_ranks
from msp_ds.training.runtime import start_runtime


def meet(folder: Path) -> None:
    runtime = start_runtime(os.environ)
    ranks = runtime.gather(f"{runtime.rank} of {runtime.world_size}, {runtime.ranks_here} here")
    (folder / str(runtime.rank)).write_text(" and ".join(ranks))


def fail(code: int) -> None:
    with one_line_errors(debug=False, quiet=os.environ["LOCAL_RANK"] != "0"):
        if code == 2:
            raise InputError("no shards; write them")
    raise SystemExit(code)


def test_ranks_meet_and_each_has_its_number(tmp_path: Path) -> None:
    on_ranks(partial(meet, tmp_path), 2)
    for rank in ("0", "1"):
        assert (tmp_path / rank).read_text() == "0 of 2, 2 here and 1 of 2, 2 here"


@pytest.mark.parametrize("code", [2, 143])
def test_the_code_of_a_rank_that_fails_is_the_commands(code: int, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        on_ranks(partial(fail, code), 2)
    assert ended.value.code == code
    assert capfd.readouterr().err.count("no shards") == (code == 2)


def test_ctrl_c_waits_for_the_ranks_to_end(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "from pathlib import Path\n"
        "from msp_ds.training.local_ranks import on_ranks\n"
        "def save(*_):\n"
        "    time.sleep(1)\n"
        "    Path(sys.argv[1], 'saved-' + os.environ['RANK']).touch()\n"
        "    raise SystemExit(130)\n"
        "def work():\n"
        "    signal.signal(signal.SIGINT, save)\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    on_ranks(work, 2)\n"
    )
    command = [sys.executable, str(script), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as started:
        assert started.stdout is not None
        assert [started.stdout.readline(), started.stdout.readline()] == ["ready\n", "ready\n"]
        os.killpg(started.pid, signal.SIGINT)  # as a terminal sends it
        assert started.wait() == 130
    assert {path.name for path in tmp_path.glob("saved-*")} == {"saved-0", "saved-1"}
