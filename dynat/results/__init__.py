"""Result files: the one place that knows their paths, what they hold, and how they are read and written.

paths.py        the path of every file           records.py      typed, versioned JSON records
outcomes.py     verdicts of an attack            sanity.py       sanity checks of an evaluation
history.py      epochs of a training             transfer.py     the transfer matrix
metrics.py      one run's numbers                statistics.py   interval, paired test, correction
csv_files.py    CSV files, their checksums       reading.py      checks of any file that is read

Nothing here imports torch; pandas is imported by the functions that read tables.
"""
