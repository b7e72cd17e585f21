"""`--secret` and `--config` of a service: from the line to the API's reference."""

from typing import Any

from swarmctl.values import Bad, truth

Row = dict[str, Any]
_KEYS = {
    "source": "source",
    "src": "source",
    "target": "target",
    "uid": "uid",
    "gid": "gid",
    "mode": "mode",
    "follow": "follow",
    "swap": "swap",
    "signal": "signal",
}


def parse(kind: str, text: str) -> Row:
    """Return the reference of `NAME` or `source=NAME[,target=…,uid=…,gid=…,mode=0444,…]`.

    The other keys are `follow`, `swap` and `signal=NAME`.
    The daemon finds the id. Without `follow` the service keeps what has the name now; with `swap`,
    which follows too, what replaces it goes into running containers, which get the signal.
    """
    found = {"source": text}
    if "=" in text:
        found = {}
        for part in text.split(","):
            name, equals, value = part.partition("=")
            if (key := _KEYS.get(name.strip().lower())) is None:
                raise Bad(f"invalid {kind} {text!r}: unknown key {name!r}")
            found[key] = value if equals else "true"
    source = found.get("source", "")
    if not source:
        raise Bad(f"invalid {kind} {text!r}: source is missing")
    try:
        mode = int(found.get("mode", "0444"), 8)
    except ValueError:
        raise Bad(f"invalid {kind} {text!r}: {found['mode']!r} is not an octal mode") from None
    target = found.get("target") or (source if kind == "secret" else f"/{source}")
    swap = truth("swap", found.get("swap", "false"))
    more = {"Swap": True, "Signal": found.get("signal", "")} if swap else {}
    if "signal" in found and not swap:
        raise Bad(f"invalid {kind} {text!r}: signal needs swap")
    return {
        "File": {
            "Name": target,
            "UID": found.get("uid", "0"),
            "GID": found.get("gid", "0"),
            "Mode": mode,
        },
        f"{kind.title()}Name": source,
        "Follow": swap or truth("follow", found.get("follow", "false")),
        **more,
    }
