"""CPCL: conservative-progressive collaborative learning for semi-supervised semantic segmentation."""
