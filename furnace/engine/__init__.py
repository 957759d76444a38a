"""What runs an experiment: trainer, evaluator, checkpoints, optimizers, processes, monitor."""
