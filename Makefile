.PHONY: help check test demo clean commands bench bench-gate soak-engine soak-managers soak-failover soak-drain soak-network soak-partition soak-idle soak-hostile audit soak-fleet soak-sim soak-raft soak-power soak-nemesis mutate fuzz openapi proto fmt
.DEFAULT_GOAL := help
python := .venv/bin/python

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14
check: ## linters, types, import rules; unit, property and simulation tests
	deploy/setup
	deploy/lint
	$(python) -m pytest -q tests/unit tests/property tests/sim
test: ## everything, with the privileged and the end-to-end tests (root)
	deploy/test
demo: ## the guided tour on a lab of five nodes (root)
	deploy/demo
clean: ## remove labs, .venv and caches
	deploy/clean
bench: ## measure, side by side with the peers of deploy/peers
	$(python) -m tests.bench
bench-gate: ## the same, and fail where a budget is missed
	$(python) -m tests.bench --gate
soak-managers: ## all managers killed 20 times during a stream of updates: nothing acknowledged is lost
	$(python) -m tests.soak.managers
soak-failover: ## medians of power cuts: a worker's tasks elsewhere, the next write without the leader
	$(python) -m tests.soak.failover
soak-drain: ## updates, scale-downs and drained nodes under load, 30 of each: no request fails; kills are told of (root)
	$(python) -m tests.soak.drain
soak-network: ## 10,000 random operations on services, networks and nodes: nothing is left or doubled anywhere (root)
	$(python) -m tests.soak.network
soak-partition: ## a node cut off for three minutes: nothing restarts there, all is right within 5 s of healing (root)
	$(python) -m tests.soak.partition --seconds 180
soak-idle: ## a silent connection through the VIP and one through the mesh live for 41 minutes (root)
	$(python) -m tests.soak.idle --minutes 41
soak-hostile: ## 10,000 tries to get in at every port of engine and manager: refused, logged, no growth (root)
	$(python) -m tests.soak.hostile
audit: ## known vulnerabilities of the dependencies (asks the network)
	test -x .cache/audit/bin/pip-audit || (python3 -m venv .cache/audit && .cache/audit/bin/pip install -q pip-audit)
	.cache/audit/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip
soak-fleet: ## a manager with 1,000 simulated nodes and 30,000 tasks for ten minutes: CPU, memory, latencies
	$(python) -m tests.soak.fleet
soak-sim: ## 1,000 simulated clusters, ten minutes each, with faults: no promise is broken
	$(python) -m tests.sim.cluster --seeds 1000 --minutes 10 --jobs 2
soak-raft: ## 2,000 seeds of Raft's own core, a minute each, with faults: no promise is broken
	$(python) -m tests.sim.raft --seeds 2000 --jobs 2
soak-power: ## power cut at every point of a manager's recorded writes, five images of each: it starts with everything
	$(python) -m tests.sim.power
MINUTES ?= 10
soak-nemesis: ## three managers, clients and a nemesis for MINUTES: what the clients saw is linearizable (root)
	$(python) -m tests.soak.nemesis --minutes $(MINUTES)
mutate: ## bugs planted in the control plane one by one: which of them the tests catch
	$(python) -m tests.sim.mutations
commands: ## which commands and flags of the engine tests ran, by docker and by swarmctl (root)
	rm -f .cache/commands && mkdir -p .cache
	.venv/bin/pytest -q -p tests.recorder --record-commands .cache/commands tests/e2e/engine
	$(python) -m tests.exercised .cache/commands
fuzz: ## requests made from the API's document, for ten minutes (root)
	$(python) -m tests.fuzz --seconds 600
openapi: ## print the API's document
	@$(python) -m worker.cluster.document
soak-engine: ## kill -9 of swarmd, supervisor and log pump, 200 times while containers and images come and go (root)
	$(python) -m tests.soak.engine --kills 200
proto: ## generate proto/swarmapi/v1 anew
	cd proto && ../$(python) -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. swarmapi/v1/*.proto
fmt: ## format
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
