"""Training: trainer, learner, snapshots, faults, processes, monitor."""
