"""The face of C-voice: the ``cvoice`` command and the plug-in for lm-eval."""
