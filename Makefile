.DEFAULT_GOAL := help
.PHONY: help run test test-e2e test-lambda test-cdk chaos fuzz example lint format lambda synth deploy bench bench-lambda prerequisites

# rustup puts cargo here, and not every shell has it on its path.
export PATH := $(HOME)/.cargo/bin:$(PATH)

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# A debug build: it is compiled in half the time of a release build, and locally the time goes into Chromium.
run: ## a server on http://127.0.0.1:8080 with the key wc_dev; Ctrl-C ends it and its browsers
	@scripts/prerequisites run
	@cargo run

test: ## all tests: Rust with a real Redis and Chromium, then Playwright, Puppeteer and Stagehand against the built server
	@scripts/prerequisites test
	# Many of the tests wait more than they work: for a timer, a lost container, a Redis that is away.
	RUST_TEST_THREADS=4 cargo test
	@scripts/test-e2e

test-e2e: ## only the real clients; FILES="ends isolation" picks some
	@scripts/prerequisites test
	@scripts/test-e2e $(FILES)

test-lambda: lambda ## what `make lambda` packed, driven as Lambda drives it, and frozen a thousand times
	@scripts/prerequisites run
	WALLCRAWLER_BOOTSTRAP=$(CURDIR)/target/lambda/bootstrap WALLCRAWLER_FREEZES=1000 \
		cargo test --test it -- lambda::bootstrap lambda::relay

test-cdk: ## what is deployed to AWS, as far as it can be tried without an account: types, tests, cdk-nag, linters
	@scripts/prerequisites cdk
	@scripts/test-cdk

# The shell has a SECONDS of its own, which counts; this is the one that was given.
chaos: export SECONDS := $(or $(SECONDS),300)
chaos: ## everything killed, frozen and cut off at once; SECONDS=300 SEED=7 says for how long, and which storm
	@scripts/prerequisites run
	cargo test --test chaos

fuzz: SECONDS := $(or $(SECONDS),180)
fuzz: ## tokens, commands, bodies and events, from random bytes; SECONDS=180 for each, TARGETS="tokens bodies" picks some
	@scripts/prerequisites run
	@scripts/fuzz $(SECONDS) $(TARGETS)

example: ## the example program, against the server that `make run` started
	@scripts/prerequisites test
	cd examples && npm ci && node open_a_page.mjs

lint: ## formatting, clippy (also of the Lambda build), docs, dependencies, scripts; every warning is an error
	@scripts/lint

format: ## put the Rust code into shape
	cargo fmt

lambda: ## the function, built and packed: target/lambda/wallcrawler.zip; ARCH=arm64 for Graviton, in target/lambda/arm64
	@scripts/prerequisites lambda
	@scripts/lambda

synth: ## the templates of all stages, in cdk/cdk.out: needs no account, no Docker, no built function
	@scripts/prerequisites cdk
	@scripts/synth

deploy: ## all of it into the AWS account that the shell is logged in to; STAGE=dev, staging or prod
	@scripts/prerequisites cdk
	@scripts/deploy "$(STAGE)"

bench: ## the measurements of the server that the README quotes
	@scripts/prerequisites run
	cargo bench --bench first_answer --bench relay --bench store

bench-lambda: lambda ## the measurements of the function
	@scripts/prerequisites run
	@scripts/lambda hello-world
	# What asks may be a debug build: what is measured is another program, beside another that is asked likewise.
	cargo bench --profile dev --bench lambda

prerequisites: ## install what running and testing need, if it is missing (Debian, Ubuntu), or say what is missing
	@scripts/prerequisites test
