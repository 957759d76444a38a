"""Pure functions of tensors: confusion matrix, losses, pseudo labels, sliding window."""
