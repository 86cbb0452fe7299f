"""--num_fewshot, --apply_chat_template, --system_instruction, --fewshot_as_multiturn, --limit and --log_samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval.models.huggingface import HFLM

from cvoice_tasks.items import Item
from cvoice_tasks.prompts import cloze_document, letter_document, likert_document, recognition_document
from cvoice_tasks.values import Language
from tests.items_for_tests import fewshot_files, items_folder, twin_lines
from tests.lm_eval_runs import evaluate, save_tiny_model
from tests.rule_models import AlwaysA

# The pairs and twins that the first shots take: one value of each level in turn, twins a a b b, letters A B B A.
ORDER = (("prosperity", "a", 0), ("freedom", "a", 1), ("patriotism", "b", 1), ("democracy", "b", 0))
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fewshot_files(items_folder(tmp_path_factory.mktemp("items"), pairs=1))


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> HFLM:
    path = save_tiny_model(tmp_path_factory.mktemp("model"))
    lm = HFLM(pretrained=path, device="cpu", batch_size=4)
    lm.tokenizer.chat_template = CHAT
    return lm


def samples(model: Any, task: str, folder: Path, **arguments: Any) -> list[dict[str, Any]]:
    return list(evaluate(model, [task], metadata={"data_dir": str(folder)}, **arguments)["samples"][task])


def shot_items(count: int, language: Language = "en") -> list[tuple[Item, int]]:
    lines = {line["id"]: line for value, *_ in ORDER for line in twin_lines(value, 1, language, 2001)}
    return [(Item(**lines[f"{value}-2001{twin}"]), gold) for value, twin, gold in ORDER[:count]]


def letters_text(document: dict[str, Any], cue: str = "Answer with one letter only.\nAnswer:") -> str:
    options = f"A. {document['option_a']}\nB. {document['option_b']}"
    return f"{document['story']}\n\n{document['ask']}\n{options}\n{cue}"


def text_and_answer(prefix: str, item: Item, gold: int) -> tuple[str, str]:
    """Prompt and answer of one English example of each reading."""
    if prefix in ("cvoice", "cvoice_recog"):
        make = letter_document if prefix == "cvoice" else recognition_document
        return letters_text(make(item, "en", gold)), "AB"[gold]
    if prefix == "cvoice_gen":
        text = letters_text(letter_document(item, "en", gold), "Choose A or B, and say why in one sentence.\nAnswer:")
        return text, f"{'AB'[gold]}. {item.aligned}"
    if prefix == "cvoice_cloze":
        document = cloze_document(item, "en", gold)
        return f"{document['story']}\n\n{document['ask']}\nAnswer:", item.aligned
    document = likert_document(item, "en", gold)
    scale = "0: not at all, 1: a little, 2: somewhat, 3: a lot, 4: exactly.\nAnswer with one digit only.\nAnswer:"
    text = f"{document['story']}\n\n{document['ask']}\nOne possible act: {document['act']}\n"
    return f"{text}How much is this like what you would do? {scale}", "40"[gold]


def asked(prefix: str) -> str:
    """The first question of the task ``justice``."""
    return text_and_answer(prefix, Item(**twin_lines("justice", 1, "en")[0]), 0)[0]


@pytest.mark.parametrize("prefix", ["cvoice", "cvoice_cloze", "cvoice_gen", "cvoice_recog", "cvoice_likert"])
@pytest.mark.parametrize("shots", [1, 4])
def test_shots_stand_before_the_question(prefix: str, shots: int, folder: Path) -> None:
    got = samples(AlwaysA(), f"{prefix}_en_justice", folder, num_fewshot=shots)
    examples = [text_and_answer(prefix, item, gold) for item, gold in shot_items(shots)]
    before = "".join(f"{text} {answer}\n\n" for text, answer in examples)
    assert got[0]["arguments"][0][0] == before + asked(prefix)
    assert all(sample["arguments"][0][0].startswith(before) for sample in got), "the same shots for every question"


def test_chinese_shots(folder: Path) -> None:
    got = samples(AlwaysA(), "cvoice_zh_justice", folder, num_fewshot=2)
    answers = [part.rpartition("答案：")[2] for part in got[0]["arguments"][0][0].split("\n\n第")[:2]]
    assert answers == [" A", " B"]


@pytest.mark.parametrize("shots", range(1, 9))
def test_one_to_eight_shots(shots: int, folder: Path) -> None:
    first, again = (
        samples(AlwaysA(), "cvoice_en_justice", folder, num_fewshot=shots, limit=2, fewshot_random_seed=seed)
        for seed in (1, 2)
    )
    assert [sample["arguments"] for sample in first] == [sample["arguments"] for sample in again]
    assert first[0]["arguments"][0][0].count("Answer:") == shots + 1


def test_more_shots_than_there_are_are_refused(folder: Path) -> None:
    with pytest.raises(AssertionError, match="exceeds the 24 that are available"):
        samples(AlwaysA(), "cvoice_en_justice", folder, num_fewshot=25)


def test_the_chat_template_alone(chat_model: HFLM, folder: Path) -> None:
    got = samples(chat_model, "cvoice_en_justice", folder, apply_chat_template=True, limit=1)[0]
    prompt = f"<user>{asked('cvoice')}</user>\n<assistant>\n"
    assert got["arguments"] == [(prompt, "A"), (prompt, "B")], "the template, not a space, parts prompt and answer"


def test_shots_as_turns_of_a_conversation(chat_model: HFLM, folder: Path) -> None:
    got = samples(
        chat_model,
        "cvoice_en_justice",
        folder,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        num_fewshot=2,
        system_instruction="Be brief.",
        limit=1,
    )[0]
    examples = [text_and_answer("cvoice", item, gold) for item, gold in shot_items(2)]
    turns = "".join(f"<user>{text}</user>\n<assistant>{answer}</assistant>\n" for text, answer in examples)
    last = f"<user>{asked('cvoice')}</user>\n<assistant>\n"
    assert got["arguments"][0][0] == f"<system>Be brief.</system>\n{turns}{last}"


def test_shots_in_one_turn(chat_model: HFLM, folder: Path) -> None:
    got = samples(
        chat_model,
        "cvoice_en_justice",
        folder,
        apply_chat_template=True,
        fewshot_as_multiturn=False,
        num_fewshot=2,
        limit=1,
    )[0]
    examples = [text_and_answer("cvoice", item, gold) for item, gold in shot_items(2)]
    before = "".join(f"{text} {answer}\n\n" for text, answer in examples)
    assert got["arguments"][0][0] == f"<user>{before}{asked('cvoice')}</user>\n<assistant>\n"


def test_a_generated_chat_answer(chat_model: HFLM, folder: Path) -> None:
    got = samples(
        chat_model, "cvoice_gen_en_justice", folder, apply_chat_template=True, limit=1, gen_kwargs="max_gen_toks=4"
    )[0]
    prompt, settings = got["arguments"][0]
    assert prompt == f"<user>{asked('cvoice_gen')}</user>\n<assistant>\n"
    assert settings["max_gen_toks"] == 4
    assert isinstance(got["resps"][0][0], str)


def test_a_system_instruction_without_a_template_stands_first(folder: Path) -> None:
    got = samples(AlwaysA(), "cvoice_en_justice", folder, system_instruction="Be brief.\n\n", limit=1)[0]
    assert got["arguments"][0][0] == "Be brief.\n\n" + asked("cvoice")


@pytest.mark.parametrize("prefix", ["cvoice", "cvoice_cloze", "cvoice_gen", "cvoice_recog", "cvoice_likert"])
def test_limit_and_samples(prefix: str, folder: Path) -> None:
    got = samples(AlwaysA(), f"{prefix}_en_justice", folder, limit=2)
    assert [sample["doc_id"] for sample in got] == [0, 1]
    assert got[0]["doc"]["id"] == "justice-0001a"
    assert got[0]["filter"] == "none"
    assert {"acc", "acc_stderr", "margin", "twin_acc"} <= set(got[0]["metrics"])
    if prefix == "cvoice_gen":
        assert (got[0]["resps"], got[0]["filtered_resps"], got[0]["acc"]) == ([["A"]], ["A"], 1.0)
    else:
        assert all(greedy is False for _, greedy in got[0]["filtered_resps"])
