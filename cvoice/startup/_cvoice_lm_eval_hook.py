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


def _run(function, module):
    try:
        from cvoice import lm_eval_plugin

        getattr(lm_eval_plugin, function)(module)
    except Exception as error:  # lm-eval must go on, whatever is wrong with us.
        import warnings

        warnings.warn(f"C-voice could not plug itself into {module.__name__}: {error!r}", stacklevel=2)


class _Finder:
    """Lets the other finders find lm-eval's modules, and acts after each of the three has been executed."""

    def __init__(self):
        self._busy = set()

    def find_spec(self, name, path=None, target=None):
        if name not in _AFTER or name in self._busy:
            return None
        self._busy.add(name)
        try:
            spec = None
            for finder in sys.meta_path:
                find = getattr(finder, "find_spec", None)
                spec = find(name, path, target) if find and finder is not self else None
                if spec is not None:
                    break
        finally:
            self._busy.discard(name)
        execute = getattr(getattr(spec, "loader", None), "exec_module", None)
        if execute is not None:

            def exec_module(module):
                execute(module)
                _run(_AFTER[name], module)

            try:
                spec.loader.exec_module = exec_module
            except AttributeError:  # a loader without instance attributes: leave it alone
                pass
        return spec


def install():
    """Installs the finder once; called by the .pth file (import) and, from Python 3.15 on, by the .start file."""
    if os.environ.get("CVOICE_NO_LM_EVAL_HOOK", "") in ("", "0"):
        if not any(type(finder).__name__ == "_Finder" and type(finder).__module__ == __name__ for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())


install()
