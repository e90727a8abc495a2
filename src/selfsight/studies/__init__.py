"""Studies: many cells, one folder, one table. A study that was interrupted goes on by the same command.

`compare` has methods side by side, `sweep` a grid of settings, `labels` accuracy by the number of labels.
"""
