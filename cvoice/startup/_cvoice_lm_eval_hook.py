"""Runs at every start of Python, so it imports almost nothing and never raises.

It makes a stock lm-eval know C-voice's model class and tasks: it waits for three of lm-eval's modules to be imported
and then calls cvoice.lm_eval_plugin. Off with the environment variable CVOICE_NO_LM_EVAL_HOOK=1.
"""

import os
import sys

_AFTER = {
    "lm_eval.models": "register_model",
    "lm_eval.tasks.manager": "add_tasks",
    "lm_eval._cli.harness": "report_errors_in_one_line",
}


def _run(function: str, module: object) -> None:
    try:
        from cvoice import lm_eval_plugin

        getattr(lm_eval_plugin, function)(module)
    except Exception as error:  # lm-eval must go on, whatever is wrong with us.
        import warnings

        warnings.warn(f"C-voice could not plug itself into lm-eval ({function}): {error!r}", stacklevel=2)


class _Finder:
    """Lets the other finders find lm-eval's modules, and acts after each of the three has been executed."""

    def __init__(self) -> None:
        self._busy: set[str] = set()

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if name not in _AFTER or name in self._busy:
            return None
        self._busy.add(name)
        try:
            others: list[object] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
            finders = [getattr(finder, "find_spec", None) for finder in others]
            specs = (find(name, path, target) for find in finders if find is not None)
            spec = next((spec for spec in specs if spec is not None), None)
        finally:
            self._busy.discard(name)
        loader = getattr(spec, "loader", None)
        execute = getattr(loader, "exec_module", None)
        if execute is not None:

            def exec_module(module: object) -> None:
                execute(module)
                _run(_AFTER[name], module)

            try:
                loader.exec_module = exec_module  # type: ignore[union-attr]
            except AttributeError:  # a loader without instance attributes: leave it alone
                pass
        return spec


def install() -> None:
    """Installs the finder once; called by the .pth file (import) and, from Python 3.15 on, by the .start file."""
    off = os.environ.get("CVOICE_NO_LM_EVAL_HOOK", "") not in ("", "0")
    if not off and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]


install()
