"""Networks: the ResNet backbone, the DeepLabv3+ head, and the two-branch network."""
