"""What runs inside an algorithm's container: it takes jobs from the algorithm's queue until SIGTERM.

::

    fetcher ──▶ ready jobs ──▶ runner ──▶ courier        main: signals, time limit, RUNNING reports
    receive,     (backlog)     decode,     upload,       renewer: keeps the leases of every job held
    fetch input                run, write  send, delete

Three threads, so that the next input is fetched and the last result uploaded while this job computes.
"""
