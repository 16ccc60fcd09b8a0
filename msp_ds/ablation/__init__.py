"""The paper's Table 4: its rows, the plan of runs that they share, the runner, and the table and plot of the results.

The models are trained and evaluated by `msp-ds` commands in processes of their own, not here.
"""
