# One word each; every word does the set-up that it needs.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.cu' -o -name '*.h')

# As many compilers at a time as there are cores, for each of the builds that run side by side.
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell getconf _NPROCESSORS_ONLN)

# Each process of the tests imports torch; what the first one compiles of it serves the others.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test test-all test-core build-core build-device test-device cross-tools test-arm test-races lint docs format picture bench bench-fakequant bench-qatstep bench-skipping bench-input bench-accuracy bench-blocks-accuracy bench-recipes bench-kernels bench-engine bench-agreement bench-device coverage gpu gpu-wheels clean

setup: .venv/.built

# What installs packages and compiles C++: seconds, and the C++ core needs no more.
.venv/.tools: constraints.txt
	@test -n "$(PYTHON)" || { echo "micronet needs Python 3.11 or newer"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "micronet needs Python 3.11 or newer, $(PYTHON) is older"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q $$(grep -E '^(pip|setuptools|wheel|cmake|ninja)==' constraints.txt)
	@touch $@

# Python compiles the modules that it imports; pip would compile the thousands that nobody does.
.venv/.packages: .venv/.tools
	$(BIN)/python -m pip install -q --no-compile --no-build-isolation -r constraints.txt
	@touch $@

.venv/.built: .venv/.packages setup.py pyproject.toml CMakeLists.txt $(SOURCES)
	$(BIN)/python -m pip install -q --no-build-isolation --no-deps -e .
	@cat build/cuda.txt
	@touch $@

demo: setup
	$(BIN)/python -m micronet.demo

# A process of one thread for each core; a test that wants more threads asks for them. Those that wait
# for each other sleep: the other processes have work for the core.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n auto --dist worksteal

# All but what takes long, in the order of the files.
test: setup build-core
	$(PYTEST) -m "not slow"

# Everything, in an order that is new each time; the seed that repeats it is printed.
test-all: setup build-core
	$(PYTEST) -p randomly

# The C++ tests alone, which `make test` runs among the others.
test-core: build-core
	$(BIN)/ctest --test-dir build/core --output-on-failure --no-tests=error

build-core: .venv/.tools
	$(BIN)/cmake -S . -B build/core -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja
	$(BIN)/cmake --build build/core

# What threads share in the engine, by the sanitizer for races.
RACES := build/races
test-races: .venv/.tools
	$(BIN)/cmake -S . -B $(RACES) -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
	  -DMICRONET_SANITIZE=thread -DMICRONET_EMULATED_CUDA=OFF
	$(BIN)/cmake --build $(RACES) --target engine_test_engine engine_test_calls
	$(BIN)/ctest --test-dir $(RACES) --output-on-failure --no-tests=error -R 'engine_test_(engine|calls)'

# The C++ tests and the engine for 64-bit ARM, by a cross compiler and on an emulator: as on a
# processor that has all instructions, and those of products of bytes on one that lacks some.
CROSS := build/aarch64
cross-tools:
	@command -v aarch64-linux-gnu-g++ > /dev/null && command -v qemu-aarch64 > /dev/null \
	  || { echo "test-arm needs aarch64-linux-gnu-g++ and qemu-aarch64 (of Debian, g++-aarch64-linux-gnu and qemu-user)"; exit 1; }

# The tests that need a device, whole networks among them, on the emulator of the kernels' own tests.
# The module is for tests alone and beside the installed one; with it there is no need of nvcc.
EMULATED := MICRONET_EMULATED_DEVICE=1 PATH="$(abspath $(BIN)):$$PATH"
build-device: .venv/.packages
	$(EMULATED) $(BIN)/python setup.py -q build_ext --build-lib build/emulated

test-device: setup build-device
	$(PYTEST) -p benchmarks.harness.emulated_device -m "device or emulated"

test-arm: cross-tools setup
	$(BIN)/cmake -S . -B $(CROSS) -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
	  --toolchain cmake/aarch64.cmake -DMICRONET_SANITIZE=OFF -DMICRONET_EMULATED_CUDA=OFF
	$(BIN)/cmake --build $(CROSS)
	QEMU_CPU=max $(BIN)/ctest --test-dir $(CROSS) --output-on-failure --no-tests=error
	QEMU_CPU=cortex-a53 $(BIN)/ctest --test-dir $(CROSS) --output-on-failure --no-tests=error -R 'conv|engine'
	MICRONET_AARCH64=$(abspath $(CROSS)) $(PYTEST) tests/artifact/test_aarch64.py

lint: .venv/.packages docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(SOURCES)

# Docstrings are read, not imported, so that no extension is needed. The link gives kernels/ its name.
docs: .venv/.packages
	@mkdir -p build/docs && ln -sfn ../../kernels build/docs/micronet_kernels
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/mkdocs build --strict

format: .venv/.packages
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(SOURCES)

picture:
	$(PYTHON) -m benchmarks.pipeline.picture

bench: setup
	$(BIN)/python -m benchmarks.kernels.table

bench-fakequant: setup
	$(BIN)/python -m benchmarks.kernels.fake_quant

bench-qatstep: setup
	$(BIN)/python -m benchmarks.qat.step --compile

bench-skipping: setup
	$(BIN)/python -m benchmarks.kernels.skipping

bench-input: setup
	$(BIN)/python -m benchmarks.pipeline.input

bench-accuracy: setup
	$(BIN)/python -m benchmarks.pipeline.accuracy

bench-blocks-accuracy: setup
	$(BIN)/python -m benchmarks.pipeline.blocks_accuracy

# ARGS are options of `python -m benchmarks.pipeline.recipes`: hours, seeds, networks.
bench-recipes: setup
	$(BIN)/python -m benchmarks.pipeline.recipes $(ARGS)

bench-kernels: setup
	$(BIN)/python -m benchmarks.cuda.kernels

# Peers of the engine, which need other versions of packages than ours. Those that cannot be installed
# are in the table as such.
build/peers/.installed: benchmarks/engine/requirements.txt
	$(PYTHON) -m venv build/peers
	build/peers/bin/python -m pip install -q --no-compile -r $< && touch $@ \
	  || echo "the peers are not installed; the table says so"

# ARGS are options of `python -m benchmarks.engine`: networks, engines, cores.
bench-engine: setup build/peers/.installed
	$(BIN)/python -m benchmarks.engine --compile $(ARGS)

bench-agreement: setup
	$(BIN)/python -m benchmarks.engine.agreement $(ARGS)

# ARGS are options of `python -m benchmarks.gpu.emulated`: images, networks.
bench-device: setup build-device
	$(BIN)/python -m benchmarks.gpu.emulated $(ARGS)

coverage: setup
	$(BIN)/python -m benchmarks.coverage

# Needs no .venv: a bare machine's own Python serves. ARGS are options of `python -m benchmarks.gpu`.
gpu:
	$(or $(wildcard $(BIN)/python),python3) -m benchmarks.gpu $(ARGS)

# The one package that a machine with torch, but without a network, usually lacks.
gpu-wheels: .venv/.packages
	rm -rf build/wheels
	$(BIN)/python -m pip wheel -q --no-build-isolation --no-deps -w build/wheels \
	  $$(grep '^efficientnet_pytorch==' constraints.txt)

clean:
	rm -rf build .venv *.egg-info kernels/_C*.so
