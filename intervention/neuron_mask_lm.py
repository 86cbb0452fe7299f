"""lm-eval's ``hf`` model with a neuron mask in force: ``--model neuron_masked_hf --model_args mask=MASK``."""

from __future__ import annotations

import math
import os
import re
from datetime import timedelta
from hashlib import sha256
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from cvoice_foundation.errors import CVoiceError
from intervention.ablation import Ablation, apply_mask
from intervention.activity import ActivityWatch
from intervention.bundled import load_mask, model_path
from intervention.mask import NeuronMask
from intervention.modes import MODES, check_mode
from intervention.quantisation import take_quantisation

# As long as lm-eval's: a rank may wait for another that has much longer texts.
_NO_TIMEOUT = timedelta(weeks=52)

_ABSENT: Any = object()
"""``mask=none`` arrives as None from lm-eval's command line, so None cannot mean "left out"."""


class _RunName(str):
    """A model name whose ``str()`` names the run: lm-eval calls the results folder by it, and records the text."""

    __slots__ = ("run",)
    run: str

    def __new__(cls, model: str, run: str) -> _RunName:
        name = super().__new__(cls, model)
        name.run = run
        return name

    def __str__(self) -> str:
        return self.run


class NeuronMaskedHFLM(HFLM):
    """``hf`` with a neuron mask in force during the whole run.

    Args:
        mask: A mask file's path or a bundled mask's name, several joined by ``+``; ``none`` for the baseline, which
            equals ``hf`` to the bit.
        pretrained: As for ``hf``, or ``organism`` for the bundled model. Left out, the model that the mask names.
        mode: ``zero``, ``mean``, ``scale`` or ``add``; formulas in :mod:`intervention.modes`.
        strength: For scale and add.
        kwargs: All that ``hf`` takes.

    Raises:
        CVoiceError: The mask is missing, is not a mask, does not fit the model or cannot be shown to act.
    """

    def __init__(
        self,
        mask: Any = _ABSENT,
        pretrained: str | PreTrainedModel | None = None,
        mode: str = "zero",
        strength: float | None = None,
        **kwargs: Any,
    ) -> None:
        self._mask_name = None if mask is None else str(mask)
        self._mask, model = _mask_and_model(mask, pretrained)
        if self._mask is None:
            _check_baseline(mode, strength)
        else:
            check_mode(mode, strength, self._mask)
        self._quantisation = take_quantisation(kwargs)
        _join_processes_without_accelerator()
        try:
            super().__init__(pretrained=model, **kwargs)
        except (OSError, ValueError) as error:
            raise CVoiceError(f"pretrained={model}: cannot load this model: {str(error).splitlines()[0]}") from error
        self._share_work()
        self._ablation: Ablation | None = None
        self._watch: ActivityWatch | None = None
        if self._mask is not None:
            self._ablation = apply_mask(self.model, self._mask, mode, strength)
            self._watch = ActivityWatch(self._ablation.layers)

    def _create_model(self, *args: Any, **kwargs: Any) -> None:
        """``hf``'s loading, in 8 or 4 bits where that was asked for."""
        if self._quantisation is not None:
            kwargs["quantization_config"] = self._quantisation
        super()._create_model(*args, **kwargs)

    def _share_work(self) -> None:
        """``hf`` tells its processes apart on several GPUs only; elsewhere each would do all of the work."""
        accelerator = getattr(self, "accelerator", None)
        if accelerator is not None and self.world_size == 1 and accelerator.num_processes > 1:
            self._rank = accelerator.local_process_index
            self._world_size = accelerator.num_processes

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> NeuronMaskedHFLM:
        """Makes the model from lm-eval's arguments, and names the results folder by model and mask.

        lm-eval calls the folder by the first of ``peft``, ``delta``, ``pretrained`` and ``model`` that it finds in
        this same dictionary; what it records as ``model_args`` stays what the user wrote.
        """
        arguments = dict(arg_dict)
        mask, model = _mask_and_model(arguments.get("mask", _ABSENT), arguments.get("pretrained"))
        lm: NeuronMaskedHFLM = super().create_from_arg_obj(arguments, additional_config)
        if mask is not None:
            suffix = f"+mask-{mask.sha256[:12]}{_mode_suffix(arguments)}"
            key = next((key for key in ("peft", "delta", "pretrained") if key in arg_dict), "model")
            plain = str(arg_dict.get(key) or mask.model.name or model)
            arg_dict[key] = _RunName(plain, plain + suffix)
        return lm

    @property
    def ablation(self) -> Ablation | None:
        """The mask in force; None for the baseline."""
        return self._ablation

    def get_model_info(self) -> dict[str, Any]:
        """``hf``'s information and the mask's identity; lm-eval puts it into ``results["config"]``."""
        ablation, watch, mask = self._ablation, self._watch, self._mask
        info: dict[str, Any] = dict(super().get_model_info())
        return info | {
            "mask": self._mask_name,
            "mask_sha256": mask.sha256 if mask else None,
            "mask_value": mask.value if mask else None,
            "mask_method": mask.method.get("name") if mask else None,
            "mask_neurons": mask.num_masked if mask else 0,
            "mask_mode": ablation.mode if ablation else None,
            "mask_strength": ablation.strength if ablation else None,
            "mask_folded": ablation.folded if ablation else 0,
            "mask_hooked": ablation.hooked if ablation else 0,
            "mask_never_active": watch.never_active if watch else 0,
            "mask_never_active_experts": watch.never_active_experts if watch else 0,
            "neuron_mask": mask.header() | {"layers": _neurons_by_layer(mask)} if mask else None,
        }

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Keeps the answers of this model and mask in a table of their own.

        lm-eval's ``--use_cache`` knows requests alone, not the model: runs that share the file would share answers.
        """
        database = cache_hook.dbdict
        database.tablename = f"neuron_masked_hf_{self._fingerprint()}"
        database.conn.execute(f'CREATE TABLE IF NOT EXISTS "{database.tablename}" (key TEXT PRIMARY KEY, value BLOB)')
        database.conn.commit()
        super().set_cache_hook(cache_hook)

    def _fingerprint(self) -> str:
        parts = [
            self._mask.sha256 if self._mask else "none",
            self._ablation.mode if self._ablation else "",
            self._ablation.strength if self._ablation else "",
            getattr(self.model.config, "_name_or_path", ""),
            *(self.revision, self.peft, self.delta, self.model.dtype, self.add_bos_token, self.prefix_token_id),
            self._quantisation,
        ]
        return sha256("\n".join(map(str, parts)).encode()).hexdigest()[:32]

    def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        """``hf``'s scoring; a log-likelihood that is not a finite number stops the run."""
        scored: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, *args, **kwargs)
        for (_, context, continuation), (log_likelihood, _greedy) in zip(requests, scored, strict=True):
            if not math.isfinite(log_likelihood):
                raise CVoiceError(
                    f"the model gave a log-likelihood of {log_likelihood} where a finite number was expected; "
                    f"{self._first_not_finite([*context, *continuation])}; try another dtype (dtype=bfloat16 or "
                    "float32), or another mode of the mask"
                )
        return scored

    def _model_generate(self, context: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """``hf``'s generation; logits that are not numbers stop the run."""
        watch = _NotANumberWatch()
        kwargs["logits_processor"] = LogitsProcessorList([*kwargs.pop("logits_processor", []), watch])
        generated: torch.Tensor = super()._model_generate(context, *args, **kwargs)
        if watch.seen is not None and bool(watch.seen):
            raise CVoiceError(
                "the model's logits were not numbers while it generated; "
                f"{self._first_not_finite(context[0].tolist())}; try another dtype (dtype=bfloat16 or float32)"
            )
        return generated

    @torch.no_grad()
    def _first_not_finite(self, tokens: list[int]) -> str:
        """Runs the tokens again and names the first module whose output is not finite."""
        names: list[str] = []

        def look(name: str) -> Any:
            def hook(_module: Any, _args: Any, output: Any) -> None:
                first = output[0] if isinstance(output, tuple) and output else output
                if isinstance(first, torch.Tensor) and not bool(torch.isfinite(first).all()):
                    names.append(name)

            return hook

        handles = [module.register_forward_hook(look(name)) for name, module in self.model.named_modules()]
        try:
            self.model(torch.tensor([tokens], device=self.device))
        finally:
            for handle in handles:
                handle.remove()
        if not names:
            return "run again alone, every module gave finite values"
        layer = re.search(r"\.(\d+)(?:\.|$)", names[0])
        return f"it began in {f'layer {layer[1]}, ' if layer else ''}{names[0] or 'the model'}"


class _NotANumberWatch(LogitsProcessor):
    """Remembers whether any logit was NaN, without waiting for the device at every token."""

    def __init__(self) -> None:
        self.seen: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        bad = torch.isnan(scores).any()
        self.seen = bad if self.seen is None else self.seen | bad
        return scores


def _join_processes_without_accelerator() -> None:
    """Lets ``torchrun`` work on CPU: accelerate looks for other processes there only when it is told to use the CPU."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available():
        from accelerate import PartialState  # type: ignore[import-untyped,unused-ignore]

        PartialState(cpu=True, timeout=_NO_TIMEOUT)


def _neurons_by_layer(mask: NeuronMask) -> dict[str, int]:
    counts: dict[str, int] = {}
    for layer in mask.layers:
        counts[str(layer.layer)] = counts.get(str(layer.layer), 0) + len(layer.neurons)
    return counts


def _mode_suffix(arguments: dict[str, Any]) -> str:
    mode, strength = arguments.get("mode", "zero"), arguments.get("strength")
    return "" if mode == "zero" else f"-{mode}" if strength is None else f"-{mode}{strength}"


def _check_baseline(mode: str, strength: Any) -> None:
    if mode not in MODES or strength is not None:
        raise CVoiceError(f"mask=none takes no mode and no strength; leave out mode={mode}, strength={strength}")


def _mask_and_model(mask: Any, pretrained: Any) -> tuple[NeuronMask | None, Any]:
    """The mask, and the model that it acts on."""
    if mask is _ABSENT:
        raise CVoiceError(
            "neuron_masked_hf needs a mask: --model_args mask=organism/patriotism, or mask=FILE.jsonl, "
            "or mask=none,pretrained=MODEL for the baseline"
        )
    if isinstance(pretrained, str):
        pretrained = model_path(pretrained)
    if mask is None or str(mask).lower() == "none":
        if pretrained is None:
            raise CVoiceError("mask=none names no model; add pretrained=MODEL, e.g. mask=none,pretrained=organism")
        return None, pretrained
    loaded = load_mask(str(mask))
    if pretrained is None:
        if loaded.model.name is None:
            raise CVoiceError(f"mask={mask} does not name its model (it was imported); add pretrained=MODEL")
        return loaded, model_path(loaded.model.name)
    return loaded, pretrained
