"""What trains an experiment: trainer, learner, snapshots, faults, processes, monitor."""
