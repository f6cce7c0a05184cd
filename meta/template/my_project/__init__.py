"""An algorithm, a model, a gradient rule and a data source of your own, for Neo to run."""
