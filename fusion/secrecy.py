"""Takes secrets out of a text before it is written or sent: values of the environment, and credentials in addresses.

Nothing here writes secrets on purpose. But an error of a library may quote the address, the header or the command that
failed, and its first line goes into run logs, records and messages.
"""

import os
import re
from collections.abc import Mapping
from urllib.parse import quote

_NAME = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|ACCESS_KEY|PRIVATE_KEY|AUTH_STRING|UI_AUTH|CREDENTIAL|WEBHOOK"
    r"|NOTIFY_URL|CONNECTION_URL|DATABASE_URL|SAS)",
    re.IGNORECASE,
)
_NO_SECRET = re.compile(r"(_FILE|_PATH|_PARALLELISM|_EXPIRATION)$", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")
SHORTEST = 6
"""A value that is shorter stands in too many texts by chance."""

HIDDEN = "***"


def is_secret(name: str) -> bool:
    """Whether an environment variable of this name holds a secret."""
    return bool(_NAME.search(name)) and not _NO_SECRET.search(name)


def mask(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """`text` with `***` for every value of a secret variable, and for user and password in addresses."""
    values = {value for name, value in environment.items() if is_secret(name) and len(value) >= SHORTEST}
    for value in sorted(values | {quote(value, safe="") for value in values}, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return _IN_ADDRESS.sub(HIDDEN, text)
