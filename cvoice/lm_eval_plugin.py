"""Makes lm-eval see our model class and tasks.

lm-eval 0.4.13 reads no entry points, so a start-up hook (startup/_cvoice_lm_eval_hook.py) calls the functions here
when lm-eval's modules have been imported. Releases that read entry points find ours, and the hook stands aside.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from cvoice_tasks.yaml import FOLDER

MODEL_NAME = "neuron_masked_hf"
_OURS = "_wrapped_by_cvoice"
MODEL_TARGET = "intervention.neuron_mask_lm:NeuronMaskedHFLM"


def register_model(models: ModuleType) -> None:
    """Registers the model class, by name alone, after ``lm_eval.models``."""
    from lm_eval.api.registry import model_registry

    if MODEL_NAME not in model_registry:
        model_registry.register(MODEL_NAME, target=MODEL_TARGET)


def add_tasks(manager: ModuleType) -> None:
    """Makes every ``TaskManager`` read our folder: after lm-eval's own tasks, before the user's."""
    task_manager: Any = manager.TaskManager
    original = task_manager.__init__
    if hasattr(manager, "discover_plugin_task_paths") or hasattr(original, _OURS):
        return

    @functools.wraps(original)
    def init(self: Any, verbosity: Any = None, include_path: Any = None, *args: Any, **kwargs: Any) -> None:
        theirs = [] if include_path is None else include_path
        theirs = list(theirs) if isinstance(theirs, list | tuple) else [theirs]
        # Listed twice, lm-eval would warn about each of our tasks.
        ours = [] if any(Path(path).resolve() == FOLDER for path in theirs) else [str(FOLDER)]
        original(self, verbosity, [*ours, *theirs], *args, **kwargs)
        self.include_path = include_path

    setattr(init, _OURS, True)
    task_manager.__init__ = init
    logging.getLogger("lm_eval.api.task").addFilter(_about_others)


def _about_others(record: logging.LogRecord) -> bool:
    """Drops lm-eval's hint on ``--metadata``, two lines for each of our tasks; the README says it once."""
    return not (str(record.msg).startswith("cvoice_") and "Custom kwargs can be passed" in str(record.msg))


def report_errors_in_one_line(harness: ModuleType) -> None:
    """Makes lm-eval's command line report a :class:`CVoiceError` as one line with exit code 2."""
    cli: Any = harness.HarnessCLI
    original = cli.execute
    if hasattr(original, _OURS):
        return

    @functools.wraps(original)
    def execute(self: Any, args: Any) -> None:
        try:
            original(self, args)
        except Exception as error:
            from cvoice_foundation.errors import CVoiceError

            ours = next((cause for cause in _causes(error) if isinstance(cause, CVoiceError)), None)
            if ours is None:
                raise
            print(f"lm_eval: error: {ours}", file=sys.stderr)
            sys.exit(2)

    setattr(execute, _OURS, True)
    cli.execute = execute


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it: lm-eval wraps what a task's loading raised."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def run_lm_eval(arguments: list[str]) -> None:
    """Runs lm-eval's own command line, plugged in by hand: for places where the start-up hook does not run.

    Args:
        arguments: What would stand behind ``lm_eval``.
    """
    import lm_eval._cli.harness
    import lm_eval.models
    import lm_eval.tasks.manager
    from lm_eval.__main__ import cli_evaluate

    register_model(lm_eval.models)
    for module, plug_in in ((lm_eval.tasks.manager, add_tasks), (lm_eval._cli.harness, report_errors_in_one_line)):
        plug_in(module)
    sys.argv = ["lm_eval", *arguments]
    cli_evaluate()
