"""--plan and --plan-version: what is asked for and printed."""

from typing import Any

from tests.unit.swarmctl.conftest import Run
from tests.unit.swarmctl.daemon import Daemon, refusal
from tests.unit.swarmctl.test_service import SERVICE, serve

PLAN: dict[str, Any] = {
    "Version": 77,
    "Fits": False,
    "Services": [
        {
            "ID": SERVICE["ID"],
            "Name": "web",
            "Action": "update",
            "Changes": ['Labels.a: none → "b"'],
            "Create": 1,
            "Replace": 1,
            "Keep": 1,
            "Remove": 1,
            "Unplaced": 1,
            "Tasks": [
                {"Slot": 1, "Action": "keep", "FromNode": "a", "Node": "a", "Unplaced": ""},
                {"Slot": 2, "Action": "replace", "FromNode": "a", "Node": "b", "Unplaced": ""},
                {"Slot": 3, "Action": "create", "FromNode": "", "Node": "", "Unplaced": "no room"},
                {"Slot": 4, "Action": "remove", "FromNode": "b", "Node": "", "Unplaced": ""},
            ],
        }
    ],
}
PRINTED = """\
update web: 1 to create, 1 to replace, 1 to remove, 1 changed in place
    Labels.a: none → "b"
  ~ web.2 replace on b (from a)
  + web.3 create no room
  - web.4 remove was on b
Plan version: 77
"""


def test_a_plan_is_printed_and_nothing_done(daemon: Daemon, ctl: Run) -> None:
    serve(daemon, [])
    daemon.on("POST", "/swarm/v1/plan", PLAN)
    result = ctl("service", "update", "--plan", "--label-add", "a=b", "web")
    assert (result.code, result.out) == (4, PRINTED)
    (item,) = daemon.body("/swarm/v1/plan")["Services"]
    assert (item["Action"], item["ID"], item["Version"]) == ("update", SERVICE["ID"], 43)
    assert item["Spec"]["Labels"] == {"old": "1", "a": "b"}
    daemon.on("POST", "/swarm/v1/plan", {"Version": 5, "Fits": True, "Services": []})
    create = ctl("service", "create", "--plan", "--no-resolve-image", "--name", "new", "busybox")
    assert (create.code, create.out) == (0, "Plan version: 5\n")
    assert ctl("service", "rollback", "--plan", "web").code == 0
    asked = [s.body["Services"][0]["Action"] for s in daemon.seen if s.path == "/swarm/v1/plan"]
    assert asked == ["update", "create", "rollback"]
    assert not [s for s in daemon.seen if s.path.endswith(("/create", "/update"))]


def test_a_plans_version_goes_along_and_its_refusal_is_shown(daemon: Daemon, ctl: Run) -> None:
    serve(daemon, [])
    assert (
        ctl("service", "update", "-d", "--plan-version", "77", "--label-add", "a=b", "web").code
        == 0
    )
    (sent,) = [s for s in daemon.seen if s.path.endswith("/update")]
    assert sent.query["planVersion"] == "77"
    moved = refusal(409, "the cluster moved since plan 7")
    daemon.on("POST", "/services/create", moved)
    result = ctl("service", "create", "--no-resolve-image", "--plan-version", "7", "busybox")
    assert result.code == 1
    assert "the cluster moved since plan 7" in result.err


def test_rebalance_is_planned_followed_and_stopped(daemon: Daemon, ctl: Run) -> None:
    path = "/swarm/v1/rebalance"
    daemon.on("GET", f"{path}/plan", {"Version": 5, "Fits": True, "Services": []})
    result = ctl("cluster", "rebalance", "--plan")
    assert (result.code, result.out) == (0, "Everything is balanced.\nPlan version: 5\n")
    states = [
        {"State": "running", "Moved": 1, "Skipped": []},
        {"State": "done", "Moved": 2, "Skipped": []},
    ]
    daemon.on("POST", path, {"State": "running", "Moved": 0, "Skipped": []})
    daemon.on("GET", path, lambda seen: states.pop(0))
    result = ctl("cluster", "rebalance", "--plan-version", "5")
    assert (result.code, result.out) == (0, "1 moved\n2 moved\nEverything is balanced.\n")
    (sent,) = [s for s in daemon.seen if s.method == "POST"]
    assert sent.query == {"planVersion": "5"}
    daemon.on("DELETE", path, {"State": "done", "Moved": 2, "Skipped": ["web"]})
    result = ctl("cluster", "rebalance", "--stop", "-q")
    assert (result.code, result.out) == (1, "")
    assert result.err == "a move failed or an update is not over, left as they are: web\n"
