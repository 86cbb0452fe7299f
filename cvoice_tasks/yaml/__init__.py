"""The lm-eval tasks as YAML; ``python -m cvoice_tasks.yaml.generate`` writes the leaves and groups."""
