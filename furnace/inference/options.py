"""Options of evaluation, prediction and export, which the commands' --help shows."""

BRANCHES = ("1", "2", "3", "4", "both")
FORMATS = {"onnx": ".onnx", "torchscript": ".pt", "pt2": ".pt2"}  # of exported files
OPACITY = 0.55  # of the labels' colours over the image
