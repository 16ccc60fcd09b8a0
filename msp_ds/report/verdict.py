"""What `msp-ds verify` found, as lines for people and for grep."""

from __future__ import annotations

from msp_ds.preparation.verifying.verification import VerifyReport
from msp_ds.terminal import printable


def verdict_text(verdict: VerifyReport) -> str:
    """One line for a set in order; else a line a fault between the number of faults and the command that fixes them."""
    path = printable(str(verdict.path))
    size = f"{verdict.num_images} images in {verdict.num_tars} tars"
    if verdict.faults:
        count = "1 fault" if len(verdict.faults) == 1 else f"{len(verdict.faults)} faults"
        lines = [f"{path}: {count} among {size}", *verdict.faults, verdict.fix]
        return "\n".join(" ".join(line.split()) for line in lines)
    if verdict.is_quick:
        return f"{path}: {size}; sizes, index and tables as written, the tars' contents not read"
    speed = verdict.num_bytes / 1e6 / max(verdict.seconds, 1e-9)
    return f"{path}: {size}, every byte as written ({verdict.num_bytes / 1e6:.0f} MB, {speed:.0f} MB/s)"
