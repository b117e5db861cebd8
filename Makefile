# make chat       talk to the embedded model
# make test       prove the code right, in three processes, since slow tests often wait; make quick: the part of it that takes a minute
# make test-all   everything: also sanitizers, and clients from npm if node is there
# make coverage   lines of src that the tests run, with the processes that they start
# make sanitize   the kernels' tests under ASAN and UBSAN
# make mutants    plant small faults and count how many the tests notice; GROUP=cache SAMPLE=40|all (docs/mutants.md)
# make wheel      wheels for Linux x86-64 that need no compiler, into dist: for CPython 3.11, and for 3.12 and newer
# make wheel-check   those wheels and the sdist in empty environments: install, answer, kernels' tests, equal bits
# make receipt    run what the pages claim and write docs/receipts; an hour, and two more for the lines that need 24 GB and an idle machine; goes on where it was stopped at the same commit
# Each sets up what it needs: .venv, or environments below build.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KERNEL_TESTS := tests/kernels/test_native.py tests/kernels/test_native_model.py tests/kernels/test_not_finite.py tests/kernels/test_huge_pages.py
SOURCES := pyproject.toml CMakeLists.txt $(shell find src -name '*.py' -o -name '*.cc' -o -name '*.h' -o -name '*.json' -o -name '*.jinja' -o -name '*.safetensors' 2>/dev/null)

unexport PYTHONDONTWRITEBYTECODE  # test files that are not kept compiled are compiled again by each process
.PHONY: chat test quick test-all coverage mutants sanitize wheel wheel-check nano-eval receipt clean

chat: $(VENV)/.installed
	$(BIN)/a3b chat

test: $(VENV)/.tested
	$(BIN)/python -m pytest -n 3 --dist worksteal || { test $$? = 1 && \
	  echo "once more, without others beside them: machines that stall for seconds break tests that wait for programs" && \
	  $(BIN)/python -m pytest --last-failed --last-failed-no-failures none; }

quick: $(VENV)/.tested
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal

test-all: test sanitize
	$(BIN)/python -m bench.clients.install build/clients
	$(BIN)/python -m bench.clients --dir build/clients

coverage: $(VENV)/.tested
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n 2
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

sanitize: $(VENV)/.tested
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target build/sanitize \
	  --config-settings=cmake.define.A3B_SANITIZE=ON --config-settings=install.strip=false --config-settings=build-dir=build/sanitize-objects .
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
	  UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=build/sanitize $(BIN)/python -m pytest $(KERNEL_TESTS)

mutants: $(VENV)/.tested
	@$(BIN)/pip install --quiet --disable-pip-version-check '.[mutants]'
	$(BIN)/python -m bench.mutants $(GROUP) --sample $(or $(SAMPLE),40) --seed $(or $(SEED),0)

nano-eval: $(VENV)/.tested
	$(BIN)/python -m nano.evaluate
	$(BIN)/python -m nano.fix_agent

receipt: $(VENV)/.tested
	$(BIN)/python -m bench.receipt --resume

wheel:
	@packaging/needed.sh $(PYTHON)
	@$(PYTHON) packaging/make_wheels.py dist

wheel-check: wheel
	@$(PYTHON) packaging/check_wheels.py dist --kernel-tests $(KERNEL_TESTS)

$(VENV)/.created:
	@packaging/needed.sh $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created $(SOURCES)
	@packaging/needed.sh $(BIN)/python
	@echo "installing a3b into $(VENV) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	@$(BIN)/pip install --quiet --disable-pip-version-check '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) dist build
