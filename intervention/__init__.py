"""Neurons and masks: where a model keeps its neurons, and switching some of them off."""
