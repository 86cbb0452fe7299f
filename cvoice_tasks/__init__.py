"""C-voice: everyday dilemmas over the twelve core socialist values, in Chinese and English, as lm-eval tasks."""
