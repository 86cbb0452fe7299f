"""Which neurons of a model carry a value: activation statistics, and masks selected from them."""
