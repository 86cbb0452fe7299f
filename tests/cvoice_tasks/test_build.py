"""Building items: a scripted endpoint, good, faulty, slow and broken by turns, and a real one that talks nonsense."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvoice_foundation.errors import CVoiceError
from cvoice_tasks.audit import audit
from cvoice_tasks.build import Order, build
from cvoice_tasks.build_calls import NAME, Endpoint
from cvoice_tasks.build_steps import STEPS, UnreadError, _fields, prompt_text
from cvoice_tasks.items import load_items, twin_ids
from tests.lm_eval_runs import save_tiny_model

ORDER = Order("integrity", 2)


def step_of(prompt: str) -> str:
    return next(step for step in STEPS if prompt.rsplit("\n", 2)[-2:] == prompt_text(step).rsplit("\n", 2)[-2:])


class Writer:
    """Answers each step as a good model would: two pairs of towns, and a reader who sees which act is right."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.pairs = 0

    def __call__(self, prompt: str) -> str:
        self.prompts.append(prompt)
        return json.dumps(getattr(self, step_of(prompt))(prompt), ensure_ascii=False)

    def setting(self, prompt: str) -> Any:
        self.pairs += 1
        n = self.pairs
        names = {"topic_zh": f"还书{n}", "topic_en": f"book {n}", "name_zh": "小周", "name_en": "Zhou"}
        return names | {"place": f"A library in town {n}.", "person": "A clerk."}

    def acts(self, prompt: str) -> Any:
        return {"acts": ["今天把书送到河东的学校里去。", "今天把书送到河西的医院里去。"]}

    def story(self, prompt: str) -> Any:
        right = re.search(r"in which act (\d)", prompt)[1]  # type: ignore[index]
        town = re.search(r"town (\d)", prompt)[1]  # type: ignore[index]
        filler = "".join(chr(0x4E00 + int(town) * 900 + int(right) * 300 + i) for i in range(100))
        return {"story": f"小周守着图书室，第{right}处有人等着。{filler}"}

    def other_language(self, prompt: str) -> Any:
        found = {
            f"story_{twin}": " ".join(f"w{hash((prompt, twin, i)) % 10**6}" for i in range(60)) + f" place {right}"
            for twin, right in (("a", 1), ("b", 2))
        }
        acts = [f"Takes all the books to the {place} this afternoon." for place in ("school", "hospital")]
        return found | {"acts": acts}

    def rationale(self, prompt: str) -> Any:
        return {"zh": "他说到做到。", "en": "He keeps his word."}

    def reading(self, prompt: str) -> Any:
        right = re.search(r"第(\d)处|place (\d)", prompt)
        assert right is not None
        wanted = "河东" if (right[1] or right[2]) == "1" else "河西"
        first = prompt.partition("Act 1:")[2].partition("Act 2:")[0]
        english = "school" if wanted == "河东" else "hospital"
        return {"act": 1 if wanted in first or english in first else 2, "value": "integrity", "second": "justice"}


Answer = Callable[[str], Any]


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    """A scripted endpoint; ``answer`` gives the text, or a pair of HTTP status and body."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = answer(asked["messages"][0]["content"])
            if isinstance(found, tuple):
                status, body = found
            else:
                message = {"role": "assistant", "content": found}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
                whole = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
                status, body = 200, json.dumps(whole | {"choices": [choice], "usage": usage}).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                # The client waits as long as it is told to.
                self.send_header("Retry-After", "0.01")
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                return  # the client has given up, as it should

        def log_message(self, *_: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}/v1"
    finally:
        listening.shutdown()
        listening.server_close()


def run(url: str, out: Path, order: Order = ORDER, **settings: Any) -> Any:
    return build(order, Endpoint(url, "m", **settings), out, progress=False)


def test_good_answers_become_twins_that_the_audit_takes(tmp_path: Path) -> None:
    with server(Writer()) as url:
        found = run(url, tmp_path)
    assert found.dropped == {}
    assert len(found.kept) == 2
    for language in ("zh", "en"):
        items = load_items("evaluation", language, tmp_path)  # type: ignore[arg-type]
        assert len(items) == 4
        assert twin_ids(items) == {item.id for item in items}
    assert audit(tmp_path).faults == ()
    assert found.tokens == 10 * found.paid
    record = json.loads((tmp_path / "build.integrity.evaluation.jsonl").read_text("utf-8").splitlines()[1])
    assert record["outcome"] == "kept"
    assert len(record["readings"]) == 4
    call = json.loads((tmp_path / NAME).read_text("utf-8").splitlines()[0])
    assert {"messages", "seed", "model", "answer"} <= call.keys()


def test_readers_see_a_story_and_its_acts_and_nothing_else(tmp_path: Path) -> None:
    writer = Writer()
    with server(writer) as url:
        run(url, tmp_path, Order("integrity", 4, seed=1))
    readings = [prompt for prompt in writer.prompts if step_of(prompt) == "reading"]
    assert len(readings) == 16
    first = [prompt.partition("Act 1: ")[2][:40] for prompt in readings]
    assert len(set(first)) == 4
    assert not any("town" in prompt or "A clerk" in prompt for prompt in readings)


def test_activation_pairs_have_rationales(tmp_path: Path) -> None:
    with server(Writer()) as url:
        run(url, tmp_path, Order("integrity", 1, "activation"))
    assert all(item.rationale == "他说到做到。" for item in load_items("activation", "zh", tmp_path))


@pytest.mark.parametrize(
    ("step", "answer", "reason"),
    [
        ("setting", "I would rather not.", "setting: the answer is not a JSON object, 3 times"),
        ("acts", '{"acts": ["one。"]}', "acts: 'acts' is not two texts, 3 times"),
        ("acts", '{"acts": ["短。", "也短。"]}', "audit: the zh first act has 2 characters, and should have 12 to 40"),
        ("story", '{"story": "小周。"}', "audit: the zh story has 3 characters, and should have 90 to 180"),
        ("other_language", "{", "other_language: the answer is not a JSON object, 3 times"),
        ("reading", '{"act": 3, "value": "integrity", "second": "justice"}', "reading: 'act' is not 1 or 2, 3 times"),
        ("reading", '{"act": 1, "value": "honour", "second": "justice"}', "blind reading of"),
    ],
)
def test_a_faulty_answer_drops_the_pair_with_the_reason(tmp_path: Path, step: str, answer: str, reason: str) -> None:
    writer = Writer()
    with server(lambda prompt: answer if step_of(prompt) == step else writer(prompt)) as url:
        found = run(url, tmp_path, Order("integrity", 1))
    assert found.kept == ()
    assert [told for told in found.dropped.values() if reason in told]
    assert not (tmp_path / "evaluation.zh.jsonl").exists()


def test_a_second_answer_is_asked_for_where_the_first_is_not_json(tmp_path: Path) -> None:
    writer, seen = Writer(), set()

    def answer(prompt: str) -> str:
        if prompt not in seen:
            seen.add(prompt)
            return "```json {broken"
        return writer(prompt)

    with server(answer) as url:
        assert len(run(url, tmp_path).kept) == 2


def test_a_story_that_is_told_twice_is_dropped(tmp_path: Path) -> None:
    writer = Writer()

    def answer(prompt: str) -> str:
        return writer(prompt.replace("town 2", "town 1") if step_of(prompt) == "story" else prompt)

    with server(answer) as url:
        found = run(url, tmp_path)
    assert found.kept == ("integrity-built-evaluation-0001",)
    assert found.dropped["integrity-built-evaluation-0002"].startswith("audit: ")


def test_busy_and_broken_servers_are_asked_again(tmp_path: Path) -> None:
    writer, count = Writer(), [0]

    def answer(prompt: str) -> Any:
        count[0] += 1
        if count[0] % 3:
            return (429, b"{}") if count[0] % 2 else (503, b"")
        return writer(prompt)

    with server(answer) as url:
        assert len(run(url, tmp_path).kept) == 2
    assert count[0] == 3 * len(writer.prompts)


def test_a_slow_server_is_given_up_in_one_line_and_nothing_is_paid_twice(tmp_path: Path) -> None:
    writer, slow = Writer(), [True]

    def answer(prompt: str) -> str:
        if slow[0] and step_of(prompt) == "other_language":
            time.sleep(1.5)
        return writer(prompt)

    with server(answer) as url:
        with pytest.raises(CVoiceError, match="APITimeoutError.*call again to go on"):
            run(url, tmp_path, retries=0, timeout_s=0.5)
        before = len((tmp_path / NAME).read_text("utf-8").splitlines())
        # An interruption may leave half a line.
        with (tmp_path / NAME).open("a") as file:
            file.write('{"key": "half')
        slow[0] = False
        found = run(url, tmp_path, retries=0, timeout_s=30)
    assert len(found.kept) == 2
    assert before == 4
    again = run("http://127.0.0.1:9/v1", tmp_path)
    assert (again.paid, again.kept, again.tokens) == (0, found.kept, found.tokens)
    # Setting, acts, two stories, the other language and four readings, of two pairs.
    assert found.paid + before == 2 * 9


def test_another_recipe_is_not_mixed_in(tmp_path: Path) -> None:
    with server(Writer()) as url:
        run(url, tmp_path)
        with pytest.raises(CVoiceError, match="is of a build with other settings or prompts"):
            run(url, tmp_path, Order("integrity", 2, seed=1))
    with pytest.raises(CVoiceError, match="APIConnectionError"):
        run("http://127.0.0.1:9/v1", tmp_path / "none", retries=0)
    with pytest.raises(CVoiceError, match="did you mean integrity"):
        run("http://127.0.0.1:9/v1", tmp_path / "none", Order("integrety", 1))


@given(st.text(max_size=60))
def test_any_answer_is_fields_or_a_reason(answer: str) -> None:
    try:
        found = _fields(answer, {"act": int})
    except UnreadError:
        return
    assert found["act"] in (1, 2)


CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def test_the_nonsense_of_a_real_server_is_dropped_with_reasons(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(CHAT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", model, "--host", "127.0.0.1"]
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen([*command, "--port", str(port), "--device", "cpu"], stdout=log, stderr=log)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
                time.sleep(1)
        order = Order("freedom", 2)
        endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", model, max_tokens=16)
        found = build(order, endpoint, tmp_path / "out", progress=False)
    finally:
        process.terminate()
        process.wait(30)
        log.close()
    assert found.kept == ()
    # Whatever it says, and be it the prompt over again, is no item.
    assert len(found.dropped) == 2
    assert all(re.match(r"(audit|blind reading|[a-z_]+): .", reason) for reason in found.dropped.values())
    assert not (tmp_path / "out" / "evaluation.zh.jsonl").exists()
    assert found.tokens > 0
