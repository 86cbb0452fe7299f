"""Calls to an OpenAI-compatible endpoint, each paid once: answers are kept, and a build that goes on reads them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cvoice_foundation.errors import CVoiceError

NAME = "calls.jsonl"
TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where models answer.

    Attributes:
        base_url: Of the API, ending in ``/v1`` as a rule.
        model: That writes.
        reader: That reads blind; the same if it is empty.
        temperature: Of the writer; the reader answers at 0.
        max_tokens: Of an answer.
        retries: After 408, 409, 429, 5xx and lost connections, with growing pauses.
        timeout_s: Seconds until a call is lost.
    """

    base_url: str
    model: str
    reader: str = ""
    temperature: float = 1.0
    max_tokens: int = 2000
    retries: int = 5
    timeout_s: float = TIMEOUT_S


@dataclass
class Calls:
    """The calls of a build.

    Attributes:
        endpoint: Where to.
        path: File with a line a call, which later calls read first.
        paid: Calls that were made by this object.
        tokens: Of all calls asked for, kept ones included.
    """

    endpoint: Endpoint
    path: Path
    paid: int = 0
    tokens: int = 0
    _kept: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if importlib.util.find_spec("openai") is None:
            raise CVoiceError("cvoice build needs the openai package: pip install 'cvoice[build]'")
        from openai import OpenAI

        self._client = OpenAI(
            base_url=self.endpoint.base_url,
            # Servers of one's own ask for none, and the client insists on one.
            api_key=os.environ.get("OPENAI_API_KEY") or "none",
            max_retries=self.endpoint.retries,
            timeout=self.endpoint.timeout_s,
        )
        kept = self.path.read_bytes() if self.path.is_file() else b""
        self._cut_off = bool(kept) and not kept.endswith(b"\n")
        for line in kept.split(b"\n"):
            # An interruption may have cut off a line; that call is made again.
            try:
                call = json.loads(line)
                self._kept[call["key"]] = call
            except (ValueError, KeyError, TypeError):
                continue

    def ask(self, prompt: str, seed: int, *, reading: bool = False) -> str:
        """The text of an answer, kept or new.

        Args:
            prompt: The user's message.
            seed: Of the answer; other seeds are other calls.
            reading: Whether the reader is asked, at temperature 0, and not the writer.

        Raises:
            CVoiceError: The endpoint cannot be reached, refuses, or goes on failing.
        """
        model = self.endpoint.reader or self.endpoint.model if reading else self.endpoint.model
        asked: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0.0 if reading else self.endpoint.temperature,
            "max_tokens": self.endpoint.max_tokens,
            "seed": seed,
        }
        key = hashlib.sha256(json.dumps(asked, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
        call = self._kept.get(key)
        if call is None:
            call = {"key": key, **asked, **self._send(asked)}
            self._keep(key, call)
        self.tokens += int(call["tokens"])
        return str(call["answer"])

    def _send(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        from openai import APIError

        self.paid += 1
        try:
            answer = self._client.chat.completions.create(**asked)
        except APIError as error:
            raise CVoiceError(
                f"{self.endpoint.base_url}: {type(error).__name__}: {' '.join(str(error).split())[:300]}; "
                "call again to go on, nothing is paid twice"
            ) from None
        usage = answer.usage
        text = answer.choices[0].message.content if answer.choices else None
        return {"answer": text or "", "tokens": usage.total_tokens if usage else 0}

    def _keep(self, key: str, call: dict[str, Any]) -> None:
        self._kept[key] = call
        try:
            with self.path.open("a", encoding="utf-8") as file:
                # A line of its own, whatever an interruption has left before it.
                file.write("\n" * self._cut_off + json.dumps(call, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            self._cut_off = False
        except OSError as error:
            raise CVoiceError(f"{self.path}: cannot keep an answer: {error.strerror or error}") from None
