"""What people read: tables for the terminal, and in `pages` HTML pages and pictures.

The functions return text, tables or markup; the commands in `msp_ds.cli` show or write them. The bars and log lines of
a training run are in `msp_ds.training.monitoring`.
"""
