"""Options of evaluation, prediction and export, shown by the commands' --help."""

BRANCHES = ("1", "2", "3", "4", "both")
FORMATS = {"onnx": ".onnx", "torchscript": ".pt", "pt2": ".pt2"}  # suffixes of exported files
OPACITY = 0.55  # of the label colours over the image
