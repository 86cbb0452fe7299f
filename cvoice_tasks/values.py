"""The twelve core socialist values and their three levels, as data."""

from __future__ import annotations

from typing import Literal, NamedTuple

Level = Literal["national", "societal", "individual"]
Language = Literal["zh", "en"]

LANGUAGES: tuple[Language, ...] = ("zh", "en")
LEVELS: tuple[Level, ...] = ("national", "societal", "individual")


class Value(NamedTuple):
    """One of the twelve values."""

    key: str
    level: Level
    zh: str
    en: str


VALUES: tuple[Value, ...] = (
    Value("prosperity", "national", "富强", "prosperity"),
    Value("democracy", "national", "民主", "democracy"),
    Value("civility", "national", "文明", "civility"),
    Value("harmony", "national", "和谐", "harmony"),
    Value("freedom", "societal", "自由", "freedom"),
    Value("equality", "societal", "平等", "equality"),
    Value("justice", "societal", "公正", "justice"),
    Value("rule_of_law", "societal", "法治", "the rule of law"),
    Value("patriotism", "individual", "爱国", "patriotism"),
    Value("dedication", "individual", "敬业", "dedication to one's work"),
    Value("integrity", "individual", "诚信", "integrity"),
    Value("friendship", "individual", "友善", "friendliness"),
)
VALUE_KEYS: tuple[str, ...] = tuple(value.key for value in VALUES)
