"""The table by which a choice is read out of a free answer: how options are named, chosen, turned down, and refused.

Before the rules run, ``answers`` has rewritten every name of an option to ⟦A⟧ or ⟦B⟧, and made full-width forms narrow,
so commas, colons and brackets are ASCII here; only 。 、 and quotation marks are not.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MARKS = ("⟦A⟧", "⟦B⟧")
_LABEL = r"⟦(?P<label>[AB])⟧"
_ANY_LABEL = r"⟦[AB]⟧"
_OTHER_LABEL = r"⟦(?!(?P=label))[AB]⟧"


class Rule(NamedTuple):
    """One line of the table.

    Attributes:
        strength: Of what the pattern finds; the strongest statement of an answer decides, the last one among equals.
        rejects: Whether the option found is turned down, which speaks for the other one.
        pattern: With the group ``label``.
    """

    strength: int
    rejects: bool
    pattern: re.Pattern[str]


def _any_of(*words: str) -> str:
    return f"(?:{'|'.join(words)})"


def _rule(strength: int, *parts: str, rejects: bool = False) -> Rule:
    return Rule(strength, rejects, re.compile("".join(parts), re.IGNORECASE | re.MULTILINE))


_GAP = r"[\s:,\"'“”‘「」]*"
_OPTION = r"(?:the |my |an? )?(?:option|choice|answer|alternative|act|action|plan|选项|方案)?" + _GAP

_CHOOSE_EN = _any_of(
    *(r"choos(?:e|ing)", "chose", r"pick(?:ing)?", r"select(?:ing)?", r"tak(?:e|ing)", "prefer", "vote for"),
    *(r"opt(?:ing)? for", r"go(?:ing)? (?:with|for)", r"lean(?:ing)? (?:to|towards?)", r"decided? (?:on|for)"),
    *(r"(?:settle|land) (?:on|for)", r"do(?:ing)?", "say", r"(?:stick|stay|side|end up) with", "stand by", "support"),
    *(r"favou?r", "back", "follow"),
)
_CHOOSE_ZH = _any_of(
    *("选择", "选取", "选定?", "選擇", "選", "挑", "采取", "采用", "支持", "赞成", "赞同", "倾向于?", "偏向"),
    *("站", "投", "做", "坚持", "照", "按照?"),
)
_NOT_EN = _any_of(
    *(r"\bnot", "n't", r"\bnever", r"\bcannot", r"\bunable to", r"\brefuse to", r"\brather than", r"\binstead of"),
    *(r"\breject(?:ing)?", r"\brul(?:e|ing) out", r"\bagainst", r"\bover", r"(?<!worse )\bthan", r"\bavoid"),
)
_NOT_ZH = _any_of(
    *(
        "不会",
        "不能",
        "不该",
        "不应该?",
        "不想",
        "不愿意?",
        "不要",
        "不可以?",
        "绝不",
        "决不",
        "不是",
        "而非",
        "而不是",
    ),
    *("没法", "无法", "不再", "别", "不", "与其", "排除", "放弃", "拒绝", "胜过", "优于", "好过", "反对"),
)
_SO_ZH = _any_of(
    *("所以", "因此", "因而", "故", "还是", "不如", "应该?", "必须", "综上", "那就", "只能", "宁可", "宁愿", "果断"),
    *("犹豫", "肯定", "换作是我", "的话"),
)
_SO_EN = _any_of(r"\bso", r"\btherefore", r"\bhence", r"\bthus", r"\bit is", r"\bit's", r"\bit would be", r"\bleaves")
_CHOICE_EN = _any_of("answer", "choice", "pick", "vote", "decision", "selection", r"selected(?: option)?", "choose")
_IS_EN = r"(?: is| would be| seems| feels| looks)"
_BAD_EN = _any_of(
    *(r" (?:not|n't) \w+", " wrong", " worse", " bad", r" (?:a|the) (?:betrayal|mistake|wrong \w+)", " unfair"),
    *(" dishonest", " selfish"),
)
_BAD_ZH = _any_of(
    *("不合适", "不好", "不对", "不行", "不妥", "不可取", "不尊重", "不应该", "不如", "首先排除", "是错的", "是失信"),
    *("其实不", "太自私", "不负责"),
)
_GOOD_EN = _any_of("better", "best", "right", "correct", "only", "kinder", "fairer", "most", "more", "what", "wiser")
_THE_ONE = r"(?:\w+ ){1,3}(?:one|way|thing|choice|course|option|path|act|answer)"
_GOOD_ZH = _any_of(
    *(
        "更[好合尊对能符重负有]",
        "才是",
        "合适",
        "(?:是|最|很)(?:正确|对的|妥当|合理|好的)",
        "是最",
        f"比{_ANY_LABEL}(?![差坏糟])\\w",
    ),
)
_NEAR = r"[^\n.。;,]"

RULES: tuple[Rule, ...] = (
    # Turned down.
    _rule(3, _NOT_EN, _GAP, r"(?:really |ever |to |be )?", _CHOOSE_EN, "?", _GAP, _OPTION, _LABEL, rejects=True),
    _rule(3, _NOT_ZH, _GAP, r"[去再]?", _CHOOSE_ZH, "?", _GAP, _OPTION, _LABEL, rejects=True),
    _rule(2, _LABEL, _NEAR, r"{0,12}?", _IS_EN, "?", _BAD_EN, rejects=True),
    _rule(2, _LABEL, _NEAR, r"{0,6}?", _BAD_ZH, rejects=True),
    # Said to be the final choice.
    _rule(6, r"final (?:answer|choice|decision)", _IS_EN, "?", _GAP, _OPTION, _LABEL),
    _rule(6, r"最[终后]的?(?:答案|选择|决定|我)?(?:是|为|选了?|選)?", _GAP, _LABEL),
    _rule(6, r"\\boxed\{", _LABEL),
    # Said to be the choice.
    _rule(5, r"\b(?:I|I'd|I'll|I'm|we|let's)\b[^\n.;!?]{0,40}?\b", _CHOOSE_EN, _GAP, r"(?:the )?", _OPTION, _LABEL),
    _rule(5, _CHOICE_EN, r"(?: here)?(?: is| would be| goes to)?", _GAP, _OPTION, _LABEL),
    _rule(5, r"我[^\n。;!?]{0,12}?", _CHOOSE_ZH, r"(?:了|的是)?", _GAP, _OPTION, _LABEL),
    _rule(5, _SO_ZH, _GAP, r"我?会?", _CHOOSE_ZH, "?", _GAP, _LABEL),
    _rule(5, r"(?:答案|选择)", _GAP, r"(?:就|应该)?[是为]?", _GAP, _LABEL),
    # Not "choosing B would be understandable, ...".
    _rule(5, r"(?:^|[\n。,;.!])", _GAP, r"(?:本人)?", _CHOOSE_ZH, _GAP, _LABEL, r"(?!没人|也|固然|虽|的人|当然可以)"),
    _rule(5, _SO_EN, _GAP, r"(?:it's )?", _OPTION, _LABEL),
    _rule(5, _LABEL, r" (?:it is|for me)"),
    # Stands first, and does not begin a list of both.
    _rule(
        4,
        r"\A[\s\"'“(\[{【#*]*(?:option |选项)?",
        _LABEL,
        rf"(?![\s\S]*(?:^|[;.。])\s*{_OTHER_LABEL}\s*(?:[:.。)、]|$))",
        r"(?=\s*(?:$|[.。,:;!?、\-—()\])】}]|吧|啊|because\b|since\b))",
    ),
    # Praised, or chosen by an unknown subject.
    _rule(3, _LABEL, _NEAR, r"{0,12}?", _IS_EN, r"(?: the| clearly| simply)? ", _GOOD_EN, r"\b"),
    _rule(3, _LABEL, _NEAR, r"{0,12}?", _IS_EN, r" (?:the|an?) ", _THE_ONE, r"\b"),
    _rule(3, _LABEL, r" makes (?:the most|more) sense\b"),
    _rule(3, _LABEL, _NEAR, r"{0,8}?", _GOOD_ZH),
    _rule(2, r"\b", _CHOOSE_EN, _GAP, _OPTION, _LABEL),
    _rule(2, _CHOOSE_ZH, _GAP, _LABEL),
)

TURNED_DOWN = re.compile(
    rf"{_NOT_EN}|{_NOT_ZH}|\b(?:nobody|no one|hardly|wrong|worse|bad|mistake)\b|没人|谁也|难道|错", re.IGNORECASE
)
"""Any word that may turn an act down."""

WEAKENED = re.compile(
    r"\b(?:if|unless|although|though|while|at first|initially|some(?: people)?|others|many|most people) |"
    r"如果(?!我是|是我,)|要是|假如|倘若|除非|虽然|尽管|起初|一开始|有人|有些人|别人|其他人",
    re.IGNORECASE,
)
"""A concession, somebody else's opinion, or a condition other than standing in the person's place."""

REFUSALS = re.compile(
    r"\b(?:as|I'm|I am) (?:just |only )?an? (?:AI|artificial|(?:large )?language model|assistant)|"
    r"\b(?:can't|cannot|can not|unable to|not able to|won't|will not|must decline|decline to|refuse to)\b|"
    r"(?:\bwould|'d) rather not\b|\b(?:don't feel|not) comfortable\b|"
    r"(?:作为|我是)一?[个名]?(?:人工智能|AI|语言模型|助手)|语言模型|无法|不能|没法|拒绝|不便|不愿意?|抱歉|对不起|不会替",
    re.IGNORECASE,
)

_AND_OR = r"\s*(?:[+/&、或和与跟及]|and|or|nor|vs\.?|versus)\s*"
BOTH = re.compile(rf"⟦A⟧{_AND_OR}⟦B⟧|⟦B⟧{_AND_OR}⟦A⟧", re.IGNORECASE)
"""Named in one breath, which chooses neither."""

_COUNTED = r"\s*(?:个选项|个做法|种做法|种选择|个|種|种|项|条)?"
_NTH = r"(?: (?:option|one|choice|act))?\b"
# A capital A is the English article where a small word follows it that is neither a function word nor a verb in -s.
_NOT_ARTICLE = (
    r"(?!\s+(?!(?:would|because|since|over|rather|and|or|nor|not|it|for|here|instead|to|than|have|versus|but|at|as|every|any|if|with|in|on|by|that|this|all)\b)"
    r"(?![a-z]*(?<![su])s\b)[a-z])"
)
_ALONE = r"(?:(?<=[Oo]ption )|(?<=[Aa]nswer: )|(?<=\()|\A\s*)"
_CLOSED = r"(?=\s*(?:[).,;:]|\Z))"

NAMES: tuple[tuple[int, re.Pattern[str]], ...] = (
    *(
        (place, re.compile(pattern, re.IGNORECASE))
        for place, pattern in (
            (0, rf"(?:选项|選項|方案|第)\s*[一1甲]{_COUNTED}"),
            (1, rf"(?:选项|選項|方案|第)\s*[二2乙]{_COUNTED}"),
            (0, rf"前者|前一[种个]|\bthe former\b|\bthe first{_NTH}|\b(?:option|choice) (?:1|one)\b"),
            (1, rf"后者|后一[种个]|\bthe latter\b|\bthe second{_NTH}|\b(?:option|choice) (?:2|two)\b"),
            (0, r"甲(?![方级板])|\A\s*1\s*[.。]?\s*\Z"),
            (1, r"乙(?![方级])|\A\s*2\s*[.。]?\s*\Z"),
        )
    ),
    (0, re.compile(rf"(?<![A-Za-z0-9⟦'])A(?![A-Za-z0-9⟧']){_NOT_ARTICLE}(?:选项|方案|做法|项)?")),
    (1, re.compile(r"(?<![A-Za-z0-9⟦'])B(?![A-Za-z0-9⟧'])(?:选项|方案|做法|项)?")),
    # Small letters only where nothing but an option can stand.
    (0, re.compile(rf"{_ALONE}a{_CLOSED}")),
    (1, re.compile(rf"{_ALONE}b{_CLOSED}")),
)
"""Place of the option (0 or 1), and how it can be named; rewritten in this order."""

_TAGS = "think|thinking|thought|reasoning|reflection"
THINKING: tuple[re.Pattern[str], ...] = (
    # Some chat templates open the tag in the prompt, so that only its end is in the answer.
    re.compile(rf"\A.*</(?:{_TAGS})>", re.DOTALL | re.IGNORECASE),
    re.compile(rf"<(?:{_TAGS})>.*\Z", re.DOTALL | re.IGNORECASE),
)

NEXT_QUESTION = re.compile(r"^\s*A[.:)、][^\n]+\n\s*B[.:)、][^\n]+\n(?:[^\n]*\n)?\s*(?:Answer|答案)\s*:", re.MULTILINE)
"""Two options and a cue for an answer: base models go on with a question of their own."""
