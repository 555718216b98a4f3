"""A judge behind an address that speaks OpenAI's protocol: asked once for the same words, and never taken at a guess.

A judge that is down, too slow, or does not answer in the form that was asked for raises `JudgeError`, and the column is
INVALID. Nothing here turns a failure into a number.
"""

import json
import os
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from fusion.errors import FusionError
from fusion.evaluation_settings import JudgeSettings
from fusion.files import write_json
from fusion.hashing import json_sha256

CACHE = Path("scratch/judge")
KEY = "FUSION_JUDGE_KEY"
"""The environment variable with the key; it stands in no file, log or record."""
MAX_TOKENS = 64
_MOST = 1 << 20
"""Bytes of an answer; more is babble."""


class JudgeError(FusionError):
    """The judge is not set, down, too slow, or did not answer what was asked."""


class _NoRedirect(HTTPRedirectHandler):
    """The key must not follow to another address."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Judge:
    """Asks, and remembers by content: the same model, words and settings give the remembered answer.

    Attributes:
        calls: requests that were sent.
        failures: those among them that gave nothing that could be read.
        remembered: answers that came from the cache.
        behind: requests behind all that was asked, those of remembered answers too, so that it is the same whenever
            an answer came.
    """

    def __init__(self, settings: JudgeSettings, root: Path = Path()) -> None:
        """Raises `JudgeError` where no judge is set, or its address is none."""
        if settings.address is None or settings.model is None:
            raise JudgeError("no judge is set: give evaluation.judge.address and .model in params.yaml")
        if not settings.address.startswith(("http://", "https://")):
            raise JudgeError(f"evaluation.judge.address: {settings.address} is no http address")
        self._settings = settings
        self._cache = root / CACHE
        self._opener = build_opener(_NoRedirect)
        self.calls = self.failures = self.remembered = self.behind = 0

    def ask(self, prompt: str, readable: Callable[[str], bool]) -> str:
        """The judge's words for `prompt`; only words that are `readable` are remembered and returned.

        Raises:
            JudgeError: after `attempts` tries, with the last reason.
        """
        body = {
            "model": self._settings.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0,
            "max_tokens": MAX_TOKENS,
        }  # fmt: skip
        key = json_sha256(body)
        path = self._cache / key[:2] / f"{key}.json"
        if path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            words = str(kept["words"])
            if readable(words):
                self.remembered += 1
                self.behind += int(kept.get("requests", 1))
                return words
        reason = ""
        for attempt in range(self._settings.attempts):
            if attempt:
                time.sleep(min(self._settings.wait_seconds * 2 ** (attempt - 1), 60.0))
            self.calls += 1
            self.behind += 1
            try:
                words = self._post(body)
            except (OSError, HTTPException, ValueError, KeyError, IndexError, TypeError) as error:
                reason = _told(error)
            else:
                if readable(words):
                    write_json({"request": body, "words": words, "requests": attempt + 1}, path)
                    return words
                reason = f"its words cannot be read: {words[:80]!r}"
            self.failures += 1
        raise JudgeError(
            f"judge {self._settings.model}: {self._settings.attempts} tries failed, the last one: {reason}"
        )

    def _post(self, body: dict[str, Any]) -> str:
        """One request. Its seconds are those of all of it, also of an answer that drips."""
        deadline = time.monotonic() + self._settings.timeout_seconds
        headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {os.environ[KEY]}"
        address = f"{str(self._settings.address).rstrip('/')}/chat/completions"
        request = Request(address, json.dumps(body).encode(), headers)
        data = b""
        with self._opener.open(request, timeout=self._settings.timeout_seconds) as response:
            while piece := response.read1(65536):
                data += piece
                if time.monotonic() > deadline:
                    raise TimeoutError
                if len(data) > _MOST:
                    raise ValueError(f"an answer of more than {_MOST} bytes")
        words = json.loads(data)["choices"][0]["message"]["content"]
        if not isinstance(words, str):
            raise ValueError(f"its answer is no text: {words!r}")
        return words


def _told(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"HTTP {error.code}"
    if isinstance(error, TimeoutError) or (isinstance(error, URLError) and isinstance(error.reason, TimeoutError)):
        return "no answer in time"
    if isinstance(error, URLError):
        return str(error.reason)
    return f"{type(error).__name__}: {error}"[:160]
