"""Signals by which users, terminals and schedulers ask a command to stop or to save."""

import signal

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # training saves and exits with a special status
SAVING = signal.SIGUSR1  # a warning that Slurm sends before its time limit: training saves and continues


def heeded() -> list[signal.Signals]:
    """The signals of `STOPPING` that this process answers: not SIGHUP if `nohup` started it, to outlive a terminal."""
    hung_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signum for signum in STOPPING if hung_up or signum != signal.SIGHUP]


def ignore_saving() -> None:
    """Ignore the warning before a time limit in commands that have nothing to save."""
    signal.signal(SAVING, signal.SIG_IGN)


def leave_to_parent() -> None:
    """In a forked process, ignore the signals that its parent answers.

    The parent needs its loaders for the last batch, and a signal to all processes of a job is meant for the parent.
    """
    signal.set_wakeup_fd(-1)
    for signum in (*STOPPING, SAVING):
        if callable(signal.getsignal(signum)):
            signal.signal(signum, signal.SIG_IGN)
