"""The lm-eval tasks as YAML; ``python -m cvoice_tasks.yaml.generate`` writes the leaves and groups."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
"""The folder of the task YAMLs, as ``--include_path`` takes it."""
