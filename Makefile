# make demo: train for two minutes on data/, denoise a clip, look at the result.   make test: every check.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test clean

$(BIN)/tasnet-np: setup.cfg
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

demo: $(BIN)/tasnet-np
	rm -rf demo
	$(BIN)/tasnet-np train --speech data/speech --noise data/noise --out demo/run --minutes 2
	$(BIN)/tasnet-np denoise data/noisy/noisy-mono-8k.wav --model demo/run -o demo/speech.wav --noise-out demo/noise.wav
	$(BIN)/tasnet-np compare --clean data/noisy/clean-mono-8k.wav data/noisy/noisy-mono-8k.wav demo/speech.wav --plot demo/spectrograms.png

test: $(BIN)/tasnet-np
	$(BIN)/python -m pytest
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest tests/test_ops.py tests/test_gradcheck.py tests/test_layers.py

clean:
	rm -rf $(VENV) demo build *.egg-info
