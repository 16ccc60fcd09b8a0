"""Pre-training tasks, one file each: what a task predicts, from what, and its loss.

In the life of a pair, `corruptions` turn the clean batch of a step into the corrupted one that the model encodes;
`targets` lists the states that the tasks read; the `score` of each task turns what its heads make of these states into
a loss and metrics. `task` defines what a task is. Shared parts of scores are in `scoring` and `topics`. Heads are in
msp_ds/model; benchmarks, which are tasks too, are in msp_ds/downstream.
"""

from msp_ds.tasks.ifrs import IFRS
from msp_ds.tasks.itm_hs import ITM_HS
from msp_ds.tasks.mlm import MLM
from msp_ds.tasks.moc import MOC
from msp_ds.tasks.mrfr import MRFR
from msp_ds.tasks.task import Task
from msp_ds.tasks.titp import TITP
from msp_ds.tasks.tits import TITS

TASKS: dict[str, Task] = {task.name: task for task in (MLM, MRFR, MOC, IFRS, TITP, TITS, ITM_HS)}
"""Tasks by the name that stages and --drop use."""
