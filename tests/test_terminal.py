"""Texts of other people are safe to show in a terminal, and a command ends with the right exit code."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from msp_ds.terminal import Table, Terminal, one_line_errors, printable, speak, styled

HOSTILE = "a[/b] :dog: 12.5 \x1b[31m\u202eb\u200b"
SHOWN = "a[/b] :dog: 12.5 \\x1b[31m\\u202eb\\u200b"


def shown(*parts: object, width: int = 100, **options: object) -> list[str]:
    """The shown lines, without trailing spaces."""
    out = io.StringIO()
    Terminal(file=out, width=width, force_terminal=False, **options).print(*parts)
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("naïve 犬 🐕 a\u0301", "naïve 犬 🐕 a\u0301"),
        ("\x1b]0;x\x07\r\n\t\x7f\x85\x9b", "\\x1b]0;x\\x07\\r\\n\\t\\x7f\\x85\\x9b"),
        ("\u200e\u200f\u202a\u2066\u2069", "\\u200e\\u200f\\u202a\\u2066\\u2069"),
        ("\u200b\ufeff\u2028\u2029\udc80", "\\u200b\\ufeff\\u2028\\u2029\\udc80"),
        ("نمی\u200cخواهم क्\u200dष 👩\u200d🚀", "نمی\u200cخواهم क्\u200dष 👩\u200d🚀"),
        ("ca\u200dt 犬\u200d\u200d犬 \u200cx", "ca\\u200dt 犬\\u200d\\u200d犬 \\u200cx"),
    ],
)
def test_control_and_invisible_characters_are_shown_as_escapes(text: str, safe: str) -> None:
    assert printable(text) == safe


def test_a_users_text_is_printed_as_it_is_and_never_as_markup() -> None:
    assert shown(HOSTILE) == [SHOWN]
    assert shown(styled(("x", "bold"), HOSTILE)) == [f"x{SHOWN}"]


def test_a_long_path_is_not_broken() -> None:
    assert shown(f"written to /{'a' * 200}", width=40) == [f"written to /{'a' * 200}"]


def test_numbers_and_paths_get_no_colour_of_their_own() -> None:
    out = io.StringIO()
    Terminal(file=out, force_terminal=True, color_system="truecolor").print("12 images in /a/b")
    assert out.getvalue() == "12 images in /a/b\n"


def test_a_tables_cells_headers_title_and_caption_are_no_markup_and_stay_in_line() -> None:
    table = Table(HOSTILE, "n", title=HOSTILE, caption=HOSTILE)
    table.add_row(f"{HOSTILE}\n", "1")
    lines = shown(table)
    assert [line.strip() for line in lines if SHOWN in line] == [
        SHOWN,
        f"┃ {SHOWN}   ┃ n ┃",
        f"│ {SHOWN}\\n │ 1 │",
        SHOWN,
    ]
    assert len({len(line) for line in lines[1:-1]}) == 1


def runs() -> Table:
    """A table as wide as 32 cells at least: of two words, and of two numbers."""
    table = Table("run", "preset", "steps", "state", expendable=("preset",))
    table.add_row("run[lr=1e-3]", "small", "1,200", "done")
    return table


@pytest.mark.parametrize(
    ("width", "header", "left_out"),
    [
        (41, "┃ run          ┃ preset ┃ steps ┃ state ┃", ""),
        (40, "┃ run          ┃ steps ┃ state ┃", "left out: preset; a wider"),
        (31, "┃ run          ┃ steps ┃", "left out: preset, state;"),
        (16, "┃ run          ┃", "left out:"),
    ],
)
def test_a_narrow_terminal_leaves_columns_out_and_names_them(width: int, header: str, left_out: str) -> None:
    lines = shown(runs(), width=width)
    assert lines[1] == header
    assert "run[lr=1e-3]" in lines[3]
    assert lines[5:6] == ([left_out] if left_out else [])


def test_a_column_without_a_header_is_never_left_out() -> None:
    table = Table("", "", show_header=False)
    table.add_row("vocabulary", "706")
    table.add_row("labels", "aeroplane")
    lines = shown(table, width=20)
    assert [line.split()[1:4:2] for line in lines[1:3]] == [["vocabul", "706"], ["ary", "│"]]
    assert all(len(line) == 20 for line in lines)


def test_a_long_name_goes_on_in_the_next_line() -> None:
    table = Table("run", "steps")
    table.add_row("a" * 30, "7")
    assert shown(table, width=32)[3:5] == [f"│ {'a' * 20} │ 7     │", f"│ {'a' * 10}           │       │"]


@pytest.fixture
def _logging() -> Iterator[None]:
    yield
    logging.basicConfig(handlers=[logging.NullHandler()], force=True)
    logging.getLogger("msp_ds").setLevel(logging.NOTSET)


@pytest.mark.usefixtures("_logging")
def test_a_log_line_with_a_users_text_is_one_line_without_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    speak()
    logging.getLogger("msp_ds.data").warning("%s is left out", "x\n12:00:00 all is well\x1b[2K")
    assert capsys.readouterr().err[9:] == "x\\n12:00:00 all is well\\x1b[2K is left out\n"


PRINTING = """
import sys
from msp_ds.terminal import Table, Terminal, run_command

def command():
    table = Table("a")
    table.add_row("\\u201c\\u72ac\\u201d")
    Terminal().print(table)
    print("\\xe9", file=sys.stderr)
    raise SystemExit(1)

run_command(command)
"""


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}]
)
def test_an_output_that_is_not_utf_8_gets_ascii_frames_and_question_marks(environment: dict[str, str]) -> None:
    ran = subprocess.run([sys.executable, "-c", PRINTING], capture_output=True, env=environment, check=False)
    frame = b"+------+"
    assert ran.stdout.splitlines() == [frame, b"| a    |", b"|------|", b'| "??" |', frame]
    assert (ran.stderr, ran.returncode) == (b"?\n", 1)


def test_a_file_that_the_system_refuses_is_one_line_and_other_errors_of_the_system_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"), one_line_errors(debug=False):
        (tmp_path / "missing").read_bytes()
    assert capsys.readouterr().err == f"error: {tmp_path / 'missing'}: No such file or directory\n"
    with pytest.raises(ConnectionResetError), one_line_errors(debug=False):
        raise ConnectionResetError
    with pytest.raises(FileNotFoundError), one_line_errors(debug=True):
        (tmp_path / "missing").read_bytes()


@pytest.mark.parametrize("words", [["info"], ["--help"], ["runs", "--help"]])
def test_a_full_disk_behind_standard_output_is_one_line_and_exit_code_2(words: list[str]) -> None:
    program = "from msp_ds.cli import main; main()"
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run([sys.executable, "-c", program, *words], stdout=full, stderr=-1, text=True, check=False)
    assert ran.stderr == "error: the output cannot be written: No space left on device\n"
    assert ran.returncode == 2


@pytest.mark.parametrize(("to", "code"), [("stdout", 141), ("stderr", 3)])
def test_a_closed_pipe_ends_the_results_silently_and_never_the_log(to: str, code: int) -> None:
    program = (
        "import sys; from msp_ds.terminal import run_command\n"
        f"def command():\n    print('x', file=sys.{to}, flush=True)\n    raise SystemExit(3)\n"
        "run_command(command)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1) as process:
        assert process.stdout
        assert process.stderr
        (process.stdout if to == "stdout" else process.stderr).close()
        other = process.stderr if to == "stdout" else process.stdout
        assert (other.read(), process.wait()) == (b"", code)


RANK = """
import atexit, sys
import torch.distributed as dist
from msp_ds.terminal import run_command

def command():
    rank, ranks, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=ranks)
    dist.barrier()
    print("done", end=" ")
    raise SystemExit(3)

atexit.register(print, "torn down", end="")
run_command(command)
"""


@pytest.mark.parametrize(("num_ranks", "output"), [(1, "done torn down"), (2, "done ")])
def test_one_of_several_ranks_ends_without_the_interpreters_tear_down(
    tmp_path: Path, num_ranks: int, output: str
) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(num_ranks), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_ranks)
    ]
    assert [(rank.communicate(timeout=180)[0], rank.returncode) for rank in ranks] == [(output, 3)] * num_ranks
