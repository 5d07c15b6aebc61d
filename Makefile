# make book · make test · make bench · make notebook NB=book/x.ipynb · make student · make picture · make data-page
# make address URL=https://github.com/owner/name · make lock · make clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NB ?= $(wildcard book/*.ipynb)

.PHONY: book test notebook student bench picture data-page address lock clean

$(VENV)/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	    { echo "Python 3.11 to 3.13 is needed, $(PYTHON) is not: try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Every page is built each time: a page that Sphinx skips would not be checked again for warnings and broken links.
# Pages of source go first: Sphinx would keep those whose source is older, with the anchors of the last build.
book: $(VENV)/.installed
	@rm -rf book/_build/html/_modules
	@$(BIN)/jupyter-book build book --config _config.yml --path-output book --all --warningiserror --keep-going --quiet
	@echo "$(CURDIR)/book/_build/html/index.html"

# One comparison: make bench NAME=windows. One thread everywhere, so that the times of two libraries can be compared.
.venv-bench/.installed: benchmarks/requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/requirements.txt
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

bench: .venv-bench/.installed
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 .venv-bench/bin/python -m benchmarks.run $(NAME)

# Two processes share the work, chapters too; each keeps to one thread so that they do not fight.
test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -rs -n 2 --dist loadfile
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile --nbval book

# Executes and normalises notebooks: all, or NB=book/x.ipynb.
notebook: $(VENV)/.installed
	$(BIN)/python tools/notebook.py $(NB)

# Chapters without solutions and outputs, in student/: all, or NB=book/x.ipynb.
student: $(VENV)/.installed
	@$(BIN)/python tools/student.py $(NB)

# The pictures of the README and the landing page, and the map of the chapters.
picture: $(VENV)/.installed
	$(BIN)/python tools/picture.py
	$(BIN)/python tools/chapter_map.py

# The page of data sets and its pictures, from the cards.
data-page: $(VENV)/.installed
	$(BIN)/python tools/data_page.py

# Gives the repository another address, everywhere: make address URL=https://github.com/owner/name.
address: $(VENV)/.installed
	@$(BIN)/python tools/address.py "$(URL)"

# The CUDA packages that some builds of torch ask for stay out of the lock, so that it serves the CPU build too.
lock:
	$(PYTHON) -m pip install --quiet "uv>=0.8"
	echo "torch==2.13.0" | $(PYTHON) -m uv pip compile pyproject.toml --constraint - \
	    --extra book --extra test --universal --python-version 3.11 \
	    --no-annotate --no-emit-index-url --custom-compile-command "make lock" --output-file requirements.txt
	sed -i.bak -E '/^(nvidia|cuda|triton)/d' requirements.txt && rm requirements.txt.bak

clean:
	rm -rf $(VENV) .venv-bench book/_build .pytest_cache .ruff_cache
