"""What only training or only some systems have is missed by nothing else: DeepSpeed, os.pread, locks, isal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MISSING = """
import os, sys
for name in ("deepspeed", "fcntl", "resource", "isal", "isal.isal_zlib", "zstandard"):
    sys.modules[name] = None  # so that importing it fails
for name in ("pread", "preadv", "posix_fadvise", "O_DIRECT"):
    if hasattr(os, name):
        delattr(os, name)
import msp_ds
from msp_ds.cli import app
from typer.testing import CliRunner

def said(words, code=0):
    result = CliRunner().invoke(app, words.split(), prog_name="msp-ds", env={"COLUMNS": "200"})
    assert result.exit_code == code, (words, result.output, result.exception)
    return result.output

site = sys.argv[1]
raw, asked = f"{site}/world", f"--checkpoint {site}/runs/tps --shards {site}/shards/sentence/val"
said(f"shard --stage sentence --out new --regions {raw}/regions.tsv --captions {raw}/captions.json --vocab trained "
     f"--objects-vocab {raw}/objects_vocab.txt --attributes-vocab {raw}/attributes_vocab.txt --holdout 8 --preset tiny")
said(f"verify new {site}/shards")  # those of the site were written with isal
said("inspect new/sentence/val")
said(f"search {asked} a-red-bus")
model = msp_ds.load(f"{site}/runs/tps", shards=f"{site}/shards/sentence/val")
image = model.image_ids[0]
assert model.score(["a red bus"], [image]).shape == (1, 1)
said(f"explain {asked} --image {image}")
said(f"evaluate {asked} --task zero-shot-retrieval --out grades")
print(said("train --curriculum s --shards new --run-dir run", code=2).splitlines()[-1])
"""


def test_nothing_but_training_needs_deepspeed_or_what_only_linux_has(looking_site: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", MISSING, str(looking_site)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == (
        "error: training needs the package deepspeed (import of deepspeed halted; None in sys.modules); "
        "run: pip install deepspeed\n"
    ), done.stderr
    assert done.returncode == 0
