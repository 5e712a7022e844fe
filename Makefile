# The project's commands. `make help` lists them. Each does its own set-up; all that must be there is Go
# (and Java 17 with Maven for the tests against a real Kafka).

GO        ?= go
TOOLS     := $(CURDIR)/.tools
RUNFLAGS  ?=
TESTFLAGS ?=
BENCHFLAGS ?=
BUGS      ?=
FUZZTIME  ?= 20s
CHAOS_TIME ?= 60m
CHAOS_SEED ?=

GOLANGCI_VERSION    := v2.15.0
GOVULNCHECK_VERSION := v1.9.0
GITLEAKS_VERSION    := v8.30.0
GOLANGCI    := $(TOOLS)/golangci-lint-$(GOLANGCI_VERSION)/golangci-lint
GOVULNCHECK := $(TOOLS)/govulncheck-$(GOVULNCHECK_VERSION)/govulncheck
GITLEAKS    := $(TOOLS)/gitleaks-$(GITLEAKS_VERSION)/gitleaks

# The race detector needs a C compiler; without one the tests run without it, and say so.
CC_FOUND := $(shell command -v $(or $(CC),gcc) 2>/dev/null || command -v cc 2>/dev/null)
RACE     := $(if $(CC_FOUND),-race)

.DEFAULT_GOAL := help
.PHONY: help build run test bugs lint fmt bench fuzz chaos vuln secrets licences same check clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## the static binary, bin/kateway
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/kateway ./cmd/kateway

run: build ## the gateway on the embedded store, data in ./kateway-data (RUNFLAGS="--log-level debug" adds flags)
	exec bin/kateway serve $(RUNFLAGS)

test: ## all tests, with the race detector; against a real Kafka too where Java and Maven are there
	@left=$$(mktemp); trap 'rm -f "$$left"' EXIT; code=0; \
	[ -n "$(RACE)" ] || echo "the race detector: there is no C compiler (gcc)" >>"$$left"; \
	KATEWAY_TEST_NOTCOVERED="$$left" $(GO) test $(RACE) -timeout 45m $(TESTFLAGS) ./... || code=$$?; \
	if [ -s "$$left" ]; then echo; echo "NOT COVERED by this run:"; sort -u "$$left" | sed 's/^/  /'; fi; \
	exit $$code

bugs: ## plants bugs, one at a time, and demands that the tests find them (BUGS=REGEXP for some of them)
	KATEWAY_TEST_BUGS=all $(GO) test -count=1 -timeout 45m -parallel 4 -v $(if $(BUGS),-run '^TestBugs$$/$(BUGS)') ./test/bugs

lint: $(GOLANGCI) ## style, faults and the architecture (.golangci.yml)
	$(GOLANGCI) run ./...

fmt: $(GOLANGCI) ## formats the code
	$(GOLANGCI) fmt ./...

bench: build ## the gateway beside its floors, as one table (BENCHFLAGS="-run REGEXP" for some of it)
	$(GO) run ./bench $(BENCHFLAGS)

fuzz: ## every fuzz target, FUZZTIME (20s) each
	@set -e; for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "== $$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

chaos: ## real servers broken one after the other for CHAOS_TIME (60m), written to docs/chaos.md (as root; CHAOS_SEED=N repeats one)
	KATEWAY_TEST_KAFKA=require KATEWAY_TEST_CHAOS=$(CHAOS_TIME) KATEWAY_TEST_SEED=$(CHAOS_SEED) KATEWAY_TEST_CHAOS_REPORT=$(CURDIR)/docs/chaos.md \
		$(GO) test -count=1 -timeout 24h -v -run '^TestFaults$$' ./test/faults

vuln: $(GOVULNCHECK) ## known vulnerabilities in what the binary calls
	@code=0; out=$$($(GOVULNCHECK) ./... 2>&1) || code=$$?; echo "$$out"; \
	case $$code in \
	0) ;; \
	3) exit 3 ;; \
	*) if echo "$$out" | grep -q 'fetching vulnerabilities'; then \
		echo "NOT COVERED: the vulnerability database can't be reached from here"; \
	   else exit $$code; fi ;; \
	esac

secrets: $(GITLEAKS) ## passwords, keys and tokens in all commits (.gitleaks.toml)
	$(GITLEAKS) git --no-banner --redact .

licences: ## the licence of each module that the binary has in it
	@$(GO) test -count=1 -v -run '^TestLicences$$' ./test | sed -n 's/^ *licences_test.go:[0-9]*: //p; /^\(FAIL\|ok\)/p'

same: ## whether another folder and an empty cache make the same binary of this commit; it builds twice
	@d=$$(mktemp -d); trap 'chmod -R u+w "$$d"; rm -rf "$$d"' EXIT; set -e; \
	for n in one another/folder; do \
		git clone -q . "$$d/$$n/src"; \
		(cd "$$d/$$n/src" && GOCACHE="$$d/$$n/cache" CGO_ENABLED=0 $(GO) build -trimpath -o "$$d/$$n/kateway" ./cmd/kateway); \
		sha256sum <"$$d/$$n/kateway"; \
	done; \
	cmp "$$d/one/kateway" "$$d/another/folder/kateway"

check: lint vuln secrets test bugs ## what CI runs

clean: ## removes what was built, not the data
	rm -rf bin .tools

# Tools are installed by version into a folder that git ignores, so that they never weigh on go.mod.
$(GOLANGCI):
	GOBIN=$(@D) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)

$(GOVULNCHECK):
	GOBIN=$(@D) $(GO) install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)

$(GITLEAKS):
	GOBIN=$(@D) $(GO) install github.com/zricethezav/gitleaks/v8@$(GITLEAKS_VERSION)
