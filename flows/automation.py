"""`python -m flows.automation`: makes the server itself tell when a run fails or crashes, or its worker dies.

A hook (flows/notify.py) runs in the flow's process, so it says nothing when that was killed. An automation runs in the
server. It sends through a block, in which the server keeps the address: by default one made of FUSION_NOTIFY_URL, or
any notification block that somebody made on the page, for example for e-mail. Run again, it brings both up to date.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from flows.environment import prepare
from flows.errors import FlowError
from flows.notify import ADDRESS, BLOCK

NAME = "fusion: runs that went wrong"
STATES = ("Failed", "Crashed", "TimedOut")
SUBJECT = "{{ flow.name }} {{ flow_run.name }}: {{ flow_run.state.name }}"
BODY = "{{ flow_run.state.message }}\n{{ flow_run|ui_url }}"


def create(block: str | None = None) -> str:
    """Creates or updates the automation; returns what was done.

    Args:
        block: TYPE/NAME of a notification block; one for FUSION_NOTIFY_URL if left out.

    Raises:
        FlowError: there is no address, or no such block.
    """
    from prefect.automations import Automation
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.automations import EventTrigger, Posture

    automation: Any = Automation
    wanted = automation(
        name=NAME,
        description="Made by `python -m flows.automation`.",
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{state}" for state in STATES},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[SendNotification(block_document_id=_block(block), subject=SUBJECT, body=BODY)],
    )
    try:
        there = automation.read(name=NAME)
    except ValueError:  # There is none of that name.
        wanted.create()
        return f"created the automation `{NAME}`"
    wanted.id = there.id
    wanted.update()
    return f"brought the automation `{NAME}` up to date"


def _block(name: str | None) -> Any:
    """The id of the block to send through."""
    from prefect.blocks.core import Block
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    if name is not None:
        blocks: Any = Block
        try:
            return blocks.load(name, _sync=True)._block_document_id
        except ValueError as error:
            raise FlowError(f"the server has no block `{name}`: {error}") from error
    address = os.environ.get(ADDRESS)
    if not address:
        raise FlowError(f"{ADDRESS} names no address: set it, or name a notification block with --block TYPE/NAME")
    kind: Any = CustomWebhookNotificationBlock
    # The server keeps `secrets` encrypted, and shows them to nobody; the address of a webhook is one.
    text = {"text": "{{subject}}\n{{body}}", "subject": "{{subject}}"}
    webhook = kind(name="fusion", url="{{address}}", secrets={"address": address}, json_data=text)
    return webhook.save(f"{BLOCK}-webhook", overwrite=True, _sync=True)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.automation", description=__doc__.splitlines()[0])
    parser.add_argument("--block", metavar="TYPE/NAME", help="a notification block to send through")
    options = parser.parse_args(arguments)
    prepare(Path("."))
    try:
        print(create(options.block))
    except FlowError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
