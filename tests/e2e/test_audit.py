"""The audit log of a cluster: a call to a follower names its caller on the leader, too."""

import json

from tests.e2e.lab import LabHandle


def test_a_forwarded_call_names_its_caller_on_both_managers(lab: LabHandle) -> None:
    leader = lab.leader("m1")
    follower = next(node for node in lab.managers() if node != leader)
    ids = {node: lab.api(node, "GET", "/info").body["Swarm"]["NodeID"] for node in lab.managers()}
    lab.run("exec", follower, "sh", "-c", "printf hunter2 | swarmctl secret create audited -")
    created = ("--filter", "path=/secrets", "--filter", "path=/v1.50/secrets", "--format", "json")
    (asked,) = map(json.loads, lab.swarmctl(follower, "system", "audit", *created).splitlines())
    assert (asked["Source"], asked["Who"], asked["Role"]) == ("engine", "uid 0", "operator")
    wanted = ("--filter", "object=audited", "--format", "json")
    (answered,) = map(json.loads, lab.swarmctl(leader, "system", "audit", *wanted).splitlines())
    assert (answered["Source"], answered["Node"], answered["Via"]) == (
        "manager",
        ids[leader],
        ids[follower],
    )
    same = ("Who", "Role", "Pid", "Method", "RequestId", "Status")
    assert [answered[key] for key in same] == [asked[key] for key in same]
    for node in lab.managers():
        assert "hunter2" not in lab.swarmctl(node, "system", "audit", "--format", "json")
    assert lab.swarmctl(leader, "secret", "rm", "audited") == "audited\n"
