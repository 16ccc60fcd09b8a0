"""The result of `msp-ds verify` as lines for people and for grep."""

from msp_ds.preparation.verifying.verification import VerifyReport
from msp_ds.terminal import printable


def verify_text(report: VerifyReport) -> str:
    """Return one line for a valid set; else the number of faults, a line for each, and the command that fixes them."""
    path = printable(str(report.path))
    size = f"{report.num_images} images in {report.num_tars} tars"
    if report.faults:
        count = "1 fault" if len(report.faults) == 1 else f"{len(report.faults)} faults"
        lines = [f"{path}: {count} among {size}", *report.faults, report.fix]
        return "\n".join(" ".join(line.split()) for line in lines)
    if report.is_quick:
        return f"{path}: {size}; sizes, index and tables as written, the tars' contents not read"
    speed = report.num_bytes / 1e6 / max(report.seconds, 1e-9)
    return f"{path}: {size}, every byte as written ({report.num_bytes / 1e6:.0f} MB, {speed:.0f} MB/s)"
