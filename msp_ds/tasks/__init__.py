"""The seven pre-training tasks of the paper, by name."""

from __future__ import annotations

from msp_ds.tasks.ifrs import IFRS
from msp_ds.tasks.itm_hs import ITM_HS
from msp_ds.tasks.mlm import MLM
from msp_ds.tasks.moc import MOC
from msp_ds.tasks.mrfr import MRFR
from msp_ds.tasks.task import Task
from msp_ds.tasks.titp import TITP
from msp_ds.tasks.tits import TITS

TASKS: dict[str, Task] = {task.name: task for task in (MLM, MRFR, MOC, IFRS, TITP, TITS, ITM_HS)}
"""Every task by the name that stages and --drop use."""
