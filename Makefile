# make check: ruff and the quick tests.   make test: all tests.
# make demo: train for two minutes on data/, denoise a clip, look at the result.
# make tutorials: run all of them and make a book of them.
# make bench: speed on the CPU.   make gpu: tests, checks and speed on an NVIDIA GPU.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STARTED := $(shell date +%s)
TOOK = @s=$$(($$(date +%s) - $(STARTED))); echo "make $@ took $$((s / 60)) min $$((s % 60)) s"
# Less than two minutes together on two cores, once their kernels are compiled.
QUICK = tests/test_house.py tests/test_readme.py tests/test_safe_files.py tests/ops tests/sound tests/corpus \
  tests/compute/test_cpu.py tests/compute/test_blas.py tests/compute/test_product.py \
  tests/network/test_gradcheck.py tests/network/test_layers.py tests/network/test_model.py \
  tests/network/test_checkpoint.py tests/network/test_pretrained.py tests/streaming/test_streamer.py \
  tests/training/test_recipe.py tests/training/test_clock.py tests/training/test_run_log.py \
  tests/training/test_run_folder.py tests/optimisation/test_optimisers.py tests/training/test_evaluation.py \
  tests/listening/test_pcm_stream.py tests/listening/test_denoise.py tests/reports/test_plots.py \
  tests/commands/test_commands.py::test_no_command_waits_for_what_another_one_imports \
  tests/commands/test_commands.py::test_prepare_prints_writes_and_draws \
  tests/commands/test_commands.py::test_options_of_train_are_those_of_the_recipe

.PHONY: check demo test tutorials bench gpu clean

$(BIN)/tasnet-np: setup.cfg
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[test,tutorials]'
	touch $@

check: $(BIN)/tasnet-np
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --quiet $(QUICK) -k "not run_as_written"
	$(TOOK)

demo: $(BIN)/tasnet-np
	rm -rf demo
	$(BIN)/tasnet-np train --speech data/speech --noise data/noise --out demo/run --minutes 2 --speed 0 --colour 0 --polarity 0
	$(BIN)/tasnet-np denoise data/noisy/noisy-mono-8k.wav --model demo/run -o demo/speech.wav --noise-out demo/noise.wav
	$(BIN)/tasnet-np compare --clean data/noisy/clean-mono-8k.wav data/noisy/noisy-mono-8k.wav demo/speech.wav --plot demo/spectrograms.png

test: $(BIN)/tasnet-np
	$(BIN)/python -m pytest
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest tests/ops/test_ops.py tests/network/test_gradcheck.py tests/network/test_layers.py
	$(TOOK)

tutorials: $(BIN)/tasnet-np
	$(BIN)/python tutorials/book.py --out build/tutorials

bench: $(BIN)/tasnet-np
	$(BIN)/pip install --quiet torch==2.13.0
	mkdir -p build
	$(BIN)/python tests/benchmarks/roofline.py --plot build/roofline.png
	$(BIN)/python tests/benchmarks/startup.py --json build/startup.json
	$(BIN)/python tests/benchmarks/cpu_training.py --json build/cpu_training.json
	$(BIN)/python tests/benchmarks/cpu_inference.py --json build/cpu_inference.json

gpu: $(BIN)/tasnet-np
	$(BIN)/pip install --quiet --editable '.[gpu]' nvidia-cuda-nvcc torch==2.13.0
	mkdir -p build
	$(BIN)/python -m pytest tests/compute/test_cuda.py tests/compute/test_ptx.py
	$(BIN)/python tests/benchmarks/gpu.py --parity
	if command -v compute-sanitizer >/dev/null; then for tool in memcheck racecheck; do \
	  compute-sanitizer --tool $$tool --error-exitcode 1 $(BIN)/python tests/benchmarks/gpu.py --step || exit 1; \
	done; else echo "compute-sanitizer was not found: memory and races are not checked"; fi
	$(BIN)/python tests/benchmarks/gpu.py --out build

clean:
	rm -rf $(VENV) demo build *.egg-info
