"""Loading a model in 8 or 4 bits by lm-eval's arguments.

transformers 5 takes a configuration object only, and lm-eval 0.4.13 still hands over ``load_in_8bit=True`` as it is,
which is a TypeError. The arguments are taken out and made into that object.
"""

from __future__ import annotations

from typing import Any

from cvoice_foundation.errors import CVoiceError

_SWITCHES = ("load_in_8bit", "load_in_4bit")
_PREFIXES = ("bnb_4bit_", "llm_int8_")


def take_quantisation(arguments: dict[str, Any]) -> Any:
    """Takes the quantisation out of a model's arguments.

    Args:
        arguments: As given to ``hf``: ``load_in_8bit``, ``load_in_4bit``, ``bnb_4bit_*``, ``llm_int8_*``, or a
            ``quantization_config`` as a mapping. What is taken is removed.

    Returns:
        A configuration for ``from_pretrained``, or None.

    Raises:
        CVoiceError: bitsandbytes is not installed, or the arguments contradict each other.
    """
    given = arguments.pop("quantization_config", None)
    names = [name for name in arguments if name in _SWITCHES or name.startswith(_PREFIXES)]
    settings = {name: arguments.pop(name) for name in names}
    if given is not None:
        if settings:
            raise CVoiceError(f"give quantization_config or {', '.join(settings)}, not both")
        if not isinstance(given, dict):
            return given
        from transformers.quantizers import AutoQuantizationConfig

        return AutoQuantizationConfig.from_dict(given)
    if not any(settings.get(name) for name in _SWITCHES):
        if any(name not in _SWITCHES for name in settings):
            raise CVoiceError(f"{', '.join(settings)} without load_in_8bit=True or load_in_4bit=True has no effect")
        return None
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise CVoiceError(f"{next(iter(settings))}=True needs bitsandbytes: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    try:
        return BitsAndBytesConfig(**settings)
    except (TypeError, ValueError) as error:
        raise CVoiceError(f"{settings}: {error}") from error
