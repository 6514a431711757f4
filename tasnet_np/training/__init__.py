"""A training run: recipe, optimisers, trainer, the run's folder, evaluation."""
