"""Tells people how a flow run ended: one JSON document, posted to an address that only the environment knows.

`notify` is a hook of Prefect for `on_failure`, `on_crashed`, `on_cancellation` or `on_completion`. It has a time limit,
and what goes wrong in it is a line in the log: a run never waits for a message, and never fails by one. A hook runs in
the flow's own process; when that is killed with everything else, an automation on the server tells instead
(docs/operations.md).
"""

import contextvars
import json
import logging
import os
import threading
import urllib.request
from typing import Any

from fusion.secrecy import mask

ADDRESS = "FUSION_NOTIFY_URL"
BLOCK = "fusion-notify-url"
"""A Secret block of Prefect with the address, for where the environment has none."""

SECONDS = 10.0
SENDING_SECONDS = 5.0

logger = logging.getLogger("fusion.notify")


def notify(flow: Any, flow_run: Any, state: Any) -> None:
    """Posts what `message` says. Does nothing when there is no address, and returns within `SECONDS` in any case."""
    inside = contextvars.copy_context()  # Prefect keeps the run's settings there.
    thread = threading.Thread(target=inside.run, args=(_tell, flow, flow_run, state), name="notify", daemon=True)
    thread.start()
    thread.join(SECONDS)
    if thread.is_alive():
        logger.warning("no notification was sent: the server did not take it within %.0f s", SECONDS)


def message(flow: Any, flow_run: Any, state: Any) -> dict[str, str]:
    """What is told: flow, run, state, the reason's first line, the run's page; `text` has it all for chat servers."""
    reason = (mask(str(state.message or "")).splitlines() or [""])[0]
    link = _page(flow_run)
    parts = [f"{flow.name} {flow_run.name}: {state.name}", reason, link]
    return {
        "flow": str(flow.name),
        "run": str(flow_run.name),
        "state": str(state.name),
        "reason": reason,
        "link": link,
        "text": "\n".join(part for part in parts if part),
    }


def _tell(flow: Any, flow_run: Any, state: Any) -> None:
    try:
        address = os.environ.get(ADDRESS) or _from_block()
        if address:
            send(address, message(flow, flow_run, state))
    except Exception as error:  # Whatever it is, the run is over and its result stands.
        address = os.environ.get(ADDRESS, "")
        reason = mask(f"{type(error).__name__}: {error}")
        logger.warning("no notification was sent: %s", reason.replace(address, "***") if address else reason)


def send(address: str, document: dict[str, str]) -> None:
    """Posts `document`; raises what urllib raises."""
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"{ADDRESS} is no http or https address")
    body = json.dumps(document, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "fusion"}
    request = urllib.request.Request(address, data=body, headers=headers, method="POST")
    with urllib.request.urlopen(request, timeout=SENDING_SECONDS) as answer:
        answer.read(1024)


def _from_block() -> str | None:
    from prefect.blocks.system import Secret
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is None:
        return None  # There is no server to ask, and asking would start one.
    blocks: Any = Secret
    try:
        block = blocks.load(BLOCK, _sync=True)
    except ValueError:  # There is none of that name.
        return None
    return str(block.get())


def _page(flow_run: Any) -> str:
    from prefect.utilities.urls import url_for

    return url_for("flow-run", obj_id=flow_run.id) or ""
