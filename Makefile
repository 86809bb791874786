# Two targets do everything on a fresh Debian machine: `make demo` and `make test`.
.PHONY: help setup demo test coverage lint setup-real bases test-real test-packages test-lowest test-long test-slots test-station test-station-short test-boot test-checks test-networks test-recipes test-cuts test-cluster test-boot-gateway test-browser test-install test-container test-gateway soak bench faults pictures wheel man install deb release clean
.DEFAULT_GOAL := help

# Loop devices and mounts need root; a user with sudo has it for the commands that do.
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo -E PYTHONDONTWRITEBYTECODE=1 PIIMG_CACHE=$(CURDIR)/.cache/piimg)
# Files that root created in this folder get the user's owner, also after a failure.
DONE := $(if $(SUDO),; status=$$?; sudo chown -R $(shell id -u):$(shell id -g) . ; exit $$status)
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -p no:cacheprovider
RELEASES := bookworm
PREFIX := /usr/local
LOWEST := .cache/lowest
CYCLES := 200
CUTS := 10
BASES := bookworm trixie bullseye
GATEWAYS := bookworm trixie
ORDERS := 50
SCRIPTS := $(addprefix scripts/,make-debian-base make-deb make-install make-release make-share make-specimen bench/run)
COVERED := tests/unit tests/integration
LEAST := 70
COMMIT := HEAD

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## install the Debian packages and a virtual environment
	@sh scripts/setup

demo: setup ## build the example cluster and flash it to six virtual cards
	@$(SUDO) scripts/demo $(DONE)

test: setup lint ## check the code and run the tests
	$(SUDO) $(PYTEST) -n 2 $(ARGS) $(DONE)

coverage: setup ## measure how much of the code the tests run; lists the modules below LEAST % (15 min; COVERED=tests/unit: 4 min)
	rm -rf .cache/coverage && mkdir -p .cache/coverage
	$(SUDO) env COVERAGE_FILE=$(CURDIR)/.cache/coverage/data $(BIN)/coverage run -m pytest -p no:cacheprovider -n 2 $(COVERED) $(ARGS) $(DONE)
	$(BIN)/coverage combine --quiet --data-file .cache/coverage/data
	@$(BIN)/coverage report --data-file .cache/coverage/data --sort cover | awk '/^TOTAL/ || $$NF + 0 < $(LEAST)'

test-lowest: setup ## run the unit tests with the lowest versions of libraries that pyproject.toml allows (3 min)
	rm -rf $(LOWEST) && python3 -m venv $(LOWEST)
	scripts/lowest-versions > $(LOWEST)/constraints
	$(LOWEST)/bin/pip install --quiet --constraint $(LOWEST)/constraints --editable '.[web]' hypothesis jsonschema pyte pytest pytest-timeout pytest-xdist
	$(LOWEST)/bin/python -m pytest -p no:cacheprovider -n 2 tests/unit $(ARGS)

lint: setup ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=overlays/master/root/usr/local/lib/piimg $(BIN)/mypy -p piimg_gateway
	MYPYPATH=scripts $(BIN)/mypy --scripts-are-modules $(SCRIPTS)
	MYPYPATH=scripts $(BIN)/mypy -p bench

bases: setup-real ## make the Debian systems that tests boot, and cache them (12 min the first time)
	@$(MAKE) --no-print-directory -j 2 $(addprefix base-,$(BASES))

setup-real: setup
	@sh scripts/setup scripts/debian-packages-real

base-%: setup-real
	$(SUDO) scripts/make-debian-base $* $(DONE)

test-real: $(addprefix base-,$(RELEASES)) ## the main workflow on a real Debian system: build all, flash, check every card (10 min)
	$(SUDO) env PIIMG_RELEASES="$(RELEASES)" $(PYTEST) -m real $(ARGS) $(DONE)

test-packages: $(addprefix base-,$(RELEASES)) ## packages and build scripts in a real Debian system, with and without root (4 min)
	$(SUDO) env PIIMG_RELEASES="$(RELEASES)" $(PYTEST) -m packages $(ARGS) $(DONE)

test-long: setup ## the slow tests of builds and cards: faulty cards, kills, properties, whole trees compared (6 min)
	$(SUDO) $(PYTEST) -n 2 -m long $(ARGS) $(DONE)

test-slots: setup ## run the station while cards are inserted, pulled and swapped (5 min)
	$(SUDO) $(PYTEST) -m slots $(ARGS) $(DONE)

test-station: setup ## real readers: cards plugged in, pulled and swapped in a PC with USB, in emulation (30 min)
	@sh scripts/setup scripts/debian-packages-deb scripts/debian-packages-guest
	$(SUDO) $(PYTEST) -m station $(ARGS) $(DONE)

test-station-short: setup ## the five shortest tests of test-station (9 min)
	@sh scripts/setup scripts/debian-packages-deb scripts/debian-packages-guest
	$(SUDO) $(PYTEST) --durations=0 -m station_short $(ARGS) $(DONE)

test-boot: bases ## build and boot a node on every base (10 min)
	$(SUDO) env PIIMG_RELEASES="$(BASES)" $(PYTEST) --durations=0 -m boot $(ARGS) $(DONE)

test-checks: bases ## break nodes in every way that a check finds; a board's own kernel; repeated first boots; the tutorial (20 min)
	$(SUDO) env PIIMG_RELEASES="$(BASES)" $(PYTEST) -m checks $(ARGS) $(DONE)

test-networks: bases ## boot nodes on other networks on every base: static uplink, VLAN, IPv6, no gateway, DHCP (20 min)
	$(SUDO) env PIIMG_RELEASES="$(BASES)" $(PYTEST) --durations=0 -m networks $(ARGS) $(DONE)

test-recipes: bases ## boot nodes with the ready layers of docs/recipes.md on every base (27 min)
	$(SUDO) env PIIMG_RELEASES="$(BASES)" $(PYTEST) -s --durations=0 -m recipes $(ARGS) $(DONE)

test-cuts: base-trixie ## cut the power of booting nodes, two at a time, at CUTS moments in three boots each; PIIMG_SEED=N picks other moments (25 min; CUTS=3: 11 min)
	$(SUDO) env PIIMG_CUTS="$(CUTS)" PIIMG_SEED="$(PIIMG_SEED)" $(PYTEST) -s -m cuts $(ARGS) $(DONE)

test-cluster: base-bookworm $(addprefix base-,$(RELEASES)) ## boot clusters on a virtual switch: check six nodes, break pairs, run the examples (40 min)
	$(SUDO) env PIIMG_RELEASES="$(RELEASES)" $(PYTEST) -s --durations=0 -m cluster $(ARGS) $(DONE)

test-boot-gateway: base-bookworm ## boot a master with Docker, and one with ufw, each with a worker (15 min)
	$(SUDO) $(PYTEST) -s --durations=0 -m boot_gateway $(ARGS) $(DONE)

test-browser: setup ## look at the pages that piimg makes in Chromium, on screens and on paper (2 min)
	@sh scripts/setup scripts/debian-packages-browser
	$(SUDO) $(PYTEST) -m browser $(ARGS) $(DONE)

test-install: setup ## install piimg in minimal Debian systems, and follow piimg doctor (3 min)
	@sh scripts/setup scripts/debian-packages-deb scripts/debian-packages-install
	$(SUDO) $(PYTEST) -m install $(ARGS) $(DONE)

soak: setup ## flash CYCLES cards, many of them faulty, with one station of 24 slots; PIIMG_SEED=N repeats a run (6 min)
	$(SUDO) env PIIMG_SOAK="$(CYCLES)" PIIMG_SEED="$(PIIMG_SEED)" $(PYTEST) -s -m soak $(ARGS) $(DONE)

test-container: base-bookworm ## build in containers, with the steps of the CI workflow and with every set of privileges (6 min)
	@sh scripts/setup scripts/debian-packages-container
	$(SUDO) env PIIMG_RELEASES=bookworm $(PYTEST) -m container $(ARGS) $(DONE)

test-gateway: setup ## the gateway with Docker, ufw, firewalld and custom rules (4 min per release in GATEWAYS)
	@sh scripts/setup scripts/debian-packages-gateway
	$(SUDO) env PIIMG_RELEASES="$(GATEWAYS)" PIIMG_ORDERS="$(ORDERS)" PIIMG_SEED="$(PIIMG_SEED)" $(PYTEST) -n 2 -m gateway $(ARGS) $(DONE)

bench: setup ## benchmark piimg, an older build and other tools on virtual cards (40 min; ARGS=--quick: about 10 min)
	@sh scripts/setup scripts/debian-packages-bench scripts/debian-packages-browser
	@command -v npm >/dev/null || sh scripts/setup scripts/debian-packages-npm
	$(SUDO) $(BIN)/python scripts/bench/run $(ARGS) $(DONE)

faults: setup ## regenerate docs/faults.md from the results of the fault tests
	$(SUDO) env PIIMG_WRITE_FAULTS=1 $(PYTEST) -m long tests/integration/card/test_faults*.py $(ARGS) $(DONE)

pictures: setup ## take the pictures of docs/pictures anew (1 min)
	@sh scripts/setup scripts/debian-packages-browser
	$(SUDO) env PIIMG_WRITE_PICTURES=1 $(PYTEST) -m "" tests/integration/card/test_pictures.py tests/system/browser/web/test_pictures.py $(DONE)

wheel: setup ## build the wheel in dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

man: setup ## write the manual pages and the shell completions to dist/share
	$(BIN)/python scripts/make-share dist/share

install: setup ## install to PREFIX (default /usr/local), below DESTDIR if set
	@sh scripts/setup scripts/debian-packages-deb
	$(if $(DESTDIR),,$(SUDO)) $(BIN)/python scripts/make-install "$(PREFIX)" "$(DESTDIR)" $(if $(DESTDIR),,$(DONE))

deb: setup ## build a Debian package in dist/
	@sh scripts/setup scripts/debian-packages-deb
	$(BIN)/python scripts/make-deb dist

release: setup ## build the sdist, the wheel, the Debian package and SHA256SUMS of COMMIT (default: HEAD) in dist/
	@sh scripts/setup scripts/debian-packages-deb
	$(BIN)/python scripts/make-release $(COMMIT) dist

clean: ## remove everything that the targets above made in this folder
	rm -rf .venv .cache dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
